"""Files are whole or absent, have the same bytes for the same content, and refuse what is not a number."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from qin.runtime.errors import ArtifactError
from qin.runtime.files import (
    Exact,
    atomic_directory,
    atomic_file,
    fingerprint,
    read_array,
    read_exact_json,
    read_json,
    write_array,
    write_csv,
    write_exact_json,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    for name in ("old", "new"):
        with atomic_directory(path) as folder:
            (folder / name).write_text(name)
            assert folder != path
    assert names(tmp_path) == ["deep/out/new"]


def test_a_directory_stays_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_directory(path) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(KeyError), atomic_directory(path) as folder:  # noqa: PT012
        (folder / "new").write_text("half")
        raise KeyError
    assert names(tmp_path) == ["out/old"]


def test_what_a_killed_run_left_is_not_taken_over(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.tmp"
    leftover.mkdir()
    (leftover / "half").write_text("half")
    with atomic_directory(tmp_path / "out") as folder:
        assert folder == leftover
        (folder / "whole").write_text("whole")
    assert names(tmp_path) == ["out/whole"]


def test_a_file_stays_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.txt"
    with atomic_file(path) as staging:
        staging.write_text("old")
    with pytest.raises(KeyError), atomic_file(path) as staging:  # noqa: PT012
        staging.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["deep/out.txt"]


def test_json_has_six_digits_and_keeps_its_order(tmp_path: Path) -> None:
    tree = {
        "z": 1 / 3,
        "a": [1e-9 / 3, 123456.789, -0.5],
        "n": {"int": np.int64(3), "float": np.float32(0.1), "flag": True, "none": None, "text": "é"},
        "large": 2**60 + 1,
    }
    write_json(tmp_path / "m.json", tree)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    found = read_json(tmp_path / "m.json")
    assert list(found) == ["z", "a", "n", "large"]
    assert found == {
        "z": 0.333333,
        "a": [3.33333e-10, 123457.0, -0.5],
        "n": {"int": 3, "float": 0.1, "flag": True, "none": None, "text": "é"},
        "large": 2**60 + 1,
    }


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": float("nan")}, "a: nan"),
        ({"a": {"b": [1.0, float("inf")]}}, "a.b.1: inf"),
        ({"a": {"b": np.float32("-inf")}}, "a.b: -inf"),
    ],
)
def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path: Path, tree: Any, path: str) -> None:
    write_json(tmp_path / "m.json", {"old": 1})
    with pytest.raises(ArtifactError) as caught:
        write_json(tmp_path / "m.json", tree)
    assert str(caught.value) == f"{path} cannot be written as JSON"
    assert read_json(tmp_path / "m.json") == {"old": 1}
    assert names(tmp_path) == ["m.json"]


def test_exact_json_keeps_every_digit(tmp_path: Path) -> None:
    tree = {"x": 0.1 + 0.2, "y": [1e-300, 2**53 - 1], "z": {"b": 1, "a": None}}
    write_exact_json(tmp_path / "m.json", tree)
    assert read_exact_json(tmp_path / "m.json") == tree


@pytest.mark.parametrize("change", ['"x": 0.5', '"x": 0.25, "y": 1', '"x": NaN', '"checksum": 1'])
def test_exact_json_that_was_edited_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m.json"
    write_exact_json(path, {"x": 0.25})
    path.write_text(re.sub('"x": 0.25', change, path.read_text()))
    with pytest.raises(
        ArtifactError, match=r"m\.json: its checksum is not that of its content: .*; run the stage that"
    ):
        read_exact_json(path)


def test_csv_has_six_digits(tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", [{"x": 1 / 3, "name": "a", "n": 12345678}, {"x": np.float64(2), "name": "b", "n": 0}])
    assert (tmp_path / "p.csv").read_text() == "x,name,n\n0.333333,a,12345678\n2,b,0\n"


def test_csv_quotes_text_and_keeps_a_header_without_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", [{"value": 'a "b", c', "n": 1}], columns=("value", "n"))
    assert (tmp_path / "p.csv").read_text() == 'value,n\n"a ""b"", c",1\n'
    write_csv(tmp_path / "p.csv", [], columns=("value", "n"))
    assert (tmp_path / "p.csv").read_text() == "value,n\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file not found; run the stage that writes it"),
        (b"{", "not valid JSON: "),
        (b"\xff", "not valid JSON: "),
        (b"[1]", "expected a JSON object, got list"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def read_a(path: Path, crc32: int) -> Any:
    return read_array(path, crc32=crc32, dtype="int64", shape=(100,), stage="split")


def test_every_bit_of_an_array_file_is_under_its_checksum(tmp_path: Path) -> None:
    """The header too: `<` and `>` differ by one bit, and swap the bytes of every value."""
    path = tmp_path / "a.npy"
    crc32 = write_array(path, np.arange(100))
    whole = path.read_bytes()
    np.save(tmp_path / "b.npy", np.arange(100))
    assert whole == (tmp_path / "b.npy").read_bytes()
    assert read_a(path, crc32).tolist() == list(range(100))
    damaged = [whole[:i] + bytes([whole[i] ^ 2]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (b"", b"garbage", whole[:-8], whole + b"x", *damaged):
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            read_a(path, crc32)
        assert str(caught.value) == f"{path}: damaged or edited by hand; run the split stage again"
    path.unlink()
    with pytest.raises(ArtifactError, match=r"a\.npy: file not found; run the split stage$"):
        read_a(path, crc32)


@pytest.mark.parametrize("array", [np.arange(100, dtype=">i8"), np.arange(100.0), np.arange(99), np.arange(100)[None]])
def test_an_array_of_another_type_or_shape_is_named(tmp_path: Path, array: Any) -> None:
    crc32 = write_array(tmp_path / "a.npy", array)
    with pytest.raises(ArtifactError) as caught:
        read_a(tmp_path / "a.npy", crc32)
    assert str(caught.value) == (
        f"{tmp_path}/a.npy: {array.dtype} of shape {array.shape}, expected int64 of shape (100,); "
        "run the split stage again"
    )


def test_fingerprints_are_pinned_and_follow_content() -> None:
    assert fingerprint({"a": 1, "b": [1.5, "x"]}, "y") == "421acecfb0d5812e"
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    different = [fingerprint({"a": 1}), fingerprint({"a": "1"}), fingerprint({"a": 1.5}), fingerprint({"a": 1}, {})]
    assert len(set(different)) == 4


def test_json_bytes_are_what_python_writes(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": 0.5, "b": {"c": 1}})
    assert (tmp_path / "m.json").read_text() == json.dumps({"a": 0.5, "b": {"c": 1}}, indent=2) + "\n"


def test_a_key_keeps_every_digit_beside_figures(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"boundary": Exact(1650694105.25), "share": 1650694105.25})
    assert json.loads((tmp_path / "a.json").read_text()) == {"boundary": 1650694105.25, "share": 1650690000.0}
    with pytest.raises(ArtifactError, match=r"^boundary: nan cannot be written as JSON$"):
        write_json(tmp_path / "a.json", {"boundary": Exact("nan")})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """A file that takes the place of /dev/null would be the end of it for every program."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ArtifactError, match=rf"^{path}: is a device or a pipe, whose place no file may take$"):
            write_json(path, {"a": 1})
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_csv_is_read_back_whatever_its_cells_hold(tmp_path: Path) -> None:
    """Python's own writer leaves a carriage return alone, which readers then take for the end of a line."""
    cells = ["a\rb", "a\r\nb", "a\nb", "\r", "a,b", 'q"q', '"', "", " ", "\x00", "=1+1", "é", "\u2028", "x" * 100_000]
    write_csv(tmp_path / "p.csv", [{"na\rme": cell, "n": number} for number, cell in enumerate(cells)])
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row["na\rme"] for row in rows] == cells
    assert [row["n"] for row in rows] == list(map(str, range(len(cells))))
    table = pacsv.read_csv(
        tmp_path / "p.csv",
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types={"na\rme": pa.string()}),
    )
    assert table.column("na\rme").to_pylist() == cells
