"""An input that is edited while a stage runs is named; one that is only touched is not, if it is small."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qin.runtime import edits
from qin.runtime.edits import InputWatch, remember_code
from qin.runtime.errors import EditedError

MESSAGE = "edited while stage train ran, so that its outputs would not be those of its inputs; run it again"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is watched by size, time and inode."""
    monkeypatch.setattr(edits, "_SMALL_BYTES", 10)
    path = tmp_path / "train.parquet"
    path.write_bytes(b"x" * 100)
    return path


def watch(*paths: Path) -> InputWatch:
    inputs = InputWatch()
    inputs.add(*paths)
    return inputs


def edited(inputs: InputWatch) -> str:
    with pytest.raises(EditedError) as caught:
        inputs.check("train")
    return str(caught.value)


def test_what_stays_is_no_edit(tmp_path: Path, large: Path) -> None:
    small, folder = tmp_path / "p.yaml", tmp_path / "parts"
    small.write_text("a: 1")
    folder.mkdir()
    (folder / "0.parquet").write_text("0")
    inputs = watch(small, large, folder, tmp_path / "missing")
    os.utime(small, (1, 1))  # an editor that saves the same again
    inputs.check("train")


def test_a_small_file_is_watched_by_content(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("lr: 0.001")
    found = path.stat()
    inputs = watch(path)
    path.write_text("lr: 0.002")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert edited(inputs) == f"{path}: {MESSAGE}"
    path.write_text("lr: 0.001")
    inputs.check("train")
    path.unlink()
    assert edited(inputs) == f"{path}: {MESSAGE}"


def test_a_large_file_is_watched_by_size_time_and_inode(large: Path) -> None:
    inputs, found = watch(large), large.stat()
    os.utime(large, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    assert edited(inputs) == f"{large}: {MESSAGE}"
    os.utime(large, ns=(found.st_atime_ns, found.st_mtime_ns))
    inputs.check("train")
    copy = large.with_name("copy")
    copy.write_bytes(large.read_bytes())
    os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
    copy.replace(large)
    assert edited(inputs) == f"{large}: {MESSAGE}"


def test_files_that_come_and_go_are_edits(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    inputs = watch(folder, tmp_path / "missing")
    (folder / "0.parquet").write_text("0")
    assert edited(inputs) == f"{folder}: {MESSAGE}"
    (tmp_path / "missing").write_text("not any more")
    assert edited(inputs) == f"{folder}, {tmp_path}/missing: {MESSAGE}"


def test_many_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    inputs = watch(*paths)
    for path in paths:
        path.touch()
    assert edited(inputs) == f"{paths[0]}, {paths[1]}, {paths[2]} and 2 more: {MESSAGE}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of ours with two modules, of which one is imported."""
    folder = tmp_path / "code/qin"
    folder.mkdir(parents=True)
    for name in ("imported", "other"):
        (folder / f"{name}.py").write_text("x = 1")
    module = ModuleType("qin.imported")
    module.__file__ = str(folder / "imported.py")
    monkeypatch.setitem(sys.modules, "qin.imported", module)
    monkeypatch.setattr(edits, "_ROOT", tmp_path / "code")
    monkeypatch.setattr(edits, "_code_at_start", {})
    return folder


def test_code_that_was_imported_is_watched(package: Path) -> None:
    inputs = InputWatch()
    (package / "other.py").write_text("x = 2")
    inputs.check("train")
    (package / "imported.py").write_text("x = 2")
    assert edited(inputs) == f"qin/imported.py: {MESSAGE}"


def test_code_is_that_of_the_start_of_the_process(package: Path) -> None:
    """Imports take seconds, in which an editor may save."""
    remember_code()
    (package / "imported.py").write_text("x = 2")
    assert edited(InputWatch()) == f"qin/imported.py: {MESSAGE}"
