"""Segments and clusters of a raw file's rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.raw import segments as module
from qin.raw.log import Chunk, RawLog, read_batches
from qin.raw.segments import read_clusters, read_segments, read_segments_of_folds, value_text
from qin.runtime.errors import DataError, SchemaError

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


def test_folds_are_read_in_one_pass_as_each_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = [np.array(rows, np.int64) for rows in ([0, 3, 5], [1, 3, 4], [])]
    alone = [read_segments(file, "text", rows) for rows in folds]
    passes: list[RawLog] = []

    def counted(log: RawLog, **options: Any) -> Iterator[Chunk]:
        passes.append(log)
        return read_batches(log, **options)

    monkeypatch.setattr(module, "read_batches", counted)
    together = read_segments_of_folds(file, "text", folds)
    assert [one.names for one in together] == [one.names for one in alone]
    assert [one.code.tolist() for one in together] == [one.code.tolist() for one in alone]
    assert len(passes) == 1


def test_rows_of_a_key_share_a_cluster_and_null_rows_do_not(file: Path) -> None:
    cluster = read_clusters(file, "number", np.arange(6))
    assert sorted(set(cluster.tolist())) == [0, 1, 2, 3, 4]
    assert cluster[0] == cluster[4]
    assert len({*cluster[[0, 1, 2, 3, 5]].tolist()}) == 5


def test_missing_and_the_text_null_are_two_segments(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["null", None, "x", "null"])}), tmp_path / "log.parquet")
    segments = read_segments(tmp_path / "log.parquet", "text", np.arange(4))
    assert [segments.names[code] for code in segments.code] == ['"null"', "null", "x", '"null"']


def test_bytes_and_uuids_are_segments_and_clusters(tmp_path: Path) -> None:
    raw = [UUID(int=(number << 64) | (0xFE << 120)).bytes for number in (1, 2, 1)]
    columns = {
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array(raw, pa.binary(16))),
        "fixed": pa.array(raw, pa.binary(16)),
        "latin": pa.array([b"\xfc", b"a", b"\xfc"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    for name in columns:
        cluster = read_clusters(tmp_path / "log.parquet", name, np.arange(3))
        assert cluster[0] == cluster[2] != cluster[1]
        segments = read_segments(tmp_path / "log.parquet", name, np.arange(3))
        expected = [r"\xfc", "a", r"\xfc"] if name == "latin" else [str(UUID(bytes=value)) for value in raw]
        assert [segments.names[code] for code in segments.code] == expected


def test_what_cannot_group_rows_is_refused(file: Path) -> None:
    with pytest.raises(SchemaError, match=r"no column nothing$"):
        read_segments(file, "nothing", np.arange(2))
    with pytest.raises(SchemaError, match=r"column lists: values of type list<.*> cannot group rows$"):
        read_clusters(file, "lists", np.arange(2))
    with pytest.raises(DataError, match="has 6 rows, row 6 was asked for"):
        read_segments(file, "text", np.array([6]))


def test_the_word_null_in_quotes_is_no_missing_value_either(tmp_path: Path) -> None:
    texts = ["null", '"null"', None, '""null""', "nulls", '"null']
    pq.write_table(pa.table({"text": texts}), tmp_path / "log.parquet")
    segments = read_segments(tmp_path / "log.parquet", "text", np.arange(6))
    names = [segments.names[code] for code in segments.code]
    assert names[:4] == ['"null"', '""null""', "null", '"""null"""']
    assert len(set(names)) == 6
    assert [value_text(name) for name in names] == texts
