"""Stage 7: calibrated probabilities of the test file, in the order of the sample submission; how it drifts.

python -m stages predict
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import typer

from qin.calibrate.calibrator import segment_column
from qin.calibrate.folds import averaged, read_deployed_folds
from qin.calibrate.report import CalibrationReport, read_calibrations
from qin.config import Params, load_params
from qin.features.file_drift import FileDrift, ScoreReference, in_one_line
from qin.features.joined import open_rows
from qin.features.reference import Reference, chunks
from qin.labels.stage import runs_by_label
from qin.members import Members
from qin.metrics.logits import Float64Array, FloatArray, sigmoid
from qin.network.threads import fix_threads
from qin.predict.submission import write_submission
from qin.raw.log import open_log
from qin.raw.sample_ids import match_ids, read_sample_ids
from qin.raw.segments import Segments, read_segments
from qin.runtime import paths
from qin.runtime.closing import log_summary
from qin.runtime.files import write_csv, write_json
from qin.runtime.folded import place_of_fold
from qin.runtime.parent import end_with_dvc
from qin.runtime.progress import log
from qin.runtime.sources import Source
from qin.runtime.stage import StageReport, run_stage
from qin.scored.prior import shift_prior
from qin.scored.rows import ScoredRows
from qin.shards.files import ShardReader
from qin.shards.ids import read_ids

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Write outputs/submission.csv and outputs/drift.json; then the run's figures stand beside the last commit's."""
    if not runs_by_label("predict"):
        with run_stage("predict") as report:
            _predict(report)
    log_summary()  # the last stage tells, whether or not there is anything to predict


def _predict(report: StageReport) -> None:
    """Score the test file.

    1. The ids that the sample submission asks for are found in the test file, before anything is scored.
    2. The members of each deployed fold score the test file, whose calibrated logits are averaged.
    3. What was scored is compared with the rows of training.
    4. Submission and drift are written, if nothing that was read was edited meanwhile.
    """
    params = load_params(paths.PARAMS)
    data = params.data
    if data.test is None or data.sample_submission is None:
        log.info("data.test is null: nothing to predict, %s has its header alone", paths.SUBMISSION)
        write_csv(paths.SUBMISSION, [], columns=[data.id, "probability"])
        write_json(paths.DRIFT, {})
        return
    members = [paths.MEMBERS[name] for name in params.model.members]
    report.reads(
        *(paths.PREPARED_TEST, paths.STATISTICS, *members, paths.BLEND, paths.SCORED, paths.CALIBRATOR),
        settings=params.model_dump(mode="json"),
        files={"data.test": data.test, "data.sample_submission": data.sample_submission},
    )
    fix_threads(params.train.num_threads)
    reader = ShardReader(paths.PREPARED_TEST)
    reader.verify()
    header, wanted = read_sample_ids(data.sample_submission)
    at, ids = partial(_at, data.test, data.id), read_ids(paths.PREPARED_TEST)
    rows = match_ids(wanted, ids, file=data.sample_submission, column=data.id, test=data.test_name, at=at)
    calibrations, deployed = read_calibrations(paths.CALIBRATOR), read_deployed_folds(paths.BLEND)
    segments = _segments(calibrations, data.test, num_rows=reader.num_rows)
    scored = [_scored(params, fold, calibrations[fold - 1], segments) for fold in deployed]
    logit = averaged([one.shifted for one in scored])
    drift = _drift(scored[0], fold=deployed[0])  # of one fold: the folds' scores lie on scales of their own
    if drift["large"]:
        found = in_one_line(drift["large"])
        log.warning("warning: %s: unlike the train file: %s; see %s", data.test_name, found, paths.DRIFT)
    report.check_inputs()
    log.info("%s: probabilities of %s", paths.SUBMISSION, params.predict.label or data.label)
    write_submission(paths.SUBMISSION, header=header, ids=wanted, probability=sigmoid(logit)[rows])
    write_json(paths.DRIFT, drift)
    report.num_rows = reader.num_rows


@dataclass(frozen=True)
class _Scored:
    """The test file as the members of one fold score it, or the only ones.

    Attributes:
        logit: As they are blended, `(num_rows,)`.
        calibrated: At the natural prior, `(num_rows,)`.
        shifted: At the output's prior, `(num_rows,)`.
        base_rate: That the calibrated ones refer to.
    """

    logit: FloatArray
    calibrated: Float64Array
    shifted: Float64Array
    base_rate: float


def _segments(calibrations: Sequence[CalibrationReport], test: Source, *, num_rows: int) -> Segments | None:
    """What calibrators shift the rows to predict by: one column of the raw file, whatever the number of folds."""
    column = segment_column(one.deployed for one in calibrations)
    return None if column is None else read_segments(test, column, np.arange(num_rows))


def _scored(params: Params, fold: int, calibration: CalibrationReport, segments: Segments | None) -> _Scored:
    """Score the test file by the members of a fold; the first is 1."""
    reader = open_rows(paths.PREPARED_TEST, place_of_fold(paths.STATISTICS, fold))
    model = Members.load(params, reader, heldout=False, fold=fold)
    logit = model.logit(reader, batch_size=params.predict.batch_size)
    calibrated = calibration.deployed.apply(logit, segments)
    shifted = shift_prior(calibrated, base_rate=calibration.base_rate, prior=params.predict.prior)
    return _Scored(logit, calibrated, shifted, calibration.base_rate)


def _drift(scored: _Scored, *, fold: int) -> dict[str, Any]:
    """How the rows to predict differ from those of training, their scores by a fold's members among it."""
    reader = ShardReader(paths.PREPARED_TEST)
    scores = ScoreReference.of(ScoredRows.read(place_of_fold(paths.SCORED, fold)).logit)
    drift = FileDrift(reader.schema, Reference.read(paths.STATISTICS), scores)
    for arrays in chunks(reader):
        drift.update(arrays)
    drift.add_scores(scored.logit, sigmoid(scored.calibrated))
    return drift.summary(base_rate=scored.base_rate)


def _at(test: Source, column: str, row: int) -> str:
    """Where an id is, as messages say it; the raw files are looked at only where one is written."""
    return open_log(test).at(column, row)


if __name__ == "__main__":
    end_with_dvc()
    app()
