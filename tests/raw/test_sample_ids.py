"""The ids of a sample submission: read as text, one to one with the test file's."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.raw.sample_ids import match_ids, read_sample_ids
from qin.runtime.errors import DataError


def write_sample(folder: Path, text: str | bytes) -> str:
    path = folder / "sample.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def text_ids(*ids: str, cut: int = 2) -> pa.ChunkedArray:
    return pa.chunked_array([list(ids[:cut]), list(ids[cut:])], pa.string())


def match(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> list[int]:
    def at(row: int) -> str:
        return f"test.parquet: column ID, row {row}"

    return list(match_ids(wanted, ids, file="sample.csv", column="ID", test="test.parquet", at=at).tolist())


def test_header_and_ids_are_read_as_text(tmp_path: Path) -> None:
    file = write_sample(tmp_path, 'ID,clicked\n007,0\nNA,0.5\n"a,""b""",0\n')
    header, ids = read_sample_ids(file)
    assert header == ["ID", "clicked"]
    assert ids.to_pylist() == ["007", "NA", 'a,"b"']


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    header, ids = read_sample_ids(write_sample(tmp_path, "\ufeffID,clicked\r\na,0\r\nb,0\r\n"))
    assert (header, ids.to_pylist()) == (["ID", "clicked"], ["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV file (Empty CSV file)"),
        ("ID,clicked\n", "has no rows"),
        ("ID\na\n", "expected two columns, the id and the probability, got ID"),
        ("a,b,c\n1,2,3\n", "expected two columns, the id and the probability, got a, b, c"),
        ("ID,clicked\na,0\n,0\n", "column ID, row 1: id is missing"),
        ('ID,clicked\n"",0\n', "column ID, row 0: id is missing"),
        (
            "ID,clicked\na,0\nb,1,2\n",
            "not a readable CSV file (CSV parse error: Row #3: Expected 2 columns, got 3: b,1,2)",
        ),
    ],
)
def test_a_bad_sample_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = write_sample(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_sample_ids(file)
    assert str(caught.value) == f"{file}: {message}"


def test_a_sample_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: file not found$"):
        read_sample_ids(str(tmp_path / "no.csv"))
    with pytest.raises(DataError, match=r": is a folder; a sample submission is one CSV file$"):
        read_sample_ids(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        (b"ID,clicked\n\xff\xfe,0\n", 2, "ff"),
        ("ID,클릭확률\na,0\n".encode("cp949"), 1, "b8"),
        ("ID,clicked\na,0\n".encode("utf-16"), 1, "ff"),
        (b"ID,clicked\na,0\nb,0\nc,0 \xc3", 4, "c3"),
    ],
)
def test_other_encodings_are_refused_with_what_to_do(tmp_path: Path, content: bytes, line: int, byte: str) -> None:
    file = write_sample(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_sample_ids(file)
    assert str(caught.value) == (
        f"{file}: line {line}: not a readable CSV file (not UTF-8: byte 0x{byte}); "
        "save it as UTF-8, in Excel as `CSV UTF-8`"
    )


def test_the_same_order_is_the_identity() -> None:
    assert match(text_ids("a", "b", "c"), text_ids("a", "b", "c", cut=1)) == [0, 1, 2]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30, unique=True), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_permuted_sample_is_followed(ids: list[str], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(ids)).tolist()
    assert match(text_ids(*(ids[row] for row in order)), text_ids(*ids)) == order


@pytest.mark.parametrize(
    ("wanted", "ids", "message"),
    [
        ("abx", "abc", "sample.csv: column ID, row 2: id is not in test.parquet: 'x'"),
        ("abcd", "abc", "sample.csv: column ID, row 3: id is not in test.parquet: 'd'"),
        ("bab", "abc", "sample.csv: column ID, row 2: id occurs twice: 'b'"),
        ("cbaacb", "abc", "sample.csv: column ID, row 3: id occurs twice: 'a'"),
        ("ca", "abc", "test.parquet: column ID, row 1: id is not in sample.csv: 'b'"),
    ],
)
def test_ids_must_match_one_to_one(wanted: str, ids: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        match(text_ids(*wanted), text_ids(*ids))
    assert str(caught.value) == message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sample.csv")
    with pytest.raises(
        DataError, match=r"sample\.csv: a device or a pipe, which may never end; a sample submission is"
    ):
        read_sample_ids(str(tmp_path / "sample.csv"))
