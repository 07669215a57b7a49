"""Stage 5: figures and plots of the calibrated model on the validation fold.

python -m stages evaluate
"""

import typer

from qin import paths
from qin.calibrate.report import read_calibration
from qin.config import load_params
from qin.evaluate.baseline import compare_with_baseline
from qin.evaluate.figures import curves, evaluate, evaluate_slices
from qin.evaluate.fold import JudgedFold
from qin.evaluate.importance import COLUMNS, judge_fields
from qin.evaluate.slices import CALIBRATION_COLUMNS
from qin.network.threads import use_threads
from qin.raw.segments import read_clusters, read_segments
from qin.runtime.files import write_csv, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.scored import ScoredRows

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Write metrics/evaluate.json, artifacts/slices.json and the data of the plots."""
    with run_stage("evaluate") as report:
        params = load_params(paths.PARAMS)
        use_threads(params.train.num_threads)
        scored = ScoredRows.read(paths.VALIDATION)
        calibration = read_calibration(paths.CALIBRATOR)
        train, key, shifts = params.data.train, params.split.group_key, calibration.deployed.segments
        segments = None if shifts is None else read_segments(train, shifts.column, scored.row)
        fold = JudgedFold.of(
            scored,
            calibration,
            judge_seed=params.calibration.seed,
            segments=segments,
            cluster=None if key is None else read_clusters(train, key, scored.row),
        )
        knobs = params.evaluate
        slices_of = {column: read_segments(train, column, scored.row) for column in knobs.slices}
        slices, points = evaluate_slices(fold, slices_of)
        figures = evaluate(fold, num_bins=knobs.num_bins)
        if knobs.baseline_rows:
            figures["baseline"] = compare_with_baseline(params, fold, prepared=paths.PREPARED_TRAIN, folds=paths.FOLDS)
        importance = []
        if knobs.importance_rows:
            importance = judge_fields(
                params, fold, segments=segments, prepared=paths.PREPARED_TRAIN, trained=paths.MODEL
            )
        for name, rows in curves(fold, num_bins=knobs.num_bins, num_points=knobs.num_curve_points).items():
            write_csv(paths.PLOTS / f"{name}.csv", rows)
        write_csv(paths.PLOTS / "slices.csv", points, columns=CALIBRATION_COLUMNS)
        write_csv(paths.PLOTS / "importance.csv", importance, columns=COLUMNS)
        write_json(paths.SLICES, slices)
        write_json(paths.EVALUATION, figures)
        report.num_rows = scored.label.size


if __name__ == "__main__":
    end_with_dvc()
    app()
