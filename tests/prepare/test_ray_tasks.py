"""Files encoded by Ray on this machine alone: the bytes of one process, a lost worker, the first bad file's error."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qin.prepare.file import prepare_file
from qin.prepare.part import PartTask
from qin.prepare.ray_tasks import encode_parts_on_ray
from qin.raw.log import open_log
from qin.raw.parts import RawPart
from qin.runtime.errors import ConfigError, DataError
from tests.prepare.test_workers import SCHEMA, knobs, write_parts

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray, which has 250 MB")
ON_RAY = knobs(2).model_copy(update={"launcher": "ray"})


@dataclass(frozen=True)
class DeadlyPart(RawPart):
    """A file whose reader is killed after its first batch, as often as is written in a file."""

    kills: Path = Path()

    def batches(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        for row, batch in super().batches(*arguments, **options):
            yield row, batch
            left = int(self.kills.read_text())
            if row and left:
                self.kills.write_text(str(left - 1))
                os.kill(os.getpid(), signal.SIGKILL)


def tasks_of(log: Path, folder: Path, *, kills: Path) -> list[PartTask]:
    """One task a file, the second of them deadly."""
    folder.mkdir()
    tasks = []
    for number, part in enumerate(open_log(log).parts):
        fields = {name: getattr(part, name) for name in RawPart.__dataclass_fields__}
        taken = DeadlyPart(**fields, kills=kills) if number == 1 else part
        tasks.append(PartTask(taken, folder, 10 * number, SCHEMA, True, ON_RAY))
    return tasks


@needs_ray
def test_the_bytes_are_those_of_one_process_and_a_bad_value_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # with paths relative to it, as those of params.yaml are
    cut = write_parts(Path("cut"), [1, 1, 70, 390])
    contents = []
    for name, settings in (("here", knobs(1)), ("ray", ON_RAY)):
        Path(name).mkdir()
        prepare_file(cut, Path(name), schema=SCHEMA, with_label=True, knobs=settings)
        contents.append({path.name: path.read_bytes() for path in Path(name).iterdir()})
    assert contents[0] == contents[1]

    bad = write_parts(Path("log"), [100, 200], bad={350: 7, 150: 8, 160: 9})
    Path("bad").mkdir()
    with pytest.raises(DataError) as caught:
        prepare_file(bad, Path("bad"), schema=SCHEMA, with_label=True, knobs=ON_RAY)
    assert str(caught.value) == f"{bad}/1.parquet: column clicked, row 50: label must be 0 or 1: 8"


@needs_ray
def test_a_lost_worker_is_replaced_and_the_bytes_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, kills = write_parts(tmp_path / "log", [100, 300]), tmp_path / "kills"
    found = {}
    for number in (0, 2):
        kills.write_text(str(number))
        folder = tmp_path / f"{number} kills"
        parts = encode_parts_on_ray(tasks_of(log, folder, kills=kills), num_processes=2, advance=lambda _: None)
        shards = [[shard["crc32"] for shard in part.shards] for part in parts]
        found[number] = shards, {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kills.read_text() == "0"
    assert found[0] == found[2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{log}/1.parquet: its worker was lost; encoded again"
    ]


@needs_ray
def test_a_file_that_always_ends_its_worker_is_one_line(tmp_path: Path) -> None:
    log, kills = write_parts(tmp_path / "log", [100, 300]), tmp_path / "kills"
    kills.write_text("100")
    parts = encode_parts_on_ray(tasks_of(log, tmp_path / "out", kills=kills), num_processes=2, advance=lambda _: None)
    with pytest.raises(DataError, match=r"log/1\.parquet: the worker that encoded it was lost 4 times, perhaps for"):
        list(parts)


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    tasks = [
        replace(task, folder=tmp_path)
        for task in tasks_of(write_parts(tmp_path / "log", [100]), tmp_path / "out", kills=tmp_path / "kills")
    ]
    with pytest.raises(ConfigError, match=r'params\.yaml: prepare\.launcher: ray needs an extra: pip install "qin-ctr'):
        list(encode_parts_on_ray(tasks, num_processes=2, advance=lambda _: None))
