"""Stage 4: fit the calibrator on the validation fold, judged on rows it was not fitted on.

python -m stages calibrate
"""

import logging

import typer

from qin import paths
from qin.calibrate.holdout import CalibrationRows, Recipe, fit_and_judge, judge_half
from qin.config import load_params
from qin.errors import DataError
from qin.prior import TrainingPrior
from qin.raw.segments import read_segments
from qin.runtime.chain import origin_entry, origin_of
from qin.runtime.files import write_exact_json, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.scored import ScoredRows

app = typer.Typer(add_completion=False)
log = logging.getLogger("qin")


@app.command()
def main() -> None:
    """Calibrate the model's logits; `calibration.temperature_scaling: false` writes an identity."""
    with run_stage("calibrate") as report:
        params = load_params(paths.PARAMS)
        knobs, by, settings = params.calibration, params.calibration.by, params.model_dump(mode="json")
        inputs = report.reads(paths.VALIDATION, settings=settings, files={"data.train": params.data.train})
        scored = ScoredRows.read(paths.VALIDATION)
        segments = None if by is None else read_segments(params.data.train, by, scored.row)
        method = knobs.method if knobs.temperature_scaling else "identity"
        try:
            calibration = fit_and_judge(
                CalibrationRows(scored.logit, scored.label, segments),
                judge=judge_half(scored.row, seed=knobs.seed),
                prior=TrainingPrior(
                    base_rate=scored.train_base_rate,
                    pos_weight=scored.pos_weight,
                    neg_ratio=scored.neg_ratio,
                    reweighted=scored.reweighted,
                ),
                recipe=Recipe(method, knobs.objective, by),
            )
        except ValueError as error:
            raise DataError(f"{paths.VALIDATION}: the logits cannot be calibrated: {error}") from error
        for warning in calibration.warnings():
            log.warning(warning)
        report.check_inputs()
        origin = origin_of("calibrate", settings, artifacts=inputs)
        write_exact_json(paths.CALIBRATOR, {**calibration.to_dict(), **origin_entry(origin)})
        write_json(paths.METRICS / "calibrate.json", calibration.headline())
        report.num_rows = scored.label.size


if __name__ == "__main__":
    end_with_dvc()
    app()
