"""Checkpoints are whole, newest first, checked when read, and of one process at a time."""

import errno
import os
import subprocess
import sys
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from qin.runtime.errors import ArtifactError
from qin.train.checkpoint import CheckpointStore
from tests.project import ROOT


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((100,), float(step)), "best": {}}


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_the_newest_state_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run")
    assert store.load() is None
    for step in (1, 9, 10, 1000):
        store.save(state(step), step=step)
        (path,) = (tmp_path / "run").iterdir()
        assert path == store.path
        found = CheckpointStore(tmp_path, "run").load()
        assert found is not None
        assert found["step"] == step
        torch.testing.assert_close(found["weight"], state(step)["weight"], rtol=0, atol=0)
    assert CheckpointStore(tmp_path, "another run").load() is None
    store.remove()
    assert store.load() is None
    assert names(tmp_path) == []


def test_a_run_killed_while_it_saves_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, "run")
    store.save(state(1), step=1)
    before = names(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    for place in ("torch.save", "os.fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(place, killed)
            with pytest.raises(KilledError):
                store.save(state(2), step=2)
        assert names(tmp_path) == before
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", killed)  # after the new one is in place, before the old one goes
        with pytest.raises(KilledError):
            store.save(state(2), step=2)
    found = store.load()
    assert found is not None
    assert found["step"] == 2
    store.save(state(3), step=3)
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, "run")
    store.save(state(1), step=1)
    path = store.path
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "truncate": content[:-1], "empty": bytearray()}[damage])
    with pytest.raises(ArtifactError) as caught:
        store.load()
    assert str(caught.value) == f"{path}: damaged checkpoint; delete it to train from the start"
    path.unlink()
    assert store.load() is None


def test_a_full_disk_keeps_the_last_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run")
    store.save(state(1), step=1)
    before = names(tmp_path)
    (tmp_path / "run/.checkpoint.tmp").symlink_to("/dev/full")  # every write to it says that the disk is full
    with pytest.raises(OSError, match="No space left on device") as caught:
        store.save(state(2), step=2)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "run/.checkpoint.tmp")
    assert names(tmp_path) == before


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_signal_in_mid_save_ends_and_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException], at: int
) -> None:
    """PyTorch ends its file on the way out, fails at that, and would show its own error instead."""
    store = CheckpointStore(tmp_path, "run")
    store.save(state(1), step=1)
    before, checksum, numbers = names(tmp_path), zlib.crc32, count(1)

    def interrupted(data: bytes, value: int = 0) -> int:
        if next(numbers) == at:
            raise ending
        return checksum(data, value)

    monkeypatch.setattr("qin.runtime.files.zlib.crc32", interrupted)
    with pytest.raises(ending):
        store.save(state(2), step=2)
    assert names(tmp_path) == before


HOLDER = """
import sys, time
from pathlib import Path
from qin.train.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), "run")
store.claim()
print("claimed", flush=True)
sys.stdin.read()
if sys.argv[2] == "finish":
    store.remove()
"""


def holder(root: Path, end: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(root), end], env=environment, text=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["finish", "die"])
def test_a_second_process_waits_for_its_turn(tmp_path: Path, end: str) -> None:
    with holder(tmp_path, end) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "claimed\n"
        CheckpointStore(tmp_path, "another run").claim()  # its own lock
        with holder(tmp_path, "finish") as second:
            assert second.stderr is not None
            assert second.stdout is not None
            assert (
                second.stderr.readline()
                == f"{tmp_path}/run.lock: another process trains the same run; waiting until it ends\n"
            )
            if end == "die":
                first.kill()
            assert first.stdin is not None
            first.stdin.close()
            assert second.stdout.readline() == "claimed\n"
            assert second.poll() is None
            assert second.stdin is not None
            second.stdin.close()
    assert first.returncode == (0 if end == "finish" else -9)
    assert second.returncode == 0
    assert not (tmp_path / "run.lock").exists()
