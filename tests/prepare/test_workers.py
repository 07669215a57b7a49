"""Files encoded by several processes: the bytes of one process, the error of the first bad file, a killed worker."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.config import PrepareParams
from qin.prepare.file import prepare_file
from qin.prepare.part import PartTask
from qin.prepare.workers import encode_parts
from qin.raw.log import open_log
from qin.runtime.errors import DataError
from qin.shards.files import ShardReader
from tests.logs import log_schema, make_log

SCHEMA = log_schema(make_log(4))
NUM_ROWS = 500


def write_parts(folder: Path, cuts: list[int], *, bad: dict[int, int] | None = None) -> Path:
    """A log of `NUM_ROWS` rows in files that end at the cuts; labels that are wrong, by row."""
    folder.mkdir()
    log = make_log(NUM_ROWS)
    labels = log["clicked"].to_pylist()
    for row, label in (bad or {}).items():
        labels[row] = label
    table = pa.table({**log, "clicked": pa.array(labels)})
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, NUM_ROWS], strict=True)):
        pq.write_table(table.slice(start, stop - start), folder / f"{number}.parquet")
    return folder


def knobs(num_processes: int) -> PrepareParams:
    return PrepareParams(shard_rows=64, batch_rows=50, num_threads=1, num_processes=num_processes)


def prepare(log: Path, folder: Path, *, num_processes: int) -> Path:
    folder.mkdir()
    prepare_file(log, folder, schema=SCHEMA, with_label=True, knobs=knobs(num_processes))
    return folder


def test_processes_do_not_show_and_cuts_show_in_no_row(tmp_path: Path) -> None:
    cut = write_parts(tmp_path / "cut", [1, 1, 70, 390])  # a file of one row, one without any
    outputs = [prepare(cut, tmp_path / str(number), num_processes=number) for number in (1, 3)]
    contents = [{path.name: path.read_bytes() for path in output.iterdir()} for output in outputs]
    assert contents[0] == contents[1]
    whole = prepare(write_parts(tmp_path / "whole", []), tmp_path / "of-whole", num_processes=1)
    assert (whole / "statistics.json").read_bytes() == contents[0]["statistics.json"]
    readers = ShardReader(whole), ShardReader(outputs[0])
    for group in readers[0].groups:
        first, second = (reader.read(group.name, 0, NUM_ROWS) for reader in readers)
        assert first.tobytes() == second.tobytes()
        first, second = (reader.read(group.name, 60, 400) for reader in readers)
        assert first.tobytes() == second.tobytes()


def test_the_first_bad_value_of_the_first_bad_file_is_named(tmp_path: Path) -> None:
    log = write_parts(tmp_path / "log", [100, 200], bad={350: 7, 150: 8, 160: 9})
    for number in (1, 2):
        with pytest.raises(DataError) as caught:
            prepare(log, tmp_path / str(number), num_processes=number)
        assert str(caught.value) == f"{log}/1.parquet: column clicked, row 50: label must be 0 or 1: 8"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DeadlyTask(PartTask):
    """Kills the process that takes it, as the system does where memory is short."""

    def __reduce__(self) -> tuple[object, ...]:
        return _die, ()


def test_a_killed_process_is_one_line(tmp_path: Path) -> None:
    raw = open_log(write_parts(tmp_path / "log", [100]))
    tasks = [DeadlyTask(part, tmp_path, 0, SCHEMA, True, knobs(2)) for part in raw.parts]
    with pytest.raises(
        DataError, match=r"0\.parquet: a process that encoded files was killed, perhaps for want of mem"
    ):
        list(encode_parts(tasks, num_processes=2, advance=lambda _: None))
