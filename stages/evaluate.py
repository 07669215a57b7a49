"""Stage 5: figures and plots of the calibrated model on the validation fold.

python -m stages.evaluate
"""

import typer

from qin.artifacts import write_csv, write_json
from qin.calibration.report import read_calibration
from qin.config import load_params
from qin.data.segments import read_clusters, read_segments
from qin.evaluation import JudgedFold, curves, evaluate, evaluate_slices
from qin.scored import ScoredRows
from qin.slices import CALIBRATION_COLUMNS
from qin.stage import run_stage
from stages import paths

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Write metrics/evaluate.json, metrics/slices.json and the data of the plots."""
    with run_stage("evaluate") as report:
        params = load_params(paths.PARAMS)
        scored = ScoredRows.read(paths.VALIDATION)
        calibration = read_calibration(paths.CALIBRATOR)
        train, key, shifts = params.data.train, params.split.group_key, calibration.deployed.segments
        fold = JudgedFold.of(
            scored,
            calibration,
            judge_seed=params.calibration.seed,
            segments=None if shifts is None else read_segments(train, shifts.column, scored.row),
            cluster=None if key is None else read_clusters(train, key, scored.row),
        )
        slices_of = {column: read_segments(train, column, scored.row) for column in params.evaluate.slices}
        num_bins = params.evaluate.num_bins
        slices, points = evaluate_slices(fold, slices_of)
        for name, rows in curves(fold, num_bins=num_bins, num_points=params.evaluate.num_curve_points).items():
            write_csv(paths.PLOTS / f"{name}.csv", rows)
        write_csv(paths.PLOTS / "slices.csv", points, columns=CALIBRATION_COLUMNS)
        write_json(paths.METRICS / "slices.json", slices)
        write_json(paths.METRICS / "evaluate.json", evaluate(fold, num_bins=num_bins))
        report.num_rows = scored.label.size


if __name__ == "__main__":
    app()
