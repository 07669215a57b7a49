"""Raw files that are missing, damaged or empty, and reading by batches."""

from pathlib import Path

import pyarrow as pa
import pytest

from qin.errors import DataError
from qin.raw.parquet import open_parquet, read_batches
from tests.logs import make_log, write_log


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("row_group_rows", [None, 30])
def test_batches_are_the_file_in_order(tmp_path: Path, batch_rows: int, row_group_rows: int | None) -> None:
    log = make_log(100)
    file = write_log(tmp_path / "log.parquet", log, row_group_rows=row_group_rows)
    rows: list[str] = []
    for first_row, batch in read_batches(file, columns=["ID", "seq"], batch_rows=batch_rows):
        assert first_row == len(rows)
        assert 0 < batch.num_rows <= batch_rows
        assert set(batch.schema.names) == {"ID", "seq"}
        rows += batch.column("ID").to_pylist()
    assert rows == log["ID"].to_pylist()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.parquet: file not found$"):
        open_parquet(tmp_path / "no.parquet")


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\0" * 200 + b"PAR1"])
def test_another_format_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_parquet(path)
    assert str(caught.value).startswith(f"{path}: not a readable Parquet file (")
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        open_parquet(tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path / "log.parquet", make_log(500)))
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 9):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="not a readable Parquet file"):
            open_parquet(path)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.parquet", {"a": pa.array([], pa.int64())})
    with pytest.raises(DataError) as caught:
        open_parquet(file)
    assert str(caught.value) == f"{file}: has no rows"


def test_a_damaged_page_is_named_with_the_row_where_reading_ends(tmp_path: Path) -> None:
    """The footer is whole, so only reading notices; the rows of the first row group are still delivered."""
    path = Path(write_log(tmp_path / "log.parquet", make_log(400), row_group_rows=200))
    with open_parquet(path) as file:
        column = file.metadata.row_group(1).column(file.schema_arrow.names.index("ID"))
        start = column.dictionary_page_offset or column.data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(damaged)
    rows = []
    with pytest.raises(DataError) as caught:  # noqa: PT012
        for _, batch in read_batches(path, columns=["ID"], batch_rows=100):
            rows += batch.column("ID").to_pylist()
    assert rows == [f"ROW_{row:05d}" for row in range(len(rows))]
    assert str(caught.value).startswith(f"{path}: row {len(rows)}: cannot be read from here on (")
    assert "\n" not in str(caught.value)
