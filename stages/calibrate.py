"""Stage 5: fit the calibrator on the validation fold, reported on rows it was not fitted on.

python -m stages calibrate
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from qin.calibrate.blend import BlendChoice
from qin.calibrate.folds import CalibratedFold, deployed_folds
from qin.calibrate.holdout import CalibrationRows, CalibratorSpec, fit_calibration
from qin.calibrate.members import blend_members, describe_choice
from qin.calibrate.report import CalibrationReport
from qin.columns.types import type_name
from qin.config import Params, load_params
from qin.labels.stage import runs_by_label
from qin.raw.log import open_log
from qin.raw.segments import Segments, read_segments_of_folds
from qin.runtime import paths
from qin.runtime.chain import Artifact, Origin, origin_entry, origin_of, read_artifact
from qin.runtime.errors import DataError
from qin.runtime.files import atomic_directory, write_exact_json, write_json
from qin.runtime.folded import fold_place, fold_places, of_folds, write_index
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.scored.rows import ScoredRows

app = typer.Typer(add_completion=False)
log = logging.getLogger("qin")


@app.command()
def main() -> None:
    """Calibrate the model's logits; `calibration.temperature_scaling: false` writes an identity."""
    if runs_by_label("calibrate"):
        return
    with run_stage("calibrate") as report:
        params = load_params(paths.PARAMS)
        settings = params.model_dump(mode="json")
        members = {name: paths.SCORED_BY[name] for name in params.model.members}
        inputs = report.reads(*members.values(), settings=settings, files={"data.train": params.data.train})
        places = zip(*(fold_places(place) for place in members.values()), strict=True)
        folds = _calibrated(params, [dict(zip(members, of_fold, strict=True)) for of_fold in places])
        # Nothing is published of inputs that were edited meanwhile.
        report.check_inputs()
        _write(folds, settings, inputs)
        figures = of_folds([fold.headline() for fold in folds])
        write_json(paths.METRICS / "calibrate.json", {**figures, "warnings": report.warnings})
        report.num_rows = sum(fold.scored.label.size for fold in folds)


def _calibrated(params: Params, folds: Sequence[Mapping[str, Path]]) -> list[CalibratedFold]:
    """Blend and calibrate the members' logits of each validation fold, given where they are."""
    knobs, by = params.calibration, params.calibration.by
    blended = [_blended(members) for members in folds]
    rows, kind = [scored.row for scored, _ in blended], ""
    segments: list[Segments] | list[None] = [None] * len(folds)
    if by is not None:
        train = open_log(params.data.train)
        segments = read_segments_of_folds(train, by, rows)
        kind = type_name(train.schema.field(by).type)
    method = knobs.method if knobs.temperature_scaling else "identity"
    spec = CalibratorSpec(method, knobs.objective, by, kind)
    return [
        CalibratedFold(scored, choice, _calibration(scored, of_rows, spec, members))
        for (scored, choice), of_rows, members in zip(blended, segments, folds, strict=True)
    ]


def _blended(members: Mapping[str, Path]) -> tuple[ScoredRows, BlendChoice]:
    of_members: dict[str, ScoredRows] = {name: ScoredRows.read(path) for name, path in members.items()}
    try:
        scored, choice = blend_members(of_members)
    except ValueError as error:
        raise _not_calibrated(members, error) from error
    for line in describe_choice(choice):
        log.info(line)
    return scored, choice


def _calibration(
    scored: ScoredRows, segments: Segments | None, spec: CalibratorSpec, members: Mapping[str, Path]
) -> CalibrationReport:
    rows = CalibrationRows(scored.logit, scored.label, segments)
    try:
        found = fit_calibration(rows, is_report=scored.is_report == 1, prior=scored.prior, spec=spec)
    except ValueError as error:
        raise _not_calibrated(members, error) from error
    for warning in found.warnings():
        log.warning(warning)
    return found


def _not_calibrated(members: Mapping[str, Path], error: ValueError) -> DataError:
    return DataError(f"{', '.join(map(str, members.values()))}: the logits cannot be calibrated: {error}")


def _write(folds: Sequence[CalibratedFold], settings: dict[str, Any], inputs: Sequence[Artifact]) -> None:
    """Write the blended logits, the blend and the calibrator; of several folds, those of each."""
    origin = origin_of("blend", settings, artifacts=inputs)
    # Logits and blend before the calibrator, which names the checksums of both.
    with atomic_directory(paths.SCORED) as folder:
        _write_scored(folds, folder, origin)
    blends = [fold.choice.to_dict() for fold in folds]
    deployed = {"deployed": deployed_folds(len(folds), method=str(origin.settings.get("split.method")))}
    write_exact_json(paths.BLEND, {**_alone_or_all(blends, deployed), **origin_entry(origin)})
    blended = [read_artifact(paths.SCORED), read_artifact(paths.BLEND)]
    origin = origin_of("calibrate", settings, artifacts=blended)
    calibrations = [fold.calibration.to_dict() for fold in folds]
    write_exact_json(paths.CALIBRATOR, {**_alone_or_all(calibrations, {}), **origin_entry(origin)})


def _write_scored(folds: Sequence[CalibratedFold], folder: Path, origin: Origin) -> None:
    if len(folds) == 1:
        folds[0].scored.write(folder, origin=origin)
        return
    for number, fold in enumerate(folds, start=1):
        fold_place(folder, number).mkdir()
        fold.scored.write(fold_place(folder, number))
    write_index(paths.SCORED, folder, num_folds=len(folds), origin=origin)


def _alone_or_all(trees: Sequence[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    return trees[0] if len(trees) == 1 else {**facts, "folds": list(trees)}


if __name__ == "__main__":
    end_with_dvc()
    app()
