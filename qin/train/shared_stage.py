"""The train stage of labels that share a network: trained together, written as if each had been trained alone."""

import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import Params
from qin.distributed.ranks import ONE
from qin.features.joined import JoinedRows
from qin.features.reference import fit_reference
from qin.features.statistics import FitReport
from qin.labels.parts import hand_over
from qin.labels.rooms import furnish, room_of
from qin.model.artifact import save_model
from qin.network.threads import fix_threads
from qin.runtime import paths
from qin.runtime.chain import Artifact, Origin, origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.progress import log
from qin.runtime.stage import StageReport
from qin.scored.rows import ScoredRows
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, FoldRule, Folds, read_fold_rule, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.tracking.tracking import Tracking
from qin.train.fit import Trained
from qin.train.networks import FittedNetworks, as_model
from qin.train.shared import SharedFitting, fit_shared_models, refit_shared_models
from qin.train.statistics import SharedFit
from qin.train.watch import Watch

_STAGE = "train"


@dataclass(frozen=True)
class _View:
    """What the train stage of one label alone would start from.

    Attributes:
        label: The label.
        room: Where its outputs are written.
        params: Its settings.
        inputs: The prepared rows and the folds, as a run of that label alone has them.
        fitting: Of its statistics.
    """

    label: str
    room: Path
    params: Params
    inputs: list[Artifact]
    fitting: SharedFit

    @classmethod
    def of(cls, params: Params, label: str, facts: RowFacts) -> "_View":
        room = room_of(_STAGE, label)
        settings = furnish(room, _STAGE, params, label)
        reader = ShardReader(room / paths.PREPARED_TRAIN)
        inputs = [read_artifact(place, at=room / place) for place in (paths.PREPARED_TRAIN, paths.FOLDS)]
        origin = origin_of("statistics", settings.model_dump(mode="json"), artifacts=inputs)
        return cls(label, room, settings, inputs, SharedFit(settings, reader, facts, origin, ONE))

    def origin_with(self, *artifacts: Artifact) -> Origin:
        """What an output is made from, besides the stage's inputs."""
        return origin_of(_STAGE, self.params.model_dump(mode="json"), artifacts=[*self.inputs, *artifacts])


@dataclass(frozen=True)
class _Outcome:
    """What training has come to for one label: networks that are judged, and those that are deployed."""

    heldout: FittedNetworks
    scored: ScoredRows
    deployed: list[Trained]
    statistics: FitReport
    schema: Schema


def train_shared(params: Params, report: StageReport, tracking: Tracking) -> None:
    """Train one network for all labels, and write what a run of each label alone would have written.

    1. Statistics of the train fold are fitted for each label; one that any label's fit drops is dropped for all, so
       that the labels' networks have equal inputs.
    2. The networks are trained together; see `qin.train.heads`. Then once more on every row where that is wanted.
    3. The outputs are written in a room of each label, and handed over together.

    Args:
        params: Settings that name several labels.
        report: The stage's.
        tracking: Told of steps and checks.
    """
    report.reads(paths.PREPARED_TRAIN, paths.FOLDS, settings=params.model_dump(mode="json"))
    log.info("labels %s share a network", ", ".join(params.data.labels))
    fix_threads(params.train.num_threads)
    prepared = ShardReader(paths.PREPARED_TRAIN)
    prepared.verify()
    facts = RowFacts.read(paths.FOLDS, num_rows=prepared.num_rows)
    fold, rule = read_folds(paths.FOLDS, num_rows=prepared.num_rows), read_fold_rule(paths.FOLDS)
    refit, is_report = params.refits, report_half(facts.unit, seed=params.split.seed)
    with ExitStack() as outputs:
        # All statistics take their places at the end of this block, together, when every network is written.
        views = [_View.of(params, label, facts) for label in params.data.labels]
        fitted = [outputs.enter_context(atomic_directory(view.room / paths.STATISTICS)) for view in views]
        places = [paths.heldout_place(folder, refit=refit) for folder in fitted]
        statistics, rows = _statistics(views, fold == TRAIN, places)
        fitting = SharedFitting(rows, fold, is_report, paths.CHECKPOINTS)
        watch = Watch(tracking.check, tracking.step("train/"), params.track.every_steps)
        # Any label's settings do: they differ in what is read, which the views have read.
        heldout = fit_shared_models(views[0].params, fitting, watch=watch)
        deployed = [fits.runs for fits, _ in heldout]
        schemas = [of_label.schema for of_label in rows]
        if refit:
            _, rows = _statistics(views, fold != EXCLUDED, fitted, only=statistics[0].kept)
            fitting = SharedFitting(rows, fold, is_report, paths.CHECKPOINTS)
            watch = Watch(on_step=tracking.step("refit/"), every_steps=params.track.every_steps)
            chosen = [fits for fits, _ in heldout]
            deployed = refit_shared_models(chosen[0].params, fitting, heldout=chosen, watch=watch)
        outcomes = [
            _Outcome(fits, scored, runs, told, schema)
            for (fits, scored), runs, told, schema in zip(heldout, deployed, statistics, schemas, strict=True)
        ]
        for view, folder, outcome in zip(views, fitted, outcomes, strict=True):
            _write_model(view, folder, outcome, fold=fold, rule=rule)
    for view, outcome in zip(views, outcomes, strict=True):
        # What comes now names the content of what is in its place.
        _write_rest(view, outcome, report)
    report.check_inputs()
    hand_over(_STAGE, {view.label: view.room for view in views})
    first = outcomes[0]  # the labels' runs are the same ones
    for run in (*first.heldout.runs, *first.heldout.others, *(first.deployed if refit else ())):
        run.checkpoints.remove()
        report.num_rows += run.num_rows_seen
    tracking.summarise(first.heldout.runs[0].figures)
    shutil.rmtree(views[0].room.parent)


def _statistics(
    views: Sequence[_View],
    is_fitted: npt.NDArray[np.bool_],
    folders: Sequence[Path],
    *,
    only: Collection[str] | None = None,
) -> tuple[list[FitReport], list[JoinedRows]]:
    """Fit each label's statistics into its folder; those that one label drops are dropped for all."""
    found = [view.fitting.statistics(is_fitted, place, only=only) for view, place in zip(views, folders, strict=True)]
    kept = [name for name in found[0][0].kept if all(name in report.kept for report, _ in found)]
    dropped = {name: why for report, _ in found for name, why in report.dropped.items()}
    # Anew, rather than taken out: tables and columns are numbered through, and checksums are of whole files.
    if only is None and any(len(report.kept) > len(kept) for report, _ in found):
        for place in folders:
            shutil.rmtree(place)
            place.mkdir()
        found = [
            view.fitting.statistics(is_fitted, place, only=kept) for view, place in zip(views, folders, strict=True)
        ]
    return [FitReport(tuple(kept), dropped) for _ in found], [rows for _, rows in found]


def _write_model(view: _View, fitted: Path, outcome: _Outcome, *, fold: Folds, rule: FoldRule) -> None:
    """Write a label's network beside its statistics, which are about to take their place."""
    refit, chosen, schema = view.params.refits, outcome.heldout.params, outcome.schema
    origin = view.origin_with(read_artifact(paths.STATISTICS, at=fitted))
    with atomic_directory(view.room / paths.MODEL) as model:
        if refit:
            place = paths.heldout_place(model, refit=refit)
            save_model(place, as_model(outcome.heldout.runs, chosen, schema, rule), origin=origin)
        save_model(model, as_model(outcome.deployed, chosen, schema, rule), origin=origin)
    fit_reference(view.fitting.reader, fold, with_validation=refit).write(fitted)


def _write_rest(view: _View, outcome: _Outcome, report: StageReport) -> None:
    """Write what a label's validation fold is scored with, its figures and its curve."""
    artifact = read_artifact(paths.MODEL, at=view.room / paths.MODEL)
    with atomic_directory(view.room / paths.VALIDATION) as folder:
        outcome.scored.write(
            folder, origin=origin_of(_STAGE, view.params.model_dump(mode="json"), artifacts=[artifact])
        )
    figures = {**outcome.heldout.to_json(), "statistics": outcome.statistics.to_json(), "warnings": report.warnings}
    write_json(view.room / paths.METRICS / "train.json", figures)
    write_csv(view.room / paths.PLOTS / "train.csv", outcome.heldout.runs[0].result.history)
