"""The submission: the sample's order and text that gives back the same floats."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qin.predict import submission
from qin.predict.submission import write_submission


def text_ids(*ids: str, cut: int = 2) -> pa.ChunkedArray:
    return pa.chunked_array([list(ids[:cut]), list(ids[cut:])], pa.string())


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
