"""Training from prepared files: the held-out run that is judged, and the one on every row that is deployed."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qin.config import Params, TrainParams
from qin.distributed.ranks import ONE, Ranks
from qin.metrics.logits import prior_logit, sigmoid
from qin.model.build import build_model, choose_bf16, choose_device, place, unfitted
from qin.network.qin import QIN
from qin.runtime.files import fingerprint
from qin.runtime.provenance import code_fingerprint, library_versions
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.files import RowReader, read_labels
from qin.shards.folds import TRAIN, VALIDATION, Folds
from qin.train.build import build_hard_negatives, build_loader, build_optimizer
from qin.train.checkpoint import CheckpointStore
from qin.train.divided import DividedTables, count_parameters, take_over
from qin.train.forms import EAGER, choose_form
from qin.train.imbalance import TrainingRows, num_drawn_rows, training_prior
from qin.train.inputs import fit_inputs
from qin.train.loop import Budget, LoopResult, TrainingLoop, ValidationScores
from qin.train.optimizer_state import optimizer_state
from qin.train.pace import Pace, choose_pace
from qin.train.processes import check_same_run
from qin.train.validation import SelectionHalf, deciding_rows, score_rows
from qin.train.warm_start import Start
from qin.train.watch import SILENT, Watch

# Settings of section train that do not change a run, or of which `computed_by` tells.
_HARMLESS = (
    *("checkpoint_seconds", "checkpoint_steps", "refit", "keep_optimizer"),
    *("init_from", "init_optimizer"),  # of which `start` tells by content
    *("num_processes", "launcher", "max_restarts", "elastic"),
)


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Attributes:
        network: With the best check's weights, or of a refit the last.
        provenance: Where it comes from.
        prior: What it was trained on.
        pace: Batch size and rate.
        result: Of the loop.
        checkpoints: The run's own; whoever has written the outputs removes them.
        num_rows_seen: Rows trained on, over all epochs.
        figures: JSON values for `metrics/train.json`.
        optimizer: Its state where it is to be kept; see `optimizer_state`.
    """

    network: QIN
    provenance: dict[str, Any]
    prior: TrainingPrior
    pace: Pace
    result: LoopResult
    checkpoints: CheckpointStore
    num_rows_seen: int
    figures: dict[str, Any]
    optimizer: dict[str, torch.Tensor] | None = None

    def budget(self, growth: float) -> Budget:
        """As many passes as this run has chosen, over `growth` times as many rows."""
        return Budget(
            num_steps=max(1, round(self.result.best_step * growth)),
            plateau_steps=tuple(round(step * growth) for step in self.result.plateau_steps),
        )


def describe_run(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    computed_by: str,
    stop: npt.NDArray[np.bool_] | Budget,
    start: Start | None = None,
) -> dict[str, Any]:
    """All that a training run depends on, and its fingerprint as `run`; another one must not resume its checkpoint.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file.
        fold: Fold of each row.
        computed_by: Device, precision and number of processes.
        stop: The rows that decide when to stop, `(num_rows,)`, or the budget. The folds alone do not say which: the
            seed and the unit of the halves may change where they decide no fold.
        start: The earlier network that it goes on from.
    """
    settings = {name: getattr(params, name).model_dump() for name in ("imbalance", "hnm", "train")}
    settings["model"] = params.model.network.model_dump()
    for key in _HARMLESS:
        del settings["train"][key]
    facts = {
        "settings": settings,
        "data": fingerprint(reader.manifest, hashlib.sha256(fold.tobytes()).hexdigest()),
        # Of what this file imports, so that an edit of another stage does not end a run that could go on.
        "code": code_fingerprint("qin/train/fit.py"),
        "versions": library_versions(),
        "computed_by": computed_by,
        "stop": asdict(stop) if isinstance(stop, Budget) else hashlib.sha256(stop.tobytes()).hexdigest(),
        **({} if start is None else {"start": start.facts}),
    }
    return {"run": fingerprint(facts), **facts}


def computed_by(params: TrainParams, ranks: Ranks) -> str:
    """Device, precision and number of processes, each of which gives its own last digits."""
    device = choose_device(params)
    name = f"{device.type} bf16" if choose_bf16(params, device) else device.type
    if choose_form(device) != EAGER:
        name += f" {choose_form(device)}"
    return f"{name} x{ranks.world}" if ranks.world > 1 and not params.elastic else name


def fit_model(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    is_report: npt.NDArray[np.bool_],
    checkpoints: Path,
    watch: Watch,
    ranks: Ranks = ONE,
    start: Start | None = None,
) -> tuple[Trained, ScoredRows]:
    """Fit a model on the train fold, stopped by the selection half of the validation fold.

    1. Batch size and rate follow from the rows that an epoch draws.
    2. The network is trained, checked on the selection half, and set to its best check's weights.
    3. It scores the whole validation fold, then divided tables are made whole.

    The report half decides nothing here, so what is reported of it is not biased by the choice of the best state.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file.
        fold: Fold of each row.
        is_report: Rows of the report half, `(num_rows,)`; see `qin.shards.folds.report_half`.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of steps and checks.
        ranks: The processes that train together; all get the same.
        start: An earlier network to go on from; None for a new one.

    Returns:
        The run, and its logits of the whole validation fold.

    Raises:
        TrainingError: If the loss is not finite.
        ArtifactError: If a checkpoint is damaged, or their folder cannot be locked.
    """
    label, is_train, is_val = read_labels(reader), fold == TRAIN, fold == VALIDATION
    prior = training_prior(params.imbalance, label[is_train])
    run = Run(
        params,
        reader,
        label,
        is_train,
        prior,
        choose_pace(params.train, num_rows=num_drawn_rows(label[is_train], prior)),
        ranks,
        start,
    )
    half = run.selection_half(is_val=is_val, is_report=is_report)
    provenance = run.provenance(fold, stop=half.is_selected)
    trained = run.train(provenance, stop=half.scores, checkpoints=checkpoints, watch=watch)
    # Before the tables are whole: all processes score divided ones, and only the first gets whole ones.
    scored = run.validation_rows(trained.network, is_val=is_val, is_report=is_report)
    DividedTables(trained.network, ranks, trained.checkpoints).replace_in(trained.network)
    return trained, scored


def refit_model(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    heldout: Trained,
    checkpoints: Path,
    watch: Watch = SILENT,
    ranks: Ranks = ONE,
    start: Start | None = None,
) -> Trained:
    """Train anew on every row of the train and the validation fold, for as many passes as the held-out run chose.

    Nothing judges this model. Its figures are those of the held-out run, whose calibration it takes over; so batch
    size, rate and `pos_weight` are that run's, too.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file, its statistics fitted on every row of both folds.
        fold: Fold of each row.
        heldout: The held-out run.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of steps.
        ranks: The processes that train together.
        start: An earlier network to go on from, trained on all of its rows as well; None for a new one.

    Raises:
        TrainingError: If the loss is not finite.
        ArtifactError: If a checkpoint is damaged, or their folder cannot be locked.
    """
    label, is_fitted = read_labels(reader), (fold == TRAIN) | (fold == VALIDATION)
    prior = replace(heldout.prior, base_rate=float(label[is_fitted].mean()))
    is_train = fold == TRAIN
    # Of rows as they are drawn: an epoch with downsampling has fewer steps.
    growth = num_drawn_rows(label[is_fitted], prior) / num_drawn_rows(label[is_train], prior)
    budget = heldout.budget(growth)
    run = Run(params, reader, label, is_fitted, prior, heldout.pace, ranks, start)
    trained = run.train(run.provenance(fold, stop=budget), stop=budget, checkpoints=checkpoints, watch=watch)
    DividedTables(trained.network, ranks, trained.checkpoints).replace_in(trained.network)
    return trained


@dataclass(frozen=True)
class Run:
    """What the held-out run and the refit share; see `fit_model`."""

    params: Params
    reader: RowReader
    label: npt.NDArray[np.uint8]
    is_train: npt.NDArray[np.bool_]
    prior: TrainingPrior
    pace: Pace
    ranks: Ranks
    start: Start | None = None

    def provenance(self, fold: Folds, *, stop: npt.NDArray[np.bool_] | Budget) -> dict[str, Any]:
        """See `describe_run`."""
        by = computed_by(self.params.train, self.ranks)
        provenance = describe_run(self.params, self.reader, fold, computed_by=by, stop=stop, start=self.start)
        check_same_run(provenance, self.ranks)
        return provenance

    def train(
        self,
        provenance: dict[str, Any],
        *,
        stop: Callable[[QIN], ValidationScores] | Budget,
        checkpoints: Path,
        watch: Watch,
    ) -> Trained:
        """Train a new network to its end; the checkpoint of the ended run stays until the outputs are written."""
        knobs, ranks = self.params.train, self.ranks
        loader = build_loader(self.reader, knobs, choose_device(knobs), batch_size=self.pace.batch_size, ranks=ranks)
        rows = TrainingRows(loader, self.is_train, self.label, self.prior, knobs.seed, ranks)
        network = place(self.initial_network(), knobs)
        # Before the loop looks for a state: who had to wait for its turn goes on from what the other one has left.
        store = CheckpointStore(checkpoints, provenance["run"])
        if ranks.rank == 0:
            store.claim()
        optimizer = build_optimizer(network, knobs, lr=self.pace.lr)
        # Before the loop, too, which replaces it where the run itself has left a checkpoint.
        if self.start is not None:
            self.start.load_optimizer(network, optimizer)
        loop = TrainingLoop(
            network,
            optimizer=optimizer,
            rows=rows,
            params=knobs,
            hard_negatives=build_hard_negatives(
                self.params.hnm, network, batch_size=self.pace.batch_size, positive_share=rows.positive_share
            ),
            stop=stop,
            checkpoints=store,
            watch=watch,
        )
        result = loop.run()
        if self.is_followed(stop):
            loop.save()
        ended = self.ended(network, result, provenance, store)
        # Of the last step, also where an earlier check's weights are kept: a second copy of the moments at every best
        # check would take twice the weights, for averages that change little over a few checks.
        return replace(ended, optimizer=optimizer_state(network, optimizer)) if knobs.keep_optimizer else ended

    def is_followed(self, stop: object) -> bool:
        """Whether another run of the stage follows, which may be killed: then this one's end must be saved."""
        is_last = isinstance(stop, Budget) or self.params.train.refit == "none"
        return self.params.model.seeds != 1 or not is_last

    def ended(self, network: QIN, result: LoopResult, provenance: dict[str, Any], store: CheckpointStore) -> Trained:
        """What the loop's result makes of the run."""
        figures = _figures(result, self, network)
        facts = {**provenance, **asdict(self.prior), "metrics": figures}
        num_rows_seen = result.num_steps * self.pace.batch_size
        return Trained(network, facts, self.prior, self.pace, result, store, num_rows_seen, figures)

    def selection_half(self, *, is_val: npt.NDArray[np.bool_], is_report: npt.NDArray[np.bool_]) -> SelectionHalf:
        """Who judges the run's checks, on the selection half of its validation fold."""
        decides = deciding_rows(self.label, is_val=is_val, is_report=is_report)
        batch_size = self.params.train.eval_batch_size
        return SelectionHalf(self.reader, decides, self.label, batch_size, self.prior.offset, self.ranks)

    def validation_rows(
        self, network: QIN, *, is_val: npt.NDArray[np.bool_], is_report: npt.NDArray[np.bool_]
    ) -> ScoredRows:
        """The whole validation fold with a network's logits, for the stages that follow."""
        batch_size = self.params.train.eval_batch_size
        return ScoredRows(
            row=np.flatnonzero(is_val),
            logit=score_rows(network, self.reader, is_val, batch_size=batch_size, ranks=self.ranks),
            label=self.label[is_val],
            is_report=is_report[is_val].astype(np.uint8),
            prior=self.prior,
        )

    def initial_network(self) -> QIN:
        """The network before training, in all the same: an earlier one, or drawn with its output at the base rate."""
        params, seed = self.params.model.network, self.params.train.seed
        schema, is_first = self.reader.schema, self.ranks.rank == 0  # the others take over its state
        fitted = fit_inputs(self.reader, self.is_train, params, seed=seed) if is_first else unfitted(schema, params)
        shared_by = self.ranks if self.params.train.shard_tables else None
        network = build_model(schema, params, fitted, seed=seed, shared_by=shared_by)
        # The base rate as the loss sees it: the offset is what weights and sampling do to the odds.
        start = prior_logit(self.prior.base_rate) - self.prior.offset
        network.set_base_rate(float(sigmoid(np.array([start]))[0]))
        if self.start is not None and is_first:
            self.start.load_weights(network, prior=self.prior)
        if self.ranks.world > 1:
            take_over(network, self.ranks)
        return network


def _figures(result: LoopResult, run: Run, network: QIN) -> dict[str, Any]:
    figures = {
        "rows": {"train": int(run.is_train.sum())},
        "base_rate": run.prior.base_rate,
        "pos_weight": run.prior.pos_weight,
        "neg_ratio": run.prior.neg_ratio,
        "reweighted": run.prior.reweighted,
        "num_parameters": count_parameters(network),
        "batch_size": run.pace.batch_size,
        "lr": run.pace.lr,
        "num_steps": result.num_steps,
        "best_step": result.best_step,
    }
    # Told only where there were several, so that the figures of one process have the bytes that they always had.
    if any(number > 1 for _, number in result.processes):
        figures["processes"] = [list(part) for part in result.processes]
    if not result.history:
        return figures
    best = next(record for record in result.history if record["step"] == result.best_step)
    names = ("epoch", "train_loss", "val_log_loss", "val_ap", "val_auc")
    return {
        **figures,
        "num_checks": len(result.history),
        **{f"best_{n}" if n == "epoch" else n: best[n] for n in names},
    }
