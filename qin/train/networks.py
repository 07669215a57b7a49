"""The form of the network that suits the log, in as many copies as there are seeds, whose logits are averaged.

No form of the attention is best on every log: where its scores are learned, attending wins (MovieLens, the sample log),
where they are not, a pooled history does (KuaiRand). So each form that the settings list is trained, and the selection
half of the validation fold, which also decides when each stops, decides between them. The report half decides nothing,
so its figures are not flattered by the choice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import NetworkParams, Params
from qin.distributed.ranks import ONE, Ranks
from qin.model.artifact import TrainedModel
from qin.model.build import choose_device, resolve_preset
from qin.model.scoring import mean_logit
from qin.runtime.logs import log
from qin.scored.rows import ScoredRows
from qin.shards.files import RowReader
from qin.shards.folds import TRAIN, FoldRule, Folds
from qin.train.build import check_passes
from qin.train.fit import Trained, fit_model, refit_model
from qin.train.memory import check_memory, memory_bytes
from qin.train.pace import choose_num_networks
from qin.train.warm_start import Earlier
from qin.train.watch import SILENT, Watch

_SEEDS = 2**63  # that there are
_OF_A_FORM = ("val_log_loss", "val_auc", "val_ap", "best_epoch", "num_checks")


@dataclass(frozen=True)
class FittedNetworks:
    """What training has come to.

    Attributes:
        params: The settings with the chosen form in place and without alternatives.
        runs: The chosen form's networks, one for each seed.
        others: The other forms' runs, in the settings' order.
        form: Number of the chosen form: 0 is the settings' own, the alternatives follow.
        names: Of every form: what differs from the settings' own.
    """

    params: Params
    runs: list[Trained]
    others: list[Trained]
    form: int
    names: list[str]

    def remove_checkpoints(self) -> None:
        """Once the outputs are written."""
        for run in (*self.runs, *self.others):
            run.checkpoints.remove()

    @property
    def num_rows_seen(self) -> int:
        """Rows trained on, over all runs."""
        return sum(run.num_rows_seen for run in (*self.runs, *self.others))

    def to_json(self) -> dict[str, Any]:
        """The figures of the first network; beside it those of other seeds, and the checks of every form."""
        figures = figures_of(self.runs)
        if not self.others:
            return figures
        forms = [run.figures for run in self.others]
        # Back in its place, by which forms have their names.
        forms.insert(self.form, self.runs[0].figures)
        tried = [
            {"form": name, "is_kept": number == self.form, **{key: one[key] for key in _OF_A_FORM}}
            for number, (name, one) in enumerate(zip(self.names, forms, strict=True))
        ]
        return {**figures, "forms": tried}


def fit_models(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    is_report: npt.NDArray[np.bool_],
    checkpoints: Path,
    watch: Watch,
    ranks: Ranks = ONE,
    earlier: Earlier | None = None,
) -> tuple[FittedNetworks, ScoredRows]:
    """Fit every form of the network, and the best one with each further seed; see `fit_model`.

    1. Check that each form can be trained here.
    2. Train each with `train.seed`; each stops where the selection half is best for it.
    3. Keep the one with the smallest log loss there, the first of equal ones.
    4. Train that one with the seeds that follow, as many as `model.seeds` or the number of rows says.

    Each run is what it would be alone: a run with its form and seed gives the same network, and goes on from the same
    checkpoint.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file.
        fold: Fold of each row.
        is_report: Rows of the report half, `(num_rows,)`.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of the first form's steps and checks, and at the end of the chosen one's checks.
        ranks: The processes that train each of them together.
        earlier: A model whose networks they go on from, in its form alone.

    Returns:
        The runs, and the mean of the chosen ones' logits of the whole validation fold.

    Raises:
        ConfigError: If a form does not fit into memory, or cannot be trained as section hnm wants.
    """
    num_networks = count_networks(params, fold, earlier)
    forms, names = forms_of(with_count(params, num_networks), None if earlier is None else [earlier.form])
    for form in forms:
        check_network(form, reader.schema, ranks)

    def fit(form: Params, seed: int, watch: Watch) -> tuple[Trained, ScoredRows]:
        return fit_model(
            with_seed(form, seed),
            reader,
            fold,
            is_report=is_report,
            checkpoints=checkpoints,
            watch=watch,
            ranks=ranks,
            start=None if earlier is None else earlier.start(seed, is_heldout=True),
        )

    tried = []
    for number, form in enumerate(forms):
        if len(forms) > 1:
            log.info("form %d of the network: %s", number, names[number])
        tried.append(fit(form, 0, SILENT if number else watch))
    losses = [run.figures["val_log_loss"] for run, _ in tried]
    chosen = losses.index(min(losses))
    first = tried.pop(chosen)
    if tried:
        shown = ", ".join(f"{loss:.5f}" for loss in losses)
        log.info("form %d is kept: log loss of the selection half %s", chosen, shown)
    # Its curve takes the place of the first form's, which was told all along.
    if chosen:
        watch.on_check(first[0].result.history)
    runs = [first, *(fit(forms[chosen], seed, SILENT) for seed in range(1, num_networks))]
    fitted = FittedNetworks(forms[chosen], [run for run, _ in runs], [run for run, _ in tried], chosen, names)
    return fitted, replace(first[1], logit=mean_logit([rows.logit for _, rows in runs]))


def refit_models(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    heldout: Sequence[Trained],
    checkpoints: Path,
    watch: Watch = SILENT,
    ranks: Ranks = ONE,
    earlier: Earlier | None = None,
) -> list[Trained]:
    """Train each network anew on every row, for as many passes as its own held-out run chose; see `refit_model`.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file, its statistics fitted on every row of both folds.
        fold: Fold of each row.
        heldout: The held-out runs.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of the first network's steps.
        ranks: The processes that train each of them together.
        earlier: A model whose networks they go on from.
    """
    return [
        refit_model(
            with_seed(params, number),
            reader,
            fold,
            heldout=run,
            checkpoints=checkpoints,
            watch=SILENT if number else watch,
            ranks=ranks,
            start=None if earlier is None else earlier.start(number, is_heldout=False),
        )
        for number, run in enumerate(heldout)
    ]


def count_networks(params: Params, fold: Folds, earlier: Earlier | None = None) -> int:
    """How many networks there are of the kept form.

    Args:
        params: Section model.
        fold: Fold of each row.
        earlier: A model whose networks they go on from: as many as it has, where their number is not set.
    """
    if params.model.seeds == "auto" and earlier is not None:
        return earlier.num_networks
    num_rows = int(np.count_nonzero(fold == TRAIN))
    num_networks = choose_num_networks(params.model.seeds, num_rows=num_rows)
    if params.model.seeds == "auto" and num_networks > 1:
        log.info("model.seeds auto: the mean of %d networks, for %d rows", num_networks, num_rows)
    return num_networks


def with_count(params: Params, num_networks: int) -> Params:
    """The settings with that number of networks, so that each run knows whether another one follows."""
    return params.model_copy(update={"model": params.model.model_copy(update={"seeds": num_networks})})


def check_network(params: Params, schema: Schema, ranks: Ranks) -> None:
    """Refuse a network that cannot be trained here before any is.

    Args:
        params: Sections model, hnm, train.
        schema: The columns that it reads.
        ranks: The processes that share this machine's memory.

    Raises:
        ConfigError: If its weights do not fit into memory, or its rows depend on each other where they must not.
    """
    available = memory_bytes(choose_device(params.train), num_processes=ranks.num_neighbours)
    num_parts = ranks.world if params.train.shard_tables else 1
    check_memory(schema, params.model.network, available_bytes=available, num_parts=num_parts)
    check_passes(params.hnm, norm=resolve_preset(params.model.network).norm)


def forms_of(params: Params, wanted: Sequence[NetworkParams] | None = None) -> tuple[list[Params], list[str]]:
    """The settings of each form as if it were the only one, and what to call it.

    Args:
        params: Section model.
        wanted: The forms; None for all that the settings list.
    """
    forms = [_with_form(params, form) for form in wanted or params.model.forms]
    return forms, ["as set", *map(_described, params.model.alternatives)][: len(forms)]


def _with_form(params: Params, form: NetworkParams) -> Params:
    """The settings as if a form were the only one, with which a run of such settings alone shares its checkpoint."""
    model = params.model.model_copy(update={**form.model_dump(), "alternatives": []})
    return params.model_copy(update={"model": model})


def _described(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in changes.items())


def with_seed(params: Params, number: int) -> Params:
    """The settings of a network, the first being 0."""
    if number == 0:
        return params
    train = params.train.model_copy(update={"seed": (params.train.seed + number) % _SEEDS})
    return params.model_copy(update={"train": train})


def as_model(runs: Sequence[Trained], params: Params, schema: Schema, rule: FoldRule | None = None) -> TrainedModel:
    """The networks of some runs as one model, with the provenance of the first, and beside it that of the others.

    Args:
        runs: The runs.
        params: Section model.
        schema: The columns they were trained on.
        rule: How their rows were chosen, for a run that goes on from them.
    """
    others = {"other_seeds": [run.provenance for run in runs[1:]]} if len(runs) > 1 else {}
    networks = tuple(run.network for run in runs)
    optimizers = tuple(run.optimizer for run in runs if run.optimizer is not None)
    folds = {} if rule is None else {"folds": asdict(rule)}
    provenance = {**runs[0].provenance, **others, **folds}
    return TrainedModel(networks, schema, params.model.network, provenance, optimizers)


def figures_of(runs: Sequence[Trained]) -> dict[str, Any]:
    """The figures of the first run, and beside them those of the others."""
    others = {"other_seeds": [run.figures for run in runs[1:]]} if len(runs) > 1 else {}
    return {**runs[0].figures, **others}
