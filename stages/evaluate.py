"""Stage 5: figures and plots of the calibrated model on the validation fold.

python -m stages.evaluate
"""

import typer

from qin.artifacts import write_csv, write_json
from qin.calibration.report import read_calibration
from qin.config import load_params
from qin.data.segments import read_segments
from qin.evaluation import evaluate
from qin.scored import ScoredRows
from qin.stage import run_stage
from stages import paths

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Write metrics/evaluate.json and the data of the plots."""
    with run_stage("evaluate") as report:
        params = load_params(paths.PARAMS)
        scored = ScoredRows.read(paths.VALIDATION)
        calibration = read_calibration(paths.CALIBRATOR)
        shifts = calibration.deployed.segments
        figures, plots = evaluate(
            scored,
            calibration,
            segments=None if shifts is None else read_segments(params.data.train, shifts.column, scored.row),
            judge_seed=params.calibration.seed,
            num_bins=params.evaluate.num_bins,
            num_points=params.evaluate.num_curve_points,
        )
        for name, rows in plots.items():
            write_csv(paths.PLOTS / f"{name}.csv", rows)
        write_json(paths.METRICS / "evaluate.json", figures)
        report.num_rows = scored.label.size


if __name__ == "__main__":
    app()
