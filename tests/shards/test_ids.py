"""Ids on disk: the same bytes however they were batched."""

import resource
from pathlib import Path

import pyarrow as pa
import pytest

from qin.runtime.errors import DataError
from qin.shards import ids as ids_module
from qin.shards.ids import IDS, IdWriter, read_ids


def at(row: int) -> str:
    return f"test.parquet: column ID, row {row}"


def write(folder: Path, values: list[str], *, batch_rows: int) -> bytes:
    folder.mkdir(exist_ok=True)
    with IdWriter(folder, at=at) as writer:
        for start in range(0, len(values), batch_rows):
            writer.append(pa.array(values[start : start + batch_rows]), first_row=start)
    return (folder / IDS).read_bytes()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "_BLOCK_ROWS", 8)


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 40, 41])
def test_batches_do_not_show(tmp_path: Path, num_rows: int) -> None:
    values = [f"TEST_{row}" for row in range(num_rows)]
    whole = write(tmp_path / "whole", values, batch_rows=1000)
    assert read_ids(tmp_path / "whole").to_pylist() == values
    assert all(write(tmp_path / "parts", values, batch_rows=size) == whole for size in (1, 3, 8, 13))


def test_a_repeated_id_is_named_across_blocks(tmp_path: Path) -> None:
    values = [f"TEST_{row}" for row in range(40)]
    values[30], values[35] = values[2], values[33]
    with pytest.raises(DataError) as caught:
        write(tmp_path / "ids", values, batch_rows=5)
    assert str(caught.value) == "test.parquet: column ID, row 30: id occurs twice: 'TEST_2'"


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / "ids", [f"TEST_{row}" for row in range(1000)], batch_rows=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "ids" / IDS)


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_an_id_that_is_no_utf8_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"a", None, b"\xff\xfe"], pa.binary())
    array = pa.Array.from_buffers(kind, 3, values.buffers()).slice(2)
    with (
        pytest.raises(DataError, match=r"^test\.parquet: column ID, row 7: id is no text in UTF-8: b'\\xff\\xfe'$"),
        IdWriter(tmp_path, at=at) as writer,
    ):
        writer.append(array, first_row=7)


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([1, 2**63], pa.uint64()), ["1", str(2**63)]),
    ],
)
def test_ids_of_other_types_are_their_text(tmp_path: Path, array: pa.Array, texts: list[str]) -> None:
    with IdWriter(tmp_path, at=at) as writer:
        writer.append(array, first_row=0)
    assert read_ids(tmp_path).to_pylist() == texts
