"""Raw files that are missing, damaged or empty, and reading by batches."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.errors import DataError, SchemaError
from qin.raw.parquet import open_parquet, read_batches, read_sample
from tests.logs import Columns, make_log, write_log


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


def write_parts(folder: Path, log: Columns, *, rows: int = 30) -> Path:
    """Parts as Spark names them, with what it leaves beside them and one without rows."""
    folder.mkdir()
    table = pa.table(dict(log))
    for number, start in enumerate([0, 0, *range(rows, table.num_rows, rows)]):
        part = table.slice(start, rows if number else 0)
        names = part.column_names if number % 2 else part.column_names[::-1]
        pq.write_table(part.select(names), folder / f"part-{number}.parquet", row_group_size=7)
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    return folder


@pytest.mark.parametrize("batch_rows", [7, 1000])
def test_a_folder_of_parts_is_one_log_in_the_order_of_the_names(tmp_path: Path, batch_rows: int) -> None:
    log = make_log(400)
    folder = write_parts(tmp_path / "train.parquet", log)  # of 15 parts: 10 comes after 9
    with open_parquet(folder) as opened:
        assert opened.num_rows == 400
    rows: list[str] = []
    for first_row, batch in read_batches(folder, columns=["ID", "seq"], batch_rows=batch_rows):
        assert first_row == len(rows)
        rows += batch.column("ID").to_pylist()
    assert rows == log["ID"].to_pylist()
    sample = read_sample(folder, columns=["seq", "ID"], num_rows=80).column("ID").to_pylist()
    assert sample == sorted(set(sample))
    assert sample[0] == "ROW_00000"
    assert sample[-1] > "ROW_00300"


def test_what_is_no_folder_of_equal_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: an empty folder; expected a Parquet file or a folder of \*\.parquet$"):
        open_parquet(tmp_path / "empty")
    folder = write_parts(tmp_path / "a", make_log(60))
    (folder / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt: no Parquet file by its name; "):
        open_parquet(folder)
    (folder / "notes.txt").unlink()
    pq.write_to_dataset(pa.table(make_log(60)), tmp_path / "hive", partition_cols=["shop"])
    with pytest.raises(DataError, match=r"shop=.*: a folder inside a folder of parts; .* write one file"):
        open_parquet(tmp_path / "hive")
    other = pa.table(make_log(9))
    for column in (pa.array(["1"] * 9), None):
        changed = other.drop_columns("item")
        if column is not None:
            changed = changed.append_column("item", column)
        pq.write_table(changed, folder / "part-1.parquet")
        kind = "missing" if column is None else "string"
        with pytest.raises(SchemaError) as caught:
            open_parquet(folder)
        assert str(caught.value) == (
            f"{folder / 'part-1.parquet'}: column item: {kind}, but int64 in {folder / 'part-0.parquet'}"
        )


def test_a_damaged_part_is_named_with_the_row_of_the_whole_log(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "log", make_log(90))
    part = folder / "part-3.parquet"
    content = bytearray(part.read_bytes())
    content[40:400] = b"\xff" * 360
    part.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_batches(folder, columns=["shop", "seq", "recent", "ID"], batch_rows=100))
    assert str(caught.value).startswith(f"{part}: row 60: cannot be read from here on (")


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
    with pq.ParquetFile(path) as file:
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
