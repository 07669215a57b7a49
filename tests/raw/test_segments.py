"""Segments and clusters of a raw file's rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.errors import DataError, SchemaError
from qin.raw.hashing import hash_values, seed_of
from qin.raw.segments import canonical_text, read_clusters, read_segments

_COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["b", None, "10", "a", "b", "9"]),
    "number": pa.array([3.0, float("nan"), None, 0.5, 3.0, -2.0], pa.float32()),
    "lists": pa.array([[1], [], [2], [3], None, [4]]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pq.write_table(pa.table(_COLUMNS), tmp_path / "log.parquet", row_group_size=4)
    return tmp_path / "log.parquet"


@pytest.mark.parametrize("batch_rows", [1, 4, 65536])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [1, 4], [5], []])
def test_segments_are_the_columns_values(
    file: Path, rows: list[int], batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qin.raw.segments._BATCH_ROWS", batch_rows)
    expected = {"text": ["b", "null", "10", "a", "b", "9"], "number": ["3", "null", "null", "0.5", "3", "-2"]}
    for column, values in expected.items():
        segments = read_segments(file, column, np.array(rows, np.int64))
        assert [segments.names[code] for code in segments.code] == [values[row] for row in rows]
        assert list(segments.names) == sorted({values[row] for row in rows})


def test_rows_of_a_key_share_a_cluster_and_null_rows_do_not(file: Path) -> None:
    cluster = read_clusters(file, "number", np.arange(6))
    assert sorted(set(cluster.tolist())) == [0, 1, 2, 3, 4]
    assert cluster[0] == cluster[4]
    assert len({*cluster[[0, 1, 2, 3, 5]].tolist()}) == 5


@pytest.mark.parametrize("values", [[0, -7, 2**62], [0.0, 1.5, -1e300], ["3", "3.0", "x"], [True, False, True]])
def test_canonical_text_is_what_is_hashed(values: list[Any]) -> None:
    seed, array = seed_of("any", 0), pa.array(values)
    assert hash_values(canonical_text(array), seed)[0].tolist() == hash_values(array, seed)[0].tolist()
    assert canonical_text(array.dictionary_encode()).equals(canonical_text(array))


def test_what_cannot_group_rows_is_refused(file: Path) -> None:
    with pytest.raises(SchemaError, match=r"no column nothing$"):
        read_segments(file, "nothing", np.arange(2))
    with pytest.raises(SchemaError, match=r"column lists: lists cannot group rows$"):
        read_clusters(file, "lists", np.arange(2))
    with pytest.raises(DataError, match="has 6 rows, row 6 was asked for"):
        read_segments(file, "text", np.array([6]))
