"""Stage 4: fit the temperature on the validation fold, judged on rows it was not fitted on.

python -m stages.calibrate
"""

import typer

from qin.artifacts import write_exact_json, write_json
from qin.calibration import fit_and_judge, judge_half, prior_offset
from qin.config import load_params
from qin.errors import DataError
from qin.scored import ScoredRows
from qin.stage import run_stage
from stages import paths

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Calibrate the model's logits; `calibration.temperature_scaling: false` writes an identity."""
    with run_stage("calibrate") as report:
        params = load_params(paths.PARAMS)
        scored = ScoredRows.read(paths.VALIDATION)
        try:
            calibration = fit_and_judge(
                scored.logit,
                scored.label,
                judge=judge_half(scored.row, seed=params.calibration.seed),
                train_base_rate=scored.train_base_rate,
                method="temperature" if params.calibration.temperature_scaling else "identity",
                objective=params.calibration.objective,
                offset=prior_offset(pos_weight=scored.pos_weight, neg_ratio=1.0, reweighted=True),
            )
        except ValueError as error:
            raise DataError(f"{paths.VALIDATION}: the logits cannot be calibrated: {error}") from error
        write_exact_json(paths.CALIBRATOR, calibration.to_dict())
        write_json(paths.METRICS / "calibrate.json", calibration.headline())
        report.num_rows = scored.label.size


if __name__ == "__main__":
    app()
