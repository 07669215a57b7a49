"""A file is read once for its name, as long as it is as it was; what has just been written is read every time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime import checksums
from qin.runtime.checksums import file_checksum
from qin.runtime.sources import SourceFile, list_files
from tests.object_store import ObjectStore, object_store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that are read, in the order of the reads, in a folder and a process that know none."""
    found: list[str] = []
    read = checksums._checksum

    def counted(source: SourceFile) -> str:
        found.append(source.name)
        return read(source)

    monkeypatch.setattr(checksums, "_checksum", counted)
    monkeypatch.setattr(checksums, "_known", {})
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(monkeypatch) as found:
        yield found


def local(path: Path, content: bytes, *, age: float) -> SourceFile:
    path.write_bytes(content)
    moment = path.stat().st_mtime - age
    os.utime(path, (moment, moment))
    (file,) = list_files(path)
    return file


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "log.parquet"
    file = local(path, b"one", age=100.0)
    first = file_checksum(file)
    assert file_checksum(file) == first
    assert len(reads) == 1
    assert file_checksum(local(path, b"two", age=50.0)) != first
    again = local(path, b"six", age=0.0)
    assert len({file_checksum(again), file_checksum(again), first}) == 2
    assert len(reads) == 4, "what was written a moment ago is not remembered"


def test_a_remote_file_is_read_once_by_all_processes(
    tmp_path: Path, reads: list[str], store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_SECONDS", -60.0)
    path = tmp_path / "log.parquet"
    path.write_bytes(b"one")
    (file,) = list_files(store.put(path, "log.parquet"))
    first = file_checksum(file)
    monkeypatch.setattr(checksums, "_known", {})  # another process
    assert file_checksum(file) == first
    assert len(reads) == 1
    path.write_bytes(b"three")
    store.put(path, "log.parquet")
    second = file_checksum(file)
    assert second != first
    monkeypatch.setattr(checksums, "_known", {})
    next(Path(".qin/checksums").iterdir()).write_text("damaged")
    assert file_checksum(file) == second
    assert len(reads) == 3
