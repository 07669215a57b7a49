"""Stage 5: fit the calibrator on the validation fold, reported on rows it was not fitted on.

python -m stages calibrate
"""

import logging

import typer

from qin.calibrate.holdout import CalibrationRows, CalibratorSpec, fit_calibration
from qin.calibrate.members import blend_members, describe_choice
from qin.config import load_params
from qin.errors import DataError
from qin.raw.segments import read_segments
from qin.runtime import paths
from qin.runtime.chain import origin_entry, origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_exact_json, write_json
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
        members = {name: paths.SCORED_BY[name] for name in params.model.members}
        inputs = report.reads(*members.values(), settings=settings, files={"data.train": params.data.train})
        of_members: dict[str, ScoredRows] = {name: ScoredRows.read(path) for name, path in members.items()}
        try:
            scored, choice = blend_members(of_members)
            for line in describe_choice(choice):
                log.info(line)
            segments = None if by is None else read_segments(params.data.train, by, scored.row)
            method = knobs.method if knobs.temperature_scaling else "identity"
            calibration = fit_calibration(
                CalibrationRows(scored.logit, scored.label, segments),
                is_report=scored.is_report == 1,
                prior=scored.prior,
                spec=CalibratorSpec(method, knobs.objective, by),
            )
        except ValueError as error:
            raise DataError(
                f"{', '.join(map(str, members.values()))}: the logits cannot be calibrated: {error}"
            ) from error
        for warning in calibration.warnings():
            log.warning(warning)
        report.check_inputs()
        origin = origin_of("blend", settings, artifacts=inputs)
        with atomic_directory(paths.SCORED) as folder:
            scored.write(folder, origin=origin)
        write_exact_json(paths.BLEND, {**choice.to_dict(), **origin_entry(origin)})
        blended = [read_artifact(paths.SCORED), read_artifact(paths.BLEND)]
        origin = origin_of("calibrate", settings, artifacts=blended)
        write_exact_json(paths.CALIBRATOR, {**calibration.to_dict(), **origin_entry(origin)})
        figures = {**calibration.headline(), "blend": choice.headline(), "warnings": report.warnings}
        write_json(paths.METRICS / "calibrate.json", figures)
        report.num_rows = scored.label.size


if __name__ == "__main__":
    end_with_dvc()
    app()
