"""Ranges of rows from shards against the arrays that were written."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qin.columns.schema import Field, FieldKind, Schema
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json, write_exact_json
from qin.shards.files import Arrays, Group, ShardReader, ShardWriter, layout
from tests.logs import log_schema, make_log

GROUPS = (
    Group("categorical", "<u2", 3),
    Group("numeric", "<f4", 2),
    Group("sequence.seq", "<i4", 5),
    Group("empty", "<f4", 0),
    Group("label", "|u1", 1),
)


def make_arrays(num_rows: int) -> Arrays:
    generator = np.random.default_rng(num_rows)
    return {group.name: generator.integers(0, 200, (num_rows, group.width)).astype(group.dtype) for group in GROUPS}


def write(folder: Path, arrays: Arrays, *, shard_rows: int, cuts: list[int] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    num_rows = len(arrays["label"])
    writer = ShardWriter(folder, GROUPS, num_rows=num_rows, shard_rows=shard_rows)
    borders = [0, *sorted(cuts or []), num_rows]
    for start, stop in pairwise(borders):
        writer.append({name: array[start:stop] for name, array in arrays.items()})
    writer.close(schema=log_schema(make_log(4)))
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_range_equals_the_arrays(tmp_path: Path, data: st.DataObject) -> None:
    num_rows = data.draw(st.integers(1, 40))
    rows = st.integers(0, num_rows)
    arrays = make_arrays(num_rows)
    folder = tmp_path / "log"
    for old in folder.glob("*"):
        old.unlink()
    write(folder, arrays, shard_rows=data.draw(st.integers(1, 45)), cuts=data.draw(st.lists(rows, max_size=5)))
    reader = ShardReader(folder)
    assert reader.num_rows == num_rows
    for start, stop in [(0, num_rows), *(sorted(data.draw(st.tuples(rows, rows))) for _ in range(4))]:
        for group in GROUPS:
            found = reader.read(group.name, start, stop)
            assert found.dtype == np.dtype(group.dtype)
            np.testing.assert_array_equal(found, arrays[group.name][start:stop])


def test_files_hold_the_groups_one_after_the_other(tmp_path: Path) -> None:
    arrays = make_arrays(10)
    write(tmp_path / "log", arrays, shard_rows=6)
    for name, rows in (("00000.bin", slice(0, 6)), ("00001.bin", slice(6, 10))):
        expected = b"".join(arrays[group.name][rows].tobytes() for group in GROUPS)
        assert (tmp_path / "log" / name).read_bytes() == expected


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 11), (5, 4)])
def test_ranges_outside_the_file_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    reader = ShardReader(write(tmp_path / "log", make_arrays(10), shard_rows=4))
    with pytest.raises(ValueError, match="rows must be a range inside 0 to 10"):
        reader.read("label", start, stop)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", make_arrays(10), shard_rows=4)
    path = folder / "00001.bin"
    reader = ShardReader(folder)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError) as caught:
        ShardReader(folder)
    assert str(caught.value) == f"{path}: has {size - 3} bytes, expected {size}; run the prepare stage again"
    with pytest.raises(ArtifactError, match=r"00001\.bin: truncated: 1 bytes at \d+, expected 4$"):
        reader.read("label", 4, 8)


@pytest.mark.parametrize(
    ("number", "position", "group"), [(0, 0, "categorical"), (1, 60, "sequence.seq"), (2, -1, "label")]
)
def test_a_changed_bit_is_named(tmp_path: Path, number: int, position: int, group: str) -> None:
    folder = write(tmp_path / "log", make_arrays(10), shard_rows=4)
    reader = ShardReader(folder)
    reader.verify()
    path = folder / f"{number:05d}.bin"
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        reader.verify()
    assert str(caught.value) == f"{path}: {group}: damaged; run the prepare stage again"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", make_arrays(10), shard_rows=4)
    (folder / "00002.bin").unlink()
    with pytest.raises(ArtifactError, match=r"00002\.bin: file not found; run the prepare stage$"):
        ShardReader(folder)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json: file not found; run the stage that writes it$"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("number", [0, 2, 4, "3", None])
def test_another_format_is_refused(tmp_path: Path, number: object) -> None:
    folder = write(tmp_path / "log", make_arrays(10), shard_rows=4)
    write_exact_json(folder / "manifest.json", {**read_exact_json(folder / "manifest.json"), "format": number})
    with pytest.raises(ArtifactError) as caught:
        ShardReader(folder)
    assert str(caught.value) == f"{folder}/manifest.json: format {number!r}, expected 3"


@pytest.mark.parametrize(("num_buckets", "dtype"), [(3, "<u2"), (65536, "<u2"), (65537, "<i4"), (2**31 - 1, "<i4")])
def test_bucket_numbers_fit_their_type(num_buckets: int, dtype: str) -> None:
    fields = (
        Field("a", FieldKind.CATEGORICAL, vocabulary="a", num_buckets=3),
        Field("b", FieldKind.CATEGORICAL, vocabulary="b", num_buckets=num_buckets),
        Field("s", FieldKind.SEQUENCE, vocabulary="s", num_buckets=num_buckets, max_len=5),
    )
    schema = Schema(fields=fields, target=("a",), label="clicked", id="ID", hash_seed=0)
    assert np.iinfo(dtype).max >= num_buckets - 1
    assert layout(schema, with_label=False) == (
        Group("categorical", dtype, 2),
        Group("numeric", "<f4", 0),
        Group("sequence.s", dtype, 5),
    )
    assert layout(schema, with_label=True)[-1] == Group("label", "|u1", 1)
