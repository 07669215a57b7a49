"""CSV logs: the types that columns get, equal rows to Parquet's, what is converted again and when, named errors."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.raw import csv_files
from qin.raw.log import open_log, read_batches
from qin.runtime.errors import DataError, SchemaError
from qin.runtime.paths import CSV


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def column(values: list[str]) -> str:
    return "".join(["x,y\n", *(f"{value},1\n" for value in values)])


def values(source: Any, name: str = "x") -> list[Any]:
    return [
        value for chunk in read_batches(source, columns=[name], batch_rows=3) for value in chunk.batch[0].to_pylist()
    ]


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["1", "-20", "", "0"], pa.int64(), [1, -20, None, 0]),
        (["1", "NULL", "NA", "7"], pa.int64(), [1, None, None, 7]),
        (["1", "2.50", "+.5e1", "nan"], pa.float64(), [1.0, 2.5, 5.0, None]),
        (["007", "8"], pa.string(), ["007", "8"]),
        (["1234567890123456789", "2"], pa.string(), ["1234567890123456789", "2"]),
        (["NA", "DE", '""', ""], pa.string(), ["NA", "DE", "", None]),
        (['"1,2,3"', '"a ""b"""', '"two\nlines"'], pa.string(), ["1,2,3", 'a "b"', "two\nlines"]),
        (["2022-05-01", "2022-05-02"], pa.string(), ["2022-05-01", "2022-05-02"]),
        (["", ""], pa.null(), [None, None]),
    ],
)
def test_a_column_gets_the_narrowest_type_that_holds_its_values(
    cells: list[str], kind: pa.DataType, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 16)  # a row or two at a time
    log = open_log(write("log.csv", column(cells)))
    assert log.schema.field("x").type == kind
    assert values(log) == expected


@pytest.mark.parametrize("name", ["log/a.csv.gz", "log/a.tsv"])
def test_compressed_and_tab_separated_files(name: str) -> None:
    text = column(["1", "2"])
    write(name, text.replace(",", "\t") if "tsv" in name else text)
    assert values("log") == [1, 2]


def test_the_files_of_a_log_agree_on_a_type() -> None:
    write("log/0.csv", column(["1", "2"]))
    write("log/1.csv", column(["", "x"]))
    pq.write_table(pa.table({"x": ["9"], "y": [5]}), "log/2.parquet")
    assert values("log") == ["1", "2", None, "x", "9"]
    assert values("log", "y") == [1, 1, 1, 1, 5]
    pq.write_table(pa.table({"x": [9], "y": [5]}), "log/2.parquet")
    with pytest.raises(SchemaError, match=r"log/2\.parquet: column x: int64, but string in log/0\.csv$"):
        open_log("log")


def test_a_file_is_converted_again_only_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = write("log.csv", column(["1", "2"])), Path.cwd()
    first = open_log(path)
    for read in ("_rows", "_header"):
        monkeypatch.setattr(csv_files, read, lambda *_: pytest.fail("read again"))
    assert open_log(path) == first
    monkeypatch.undo()  # also of the folder that this runs in
    monkeypatch.chdir(folder)
    path.write_text(column(["1", "2.5", "3"]))
    assert values(path) == [1.0, 2.5, 3.0]
    assert len(list(CSV.rglob("*.parquet"))) == len(list(CSV.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3\n", "CSV parse error: Row #3: Expected 2 columns, got 1: 3"),
        ("", "Empty CSV file"),
        ("x,y\n\xff,2\n", "invalid UTF8"),
    ],
)
def test_what_is_no_csv_is_named_with_its_row(text: str, message: str) -> None:
    Path("log.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        open_log("log.csv")
    assert str(caught.value).startswith("log.csv: not a readable CSV file (")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_alone_and_a_missing_file_are_named() -> None:
    write("log.csv", "x,y\n")
    with pytest.raises(DataError, match=r"^log\.csv: has no rows$"):
        open_log("log.csv")
    with pytest.raises(DataError, match=r"^no\.csv: file not found$"):
        open_log("no.csv")


def test_a_cut_archive_is_named() -> None:
    path = write("log.csv.gz", column([str(row) for row in range(5000)]))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError, match=r"^log\.csv\.gz: not a readable CSV file \("):
        open_log(path)
