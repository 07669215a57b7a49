"""A stage for each of several labels: the same stage, as a process of its own, in a room of each label."""

import shutil
import sys
from pathlib import Path

from qin.config import Params, load_params
from qin.labels.parts import OUTPUTS, hand_over
from qin.labels.rooms import SHARED, furnish, inputs_of, room_of
from qin.runtime import paths
from qin.runtime.chain import description_of
from qin.runtime.errors import QinError
from qin.runtime.files import file_crc32, fingerprint, read_json, write_json
from qin.runtime.progress import log
from qin.runtime.provenance import code_fingerprint, library_versions
from qin.runtime.stage import StageReport, run_stage
from qin.runtime.stage_process import started_stage

# Raw files that a stage reads beside what others left: keys of users, columns of slices and segments, ids.
_RAW = {"calibrate": ("train",), "evaluate": ("train",), "predict": ("test", "sample_submission")}
_DONE = paths.SCRATCH / "done.json"


def runs_by_label(stage: str) -> bool:
    """Run a stage once for each label, where the settings name several.

    1. In a room of its own for each label, with the label's part of what earlier stages left, the stage runs as it does
       for that label alone. Which label a submission is of is `predict.label`.
    2. When it has ended well in all of them, their outputs take their places together.

    A run that was killed goes on in the label where it was: what is finished stays in its room until all are.

    Args:
        stage: One of those after split.

    Returns:
        Whether there are several, so that the stage is done.

    Raises:
        SystemExit: If it fails for a label; the stage's own process has said why.
    """
    try:
        # Without warnings, which the stage itself gives.
        params = load_params(paths.PARAMS, warns=False)
    except QinError:  # which the stage will meet as well, and tell
        return False
    labels = params.data.labels
    if len(labels) == 1:
        return False
    if stage == "predict":
        labels = (params.predict.label or params.data.first_label,)
    with run_stage(stage) as report:
        _check_inputs(stage, params, report)
        for number, label in enumerate(labels, start=1):
            log.info("label %s%s", label, f" ({number} of {len(labels)})" if len(labels) > 1 else "")
            report.num_rows += _run(stage, params, label)
        report.check_inputs()
        rooms = {label: room_of(stage, label) for label in labels}
        for room in rooms.values():
            (room / _DONE).unlink()  # from here on what is in the rooms is not whole
        hand_over(stage, rooms)
        shutil.rmtree(room_of(stage, labels[0]).parent)
    return True


def _check_inputs(stage: str, params: Params, report: StageReport) -> None:
    """Watch what all labels read, and check that it is of these settings; each label's process checks its own."""
    files = {f"data.{name}": getattr(params.data, name) for name in _RAW.get(stage, ())}
    places = [place for place in SHARED if place != paths.PREPARED_TEST or params.data.test is not None]
    there = [place for place in places if description_of(place).exists()]
    report.reads(*there, settings=params.model_dump(mode="json"), files=files)
    report.inputs.add(*_inputs_by_label(stage))


def _inputs_by_label(stage: str) -> list[Path]:
    return [place for place in inputs_of(stage) if place not in SHARED and place.suffix]


def _run(stage: str, params: Params, label: str) -> int:
    """Run the stage for a label unless it has ended well there before; returns its number of rows."""
    room = room_of(stage, label)
    settings = furnish(room, stage, params, label)
    # Of the room as it is furnished now: inputs are named by what is in their descriptions.
    key = _key(stage, settings, room)
    if _is_done(stage, room, key):
        log.info("label %s: finished before", label)
    else:
        # The stage is about to replace what it vouched for, and may be killed on the way.
        (room / _DONE).unlink(missing_ok=True)
        with started_stage(stage, room, checkpoints=paths.CHECKPOINTS) as process:
            status = process.wait()
        if status:
            sys.exit(status if status > 0 else 128 - status)
        write_json(room / _DONE, {"key": key})
    return int(read_json(room / paths.SCRATCH / "stages" / f"{stage}.json")["num_rows"])


def _is_done(stage: str, room: Path, key: str) -> bool:
    done = room / _DONE
    return done.exists() and read_json(done)["key"] == key and all((room / place).exists() for place in OUTPUTS[stage])


def _key(stage: str, settings: Params, room: Path) -> str:
    """A name for all that a stage's outputs depend on, in a room where its inputs are."""
    described = [description_of(place, at=room / place) for place in inputs_of(stage)]
    inputs = {str(file.relative_to(room)): file_crc32(file) for file in described if file.is_file()}
    code, versions = code_fingerprint(f"stages/{stage}.py"), library_versions()
    return fingerprint(stage, settings.model_dump(mode="json"), inputs, code, versions)
