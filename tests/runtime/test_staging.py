"""Two processes that write to one place: neither takes what the other is writing, nor clears it away."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qin.runtime.errors import ArtifactError
from qin.runtime.files import atomic_directory, atomic_file
from qin.runtime.replacing import beside
from tests.project import ROOT

# Begins to write a place, says so, and goes on when it is told to.
WRITER = """
import sys
from pathlib import Path
from qin.runtime.files import atomic_directory, atomic_file
kind, path = sys.argv[1], Path(sys.argv[2])
with (atomic_file if kind == "file" else atomic_directory)(path) as staging:
    file = staging if kind == "file" else staging / "a"
    with file.open("w") as opened:
        opened.write("theirs, ")
        opened.flush()
        print("begun", flush=True)
        sys.stdin.readline()
        opened.write("whole")
"""


@contextmanager
def writer(kind: str, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process, in the middle of writing a place."""
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_written_at_once_are_whole_and_the_last_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with writer("file", path) as process:
        with atomic_file(path) as staging:
            staging.write_text("ours")
        assert path.read_text() == "ours"
        _, errors = process.communicate("\n")
        assert (process.returncode, errors) == (0, "")
    assert path.read_text() == "theirs, whole"
    assert names(tmp_path) == ["out.csv"]


def test_the_first_may_end_first(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with writer("file", path) as process, atomic_file(path) as staging:
        staging.write_text("ours")
        process.communicate("\n")
        assert path.read_text() == "theirs, whole"
        with atomic_file(path) as third:  # the first name is free again, the second is held
            third.write_text("third")
        assert path.read_text() == "third"
    assert path.read_text() == "ours"
    assert names(tmp_path) == ["out.csv"]


def test_a_folder_that_another_writes_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    with writer("folder", path) as process:
        message = f"^{path}: another process is writing it; wait for it, or end it$"
        with pytest.raises(ArtifactError, match=message), atomic_directory(path):
            pass
        assert names(path) == ["old"]
        _, errors = process.communicate("\n")
        assert (process.returncode, errors) == (0, "")
    assert (path / "a").read_text() == "theirs, whole"
    assert names(tmp_path) == ["out/a"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_cleared_away(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with writer(kind, path) as process:
        process.kill()
    beside(path, "2.tmp").write_text("of another one that was killed")
    assert beside(path, "tmp").exists()
    if kind == "file":
        with atomic_file(path) as staging:
            assert staging.read_text() == ""
            staging.write_text("ours")
        assert names(tmp_path) == ["out"]
    else:
        with atomic_directory(path) as folder:
            assert list(folder.iterdir()) == []
            (folder / "a").write_text("ours")
        assert (path / "a").read_text() == "ours"


def test_a_folder_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").symlink_to(tmp_path / "disk that is not there")
    for begin in (atomic_file, atomic_directory):
        with pytest.raises(OSError, match="outputs"), begin(tmp_path / "outputs/out"):
            pass


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]
    assert os.listdir(tmp_path) == ["out"]
