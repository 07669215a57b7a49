"""Training of the networks that several labels share, from prepared files; see `qin.train.heads`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.config import Params
from qin.distributed.ranks import ONE
from qin.model.build import choose_device, place
from qin.model.scoring import mean_logit
from qin.runtime.files import fingerprint
from qin.runtime.progress import log
from qin.scored.rows import ScoredRows
from qin.shards.files import RowReader, read_labels
from qin.shards.folds import TRAIN, VALIDATION, Folds
from qin.train.build import build_loader, build_optimizer
from qin.train.checkpoint import CheckpointStore
from qin.train.fit import Run, Trained
from qin.train.heads import SharedNetworks, SharedRows
from qin.train.imbalance import TrainingRows, training_prior
from qin.train.loop import Budget, TrainingLoop, ValidationScores
from qin.train.networks import FittedNetworks, check_network, count_networks, forms_of, with_count, with_seed
from qin.train.pace import choose_pace
from qin.train.watch import SILENT, Watch

# A run, and its logits of the validation fold, for each label in turn.
OfLabels = list[tuple[Trained, ScoredRows]]


@dataclass(frozen=True)
class SharedFitting:
    """What training together starts from.

    Attributes:
        readers: The prepared train file as each label reads it: equal columns, each label's statistics.
        fold: Fold of each row.
        is_report: Rows of the report half, `(num_rows,)`.
        checkpoints: Root folder of checkpoints.
    """

    readers: Sequence[RowReader]
    fold: Folds
    is_report: npt.NDArray[np.bool_]
    checkpoints: Path


def fit_shared_models(
    params: Params, fitting: SharedFitting, *, watch: Watch
) -> list[tuple[FittedNetworks, ScoredRows]]:
    """Fit every form of the network, and the best one with each further seed, for all labels together.

    As `fit_models`, but that each run is of all labels: it stops, and a form is chosen, by the mean of the labels' log
    losses of the selection half.

    Args:
        params: Sections model, imbalance, train.
        fitting: Rows, folds and checkpoints.
        watch: Who is told of the first form's steps and checks, and at the end of the chosen one's checks.

    Returns:
        For each label its runs, and the mean of the chosen ones' logits of the whole validation fold.

    Raises:
        ConfigError: If a form does not fit into memory.
    """
    num_networks = count_networks(params, fitting.fold)
    forms, names = forms_of(with_count(params, num_networks))
    for form in forms:
        check_network(form, fitting.readers[0].schema, ONE)
    tried: list[OfLabels] = []
    for number, form in enumerate(forms):
        if len(forms) > 1:
            log.info("form %d of the network: %s", number, names[number])
        tried.append(fit_shared(form, fitting, watch=SILENT if number else watch))
    losses = [fmean(run.figures["val_log_loss"] for run, _ in of_labels) for of_labels in tried]
    chosen = losses.index(min(losses))
    first = tried.pop(chosen)
    if tried:
        log.info("form %d is kept: mean log loss %s", chosen, ", ".join(f"{loss:.5f}" for loss in losses))
    if chosen:  # as of `fit_models`
        watch.on_check(first[0][0].result.history)
    further = range(1, num_networks)
    runs = [first, *(fit_shared(with_seed(forms[chosen], seed), fitting, watch=SILENT) for seed in further)]
    found = []
    for number, own in enumerate(zip(*runs, strict=True)):
        others = [of_labels[number][0] for of_labels in tried]
        fitted = FittedNetworks(forms[chosen], [run for run, _ in own], others, chosen, names)
        found.append((fitted, replace(own[0][1], logit=mean_logit([rows.logit for _, rows in own]))))
    return found


def fit_shared(params: Params, fitting: SharedFitting, *, watch: Watch) -> OfLabels:
    """Fit the networks of all labels on the train fold, stopped by the mean of their losses on the selection half.

    Args:
        params: Sections model, imbalance, train.
        fitting: Rows, folds and checkpoints.
        watch: Who is told of steps and checks.
    """
    is_train, is_val = fitting.fold == TRAIN, fitting.fold == VALIDATION
    runs, halves = [], []
    for reader in fitting.readers:
        label = read_labels(reader)
        prior = training_prior(params.imbalance, label[is_train])
        # All rows: where labels share batches, none of them can draw rows of its own.
        pace = choose_pace(params.train, num_rows=int(np.count_nonzero(is_train)))
        runs.append(Run(params, reader, label, is_train, prior, pace, ONE))
        halves.append(runs[-1].selection_half(is_val=is_val, is_report=fitting.is_report))

    def scores(model: SharedNetworks) -> list[ValidationScores]:
        return [half.scores(model.of_label(number)) for number, half in enumerate(halves)]

    provenances = [run.provenance(fitting.fold, stop=half.is_selected) for run, half in zip(runs, halves, strict=True)]
    trained = _train(runs, provenances, stop=scores, checkpoints=fitting.checkpoints, watch=watch)
    found = []
    for number, (run, one) in enumerate(zip(runs, trained, strict=True)):
        scored = run.validation_rows(one.network, is_val=is_val, is_report=fitting.is_report)
        # A label's own figures, of the state that the mean of all has chosen; the mean stands beside them.
        own = halves[number].scores(one.network)
        figures = {**one.figures, "val_log_loss": own.log_loss, "val_ap": own.ap, "val_auc": own.auc}
        figures["shared_val_log_loss"] = one.figures["val_log_loss"]
        told = {**one.provenance, "metrics": figures}
        found.append((replace(one, figures=figures, provenance=told), scored))
    return found


def refit_shared_models(
    params: Params, fitting: SharedFitting, *, heldout: Sequence[FittedNetworks], watch: Watch
) -> list[list[Trained]]:
    """Train the networks anew on every row, for as many passes as the held-out runs chose; see `refit_model`.

    Args:
        params: Those of the chosen form.
        fitting: Rows whose statistics are fitted on both folds, folds and checkpoints.
        heldout: The held-out runs of each label.
        watch: Who is told of steps.

    Returns:
        The runs of each label.
    """
    is_fitted = (fitting.fold == TRAIN) | (fitting.fold == VALIDATION)
    growth = np.count_nonzero(is_fitted) / np.count_nonzero(fitting.fold == TRAIN)
    rounds = []
    for seed in range(len(heldout[0].runs)):
        settings = with_seed(params, seed)
        before = [of_label.runs[seed] for of_label in heldout]
        budget = before[0].budget(growth)  # one run, whatever the label
        runs = []
        for reader, one in zip(fitting.readers, before, strict=True):
            label = read_labels(reader)
            prior = replace(one.prior, base_rate=float(label[is_fitted].mean()))
            runs.append(Run(settings, reader, label, is_fitted, prior, one.pace, ONE))
        provenances = [run.provenance(fitting.fold, stop=budget) for run in runs]
        told = SILENT if seed else watch
        rounds.append(_train(runs, provenances, stop=budget, checkpoints=fitting.checkpoints, watch=told))
    return [list(of_label) for of_label in zip(*rounds, strict=True)]


def _train(
    runs: Sequence[Run],
    provenances: Sequence[dict[str, Any]],
    *,
    stop: Callable[[SharedNetworks], list[ValidationScores]] | Budget,
    checkpoints: Path,
    watch: Watch,
) -> list[Trained]:
    """Train new networks together to their end; their checkpoint stays until the outputs are written.

    1. Each label's network is drawn as if it were alone; then all but the first give up what they share.
    2. The labels' batches are stacked: the same rows of each, with that label's weights.
    3. One loop trains them, under a name that is made of all labels' runs.
    """
    params, pace = runs[0].params, runs[0].pace
    knobs, device = params.train, choose_device(params.train)
    networks = [place(run.initial_network(), knobs) for run in runs]
    model = SharedNetworks(networks)
    rows = SharedRows.of(
        [
            TrainingRows(
                build_loader(run.reader, knobs, device, batch_size=pace.batch_size),
                run.is_train,
                run.label,
                run.prior,
                knobs.seed,
            )
            for run in runs
        ]
    )
    store = CheckpointStore(checkpoints, fingerprint("shared", [told["run"] for told in provenances]))
    store.claim()
    loop = TrainingLoop(
        model,
        optimizer=build_optimizer(model, knobs, lr=pace.lr),
        rows=rows,
        params=knobs,
        hard_negatives=None,
        stop=stop if isinstance(stop, Budget) else lambda of: _mean(stop(of)),
        checkpoints=store,
        watch=watch,
    )
    result = loop.run()
    if runs[0].is_followed(stop):
        loop.save()
    parts = zip(runs, networks, provenances, strict=True)
    return [run.ended(network, result, told, store) for run, network, told in parts]


def _mean(scores: Sequence[ValidationScores]) -> ValidationScores:
    return ValidationScores(
        log_loss=fmean(one.log_loss for one in scores),
        ap=fmean(one.ap for one in scores),
        auc=fmean(one.auc for one in scores),
    )
