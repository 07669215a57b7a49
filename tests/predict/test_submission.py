"""The submission: the sample's order, ids one to one, and text that gives back the same floats."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.errors import DataError
from qin.predict import submission
from qin.predict.submission import match_ids, read_submission_ids, write_submission


def write_sample(folder: Path, text: str | bytes) -> str:
    path = folder / "sample.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def text_ids(*ids: str, cut: int = 2) -> pa.ChunkedArray:
    return pa.chunked_array([list(ids[:cut]), list(ids[cut:])], pa.string())


def match(wanted: pa.ChunkedArray, ids: pa.ChunkedArray) -> list[int]:
    return list(match_ids(wanted, ids, file="sample.csv", column="ID", test="test.parquet").tolist())


def test_header_and_ids_are_read_as_text(tmp_path: Path) -> None:
    file = write_sample(tmp_path, 'ID,clicked\n007,0\nNA,0.5\n"a,""b""",0\n')
    header, ids = read_submission_ids(file)
    assert header == ["ID", "clicked"]
    assert ids.to_pylist() == ["007", "NA", 'a,"b"']


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    header, ids = read_submission_ids(write_sample(tmp_path, "\ufeffID,clicked\r\na,0\r\nb,0\r\n"))
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
        read_submission_ids(file)
    assert str(caught.value) == f"{file}: {message}"


def test_a_sample_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: file not found$"):
        read_submission_ids(str(tmp_path / "no.csv"))
    with pytest.raises(DataError, match=r"sample\.csv: not a readable CSV file \("):
        read_submission_ids(write_sample(tmp_path, b"ID,clicked\n\xff\xfe,0\n"))


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


def read_back(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_file_letter_by_letter(tmp_path: Path) -> None:
    path = tmp_path / "outputs" / "submission.csv"
    write_submission(
        path, header=["ID", "clicked"], ids=text_ids("a", "b c", "007"), probability=np.array([0.25, 1e-7, 0.1])
    )
    assert path.read_bytes() == b"ID,clicked\na,0.25\nb c,1e-7\n007,0.1\n"


def test_ids_and_header_that_need_quotes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_WRITE_ROWS", 2)
    ids = ["a,b", '"', "x y", "한국", "3"]
    header = ['the "id", quoted', "clicked"]
    probability = np.linspace(0, 1, 5)
    write_submission(tmp_path / "s.csv", header=header, ids=text_ids(*ids), probability=probability)
    rows = read_back(tmp_path / "s.csv")
    assert rows[0] == header
    assert [row[0] for row in rows[1:]] == ids
    assert [float(row[1]) for row in rows[1:]] == probability.tolist()


def test_probabilities_come_back_as_the_same_32_bit_floats(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probability = np.concatenate([generator.random(2000), 10.0 ** generator.uniform(-44, 0, 2000), [0.0, 1.0]])
    ids = pa.chunked_array([[str(number) for number in range(probability.size)]])
    write_submission(tmp_path / "s.csv", header=["ID", "clicked"], ids=ids, probability=probability)
    texts = [row[1] for row in read_back(tmp_path / "s.csv")[1:]]
    assert np.array([np.float32(text) for text in texts]).tolist() == probability.astype(np.float32).tolist()
    assert max(len(text.split("e")[0].replace(".", "").lstrip("0")) for text in texts) <= 9


def test_a_failed_write_keeps_the_earlier_submission(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_submission(path, header=["ID", "clicked"], ids=text_ids("a", "b"), probability=np.array([0.5, 0.5]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="same length"):
        write_submission(path, header=["ID", "clicked"], ids=text_ids("a", "b", "c"), probability=np.array([0.5]))
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["s.csv"]
