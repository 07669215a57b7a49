"""Stage 6: figures, plots and the report of the calibrated model on the validation fold.

python -m stages evaluate
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import typer

from qin.calibrate.calibrator import segment_column
from qin.calibrate.report import read_calibrations
from qin.config import Params, load_params
from qin.evaluate.baseline import compare_members
from qin.evaluate.figures import curves, evaluate, evaluate_slices, fold_figures
from qin.evaluate.fold import Reported, ReportHalf, out_of_fold
from qin.evaluate.headline import headline
from qin.evaluate.importance import COLUMNS, field_importance
from qin.evaluate.slices import CALIBRATION_COLUMNS, with_fingerprint
from qin.features.joined import open_rows
from qin.labels.stage import runs_by_label
from qin.metrics.logits import Float64Array
from qin.network.threads import fix_threads
from qin.raw.segments import Segments, read_clusters, read_segments, read_segments_of_folds
from qin.report.card import write_card
from qin.report.page import write_report
from qin.runtime import paths
from qin.runtime.chain import origin_of
from qin.runtime.errors import FewClicksError
from qin.runtime.files import fingerprint, write_csv, write_json
from qin.runtime.folded import fold_places, place_of_fold
from qin.runtime.parent import end_with_dvc
from qin.runtime.replacing import put_back
from qin.runtime.stage import run_stage
from qin.scored.rows import ScoredRows, pooled
from qin.shards.files import ShardReader
from qin.tracking.tracking import open_tracking

app = typer.Typer(add_completion=False)
log = logging.getLogger("qin")


@app.command()
def main() -> None:
    """Write the figures, artifacts/slices.json, the data of the plots, the report and the model card.

    1. Logits and calibrators of each fold become the rows that every figure is of: report halves, calibrated.
    2. Slices, figures, members, importance and curves are computed of them.
    3. Everything is written, then the pages that are made of it.
    """
    if runs_by_label("evaluate"):
        return
    with run_stage("evaluate") as report:
        params = load_params(paths.PARAMS)
        settings = params.model_dump(mode="json")
        scored_by = _scored_by(params.model.members)
        needed = [*_rescored(params), *scored_by.values(), paths.BLEND, paths.SCORED, paths.CALIBRATOR]
        inputs = report.reads(*needed, settings=settings, files={"data.train": params.data.train})
        # Nothing else here reads shards.
        if params.evaluate.importance_rows:
            ShardReader(paths.PREPARED_TRAIN).verify()
        fix_threads(params.train.num_threads)
        train = params.data.train
        folds = [ScoredRows.read(place) for place in fold_places(paths.SCORED)]
        halves, half = _reported(params, folds)
        knobs = params.evaluate
        slices_of = {column: read_segments(train, column, half.scored.row) for column in knobs.slices}
        slices, points = evaluate_slices(half, slices_of)
        figures = evaluate(half, num_bins=knobs.num_bins)
        if len(folds) > 1:
            figures["folds"] = [fold_figures(one, num_bins=knobs.num_bins) for one in halves]
        figures["members"] = compare_members(half, {name: _natural(place) for name, place in scored_by.items()})
        importance = []
        if knobs.importance_rows:
            last = len(folds)  # of several folds' models, one alone: they need not have the same statistics
            reader = open_rows(paths.PREPARED_TRAIN, paths.heldout(place_of_fold(paths.STATISTICS, last)))
            try:
                importance = field_importance(params, halves[-1], reader=reader, fold=last)
            except FewClicksError as error:  # a submission must be possible however few they are
                log.warning("warning: %s; there is no importance this time", error)
        plots = curves(half, num_bins=knobs.num_bins, num_points=knobs.num_curve_points)
        figures["warnings"] = report.warnings
        # All is computed: from here on files are written, and none of inputs that were edited meanwhile.
        report.check_inputs()
        for name, rows in plots.items():
            write_csv(paths.PLOTS / f"{name}.csv", rows)
        write_csv(paths.PLOTS / "slices.csv", points, columns=CALIBRATION_COLUMNS)
        write_csv(paths.PLOTS / "importance.csv", importance, columns=COLUMNS)
        origin = origin_of("evaluate", settings, artifacts=inputs)
        write_json(paths.SLICES, with_fingerprint(slices, fingerprint(asdict(origin))) if slices else {})
        write_json(paths.EVALUATION, figures)
        write_json(paths.HEADLINE, headline(figures))
        # Last: the pages are made of the files that the lines above have written.
        write_report(paths.REPORT, origin=origin)
        write_card(paths.CARD, origin=origin, slices=slices)
        track = params.track
        with open_tracking(track.to, project=track.project, settings=settings, proceed=True) as tracking:
            tracking.summarise(figures)
            pages = (paths.REPORT, paths.CARD)
            tracking.add_files(*pages, *sorted(paths.METRICS.glob("*.json")), *sorted(paths.PLOTS.glob("*.csv")))
        report.num_rows = half.is_reported.size


def _reported(params: Params, folds: Sequence[ScoredRows]) -> tuple[list[ReportHalf], Reported]:
    """The report half of each validation fold, and the rows that every figure is of: the only one's, or those of all.

    The log is read once for each column that groups its rows.
    """
    train, key = params.data.train, params.split.group_key
    calibrations, rows = read_calibrations(paths.CALIBRATOR), [scored.row for scored in folds]
    segments: list[Segments] | list[None] = [None] * len(folds)
    column = segment_column(one.deployed for one in calibrations)
    if column is not None:
        segments = read_segments_of_folds(train, column, rows)
    every = np.sort(np.concatenate(rows))
    cluster = None if key is None else read_clusters(train, key, every)
    halves = []
    for scored, calibration, own in zip(folds, calibrations, segments, strict=True):
        clusters = None if cluster is None else cluster[np.searchsorted(every, scored.row)]
        halves.append(ReportHalf.of(scored, calibration, segments=own, cluster=clusters))
    return halves, halves[0] if len(halves) == 1 else out_of_fold(halves, folds, cluster=cluster)


def _natural(place: Path) -> Float64Array:
    """A member's logits of all validation rows, in the order of the train file, on the natural scale."""
    return pooled([ScoredRows.read(part) for part in fold_places(place)]).natural


def _scored_by(members: Sequence[str]) -> dict[str, Path]:
    """Logits of the members, and of those to compare with whose stage has run, as under DVC it has."""
    places = {}
    for name, place in paths.SCORED_BY.items():
        put_back(place)
        if name in members or place.exists():
            places[name] = place
        else:
            log.info("%s are no member and not compared with: there is no %s", name, place)
    return places


def _rescored(params: Params) -> list[Path]:
    """What scoring rows again needs, in the pipeline's order."""
    if not params.evaluate.importance_rows:
        return []
    return [paths.PREPARED_TRAIN, paths.STATISTICS, *(paths.MEMBERS[name] for name in params.model.members)]


if __name__ == "__main__":
    end_with_dvc()
    app()
