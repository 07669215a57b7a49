"""Raw logs of one file and of many: what is missing, damaged, empty or unlike, and reading by batches."""

import re
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.raw.log import open_log, read_batches, read_sample
from qin.runtime.errors import DataError, SchemaError
from tests.logs import Columns, make_log, write_log


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("row_group_rows", [None, 30])
def test_batches_are_the_file_in_order(tmp_path: Path, batch_rows: int, row_group_rows: int | None) -> None:
    log = make_log(100)
    file = write_log(tmp_path / "log.parquet", log, row_group_rows=row_group_rows)
    rows: list[str] = []
    for chunk in read_batches(file, columns=["ID", "seq"], batch_rows=batch_rows):
        assert chunk.row == chunk.first_row == len(rows)
        assert 0 < chunk.batch.num_rows <= batch_rows
        assert chunk.batch.schema.names == ["ID", "seq"]
        rows += chunk.batch.column("ID").to_pylist()
    assert rows == log["ID"].to_pylist()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.parquet: file not found$"):
        open_log(tmp_path / "no.parquet")


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\0" * 200 + b"PAR1"])
def test_another_format_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_log(path)
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
    assert open_log(folder).num_rows == 400
    rows: list[str] = []
    for chunk in read_batches(folder, columns=["ID", "seq"], batch_rows=batch_rows):
        assert chunk.first_row == len(rows)
        rows += chunk.batch.column("ID").to_pylist()
    assert rows == log["ID"].to_pylist()
    sample = read_sample(folder, columns=["seq", "ID"], num_rows=80).column("ID").to_pylist()
    assert sample == sorted(set(sample))
    assert sample[0] == "ROW_00000"
    assert sample[-1] > "ROW_00300"


def test_what_is_no_folder_of_equal_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty: an empty folder; expected a Parquet or CSV file, or a folder of them$"
    ):
        open_log(tmp_path / "empty")
    folder = write_parts(tmp_path / "a", make_log(60))
    (folder / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt: no Parquet or CSV file by its name; "):
        open_log(folder)
    (folder / "notes.txt").unlink()
    other = pa.table(make_log(9))
    for column in (pa.array(["1"] * 9), None):
        changed = other.drop_columns("item")
        if column is not None:
            changed = changed.append_column("item", column)
        pq.write_table(changed, folder / "part-1.parquet")
        kind = "missing" if column is None else "string"
        with pytest.raises(SchemaError) as caught:
            open_log(folder)
        assert str(caught.value) == (
            f"{folder / 'part-1.parquet'}: column item: {kind}, but int64 in {folder / 'part-0.parquet'}"
        )


def test_a_damaged_part_is_named_with_its_own_row(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "log", make_log(90))
    part = folder / "part-3.parquet"
    content = bytearray(part.read_bytes())
    content[40:400] = b"\xff" * 360
    part.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_batches(folder, columns=["shop", "seq", "recent", "ID"], batch_rows=100))
    assert str(caught.value).startswith(f"{part}: row 0: cannot be read from here on (")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path / "log.parquet", make_log(500)))
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 9):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="not a readable Parquet file"):
            open_log(path)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.parquet", {"a": pa.array([], pa.int64())})
    with pytest.raises(DataError) as caught:
        open_log(file)
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
        for chunk in read_batches(path, columns=["ID"], batch_rows=100):
            rows += chunk.batch.column("ID").to_pylist()
    assert rows == [f"ROW_{row:05d}" for row in range(len(rows))]
    assert str(caught.value).startswith(f"{path}: row {len(rows)}: cannot be read from here on (")
    assert "\n" not in str(caught.value)


def write_days(folder: Path, log: Columns, *, days: list[str], column: str = "day") -> Path:
    """A folder per value, as Spark and pandas write them; returns the folder."""
    table = pa.table(dict(log))
    size = -(-table.num_rows // len(days))
    for number, day in enumerate(days):
        (folder / f"{column}={day}").mkdir(parents=True)
        pq.write_table(table.slice(number * size, size), folder / f"{column}={day}" / "part-0.parquet")
    return folder


@pytest.mark.parametrize(
    ("days", "kind", "values"),
    [
        (["2022-05-01", "2022-05-02"], pa.string(), ["2022-05-01", "2022-05-02"]),
        (["9", "10"], pa.int64(), [9, 10]),
        (["07", "08"], pa.string(), ["07", "08"]),
        (["-1", "__HIVE_DEFAULT_PARTITION__"], pa.int64(), [-1, None]),
    ],
)
def test_folders_named_by_a_value_are_a_column(
    tmp_path: Path, days: list[str], kind: pa.DataType, values: list[object]
) -> None:
    log = open_log(write_days(tmp_path / "log", make_log(100), days=days))
    assert log.schema.field("day").type == kind
    assert log.schema.names[-1] == "day"
    rows: list[object] = []
    for chunk in read_batches(log, columns=["day", "ID"], batch_rows=30):
        assert chunk.batch.schema.names == ["day", "ID"]
        rows += chunk.batch.column("day").to_pylist()
    assert rows == [values[0]] * 50 + [values[1]] * 50
    assert read_sample(log, columns=["day"], num_rows=10).column("day").to_pylist()[-1] == values[1]


def test_a_column_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    folder = write_days(tmp_path / "log", make_log(10), days=["1", "2"], column="item")
    with pytest.raises(SchemaError, match=r"item=1/part-0\.parquet: column item: in the file and in the name of its"):
        open_log(folder)


def test_a_column_that_one_part_lacks_values_of_has_the_type_of_the_others(tmp_path: Path) -> None:
    """Pandas writes a column without a type where a day has no value at all."""
    log = make_log(60)
    for number, shop in enumerate((pa.nulls(20), log["shop"].slice(20, 20), pa.nulls(20))):
        part = {name: array.slice(20 * number, 20) for name, array in log.items()}
        write_log(tmp_path / f"{number}.parquet", {**part, "shop": shop})
    opened = open_log(tmp_path)
    assert opened.schema.field("shop").type == pa.string()
    batches = [chunk.batch for chunk in read_batches(opened, columns=["shop"], batch_rows=50)]
    assert pa.Table.from_batches(batches).column("shop").to_pylist() == [
        *[None] * 20,
        *log["shop"].slice(20, 20).to_pylist(),
        *[None] * 20,
    ]


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [
        ([pa.array([1], pa.int8()), pa.array([None, 2.0]), pa.array([3], pa.int64())], pa.float64()),
        ([pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.nulls(1)], pa.string()),
        ([pa.array(["a"], pa.string_view()), pa.array(["b"])], pa.large_string()),
        ([pa.array([1.5], pa.float32()), pa.array([1], pa.int64())], pa.float64()),
        ([pa.array([datetime(2022, 5, 1)], pa.timestamp("s")), pa.array([datetime(2022, 5, 1)])], pa.timestamp("us")),
        ([pa.array([[]], pa.list_(pa.null())), pa.array([[1, 2]])], pa.list_(pa.field("element", pa.int64()))),
    ],
)
def test_widths_and_layouts_may_differ(tmp_path: Path, arrays: list[pa.Array], kind: pa.DataType) -> None:
    """Pandas makes floats of integers on the first day with a gap."""
    for number, array in enumerate(arrays):
        write_log(tmp_path / f"{number}.parquet", {"x": array})
    log = open_log(tmp_path)
    assert log.schema.field("x").type == kind
    chunks = [chunk.batch.column("x").to_pylist() for chunk in read_batches(log, columns=["x"], batch_rows=9)]
    assert chunks == [array.to_pylist() for array in arrays]
    assert {chunk.batch.schema.field("x").type for chunk in read_batches(log, columns=["x"], batch_rows=9)} == {kind}
    assert read_sample(log, columns=["x"], num_rows=9).column("x").type == kind


@pytest.mark.parametrize(
    "other", [pa.array(["1"]), pa.array([1.0], pa.float16()), pa.array([True]), pa.array([datetime(2022, 5, 1)])]
)
def test_types_whose_equal_values_differ_are_refused(tmp_path: Path, other: pa.Array) -> None:
    write_log(tmp_path / "0.parquet", {"x": pa.array([1])})
    write_log(tmp_path / "1.parquet", {"x": other})
    with pytest.raises(SchemaError, match=rf"1\.parquet: column x: {re.escape(str(other.type))}, but int64 in "):
        open_log(tmp_path)


def test_messages_name_the_file_and_the_row_in_it(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "log", make_log(90))
    log = open_log(folder)
    assert log.at("shop", 0) == f"{folder / 'part-1.parquet'}: column shop, row 0"
    assert log.at("shop", 61) == f"{folder / 'part-3.parquet'}: column shop, row 1"
