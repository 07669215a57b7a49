"""Encoded files of earlier runs: of a log with a new day, that day alone is encoded, and nothing shows it."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.columns.schema import Schema
from qin.config import ImpressionParams, PrepareParams
from qin.features.derived import Impressions, with_derived
from qin.prepare import file as file_module
from qin.prepare import workers
from qin.prepare.cache import PartCache
from qin.prepare.file import prepare_file
from qin.prepare.part import PartTask
from tests.logs import feature_params, log_schema, make_log

SCHEMA = log_schema(make_log(4))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are encoded, as a test goes on."""
    names: list[str] = []
    original = workers.encode_parts

    def recording(tasks: list[PartTask], **options: Any) -> Any:
        names.extend(Path(task.part.name).name for task in tasks)
        return original(tasks, **options)

    monkeypatch.setattr(file_module, "encode_parts", recording)
    return names


def write_day(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(make_log(100 + number, seed=number)), folder / f"day-{number}.parquet")


def prepare(
    tmp_path: Path, name: str, *, cache: bool = True, schema: Schema = SCHEMA, **changes: Any
) -> dict[str, bytes]:
    """Prepare the folder `log`; returns the files of the output."""
    folder = tmp_path / name
    folder.mkdir()
    knobs = PrepareParams(shard_rows=64, batch_rows=50, num_threads=1)
    kept = PartCache(tmp_path / "cache") if cache else None
    prepare_file(tmp_path / "log", folder, schema=schema, with_label=True, knobs=knobs, cache=kept, **changes)
    if kept is not None:
        kept.prune()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_day_that_is_added_is_the_only_one_encoded(tmp_path: Path, encoded: list[str]) -> None:
    for number in (8, 9):
        write_day(tmp_path / "log", number)
    prepare(tmp_path, "first")
    write_day(tmp_path / "log", 10)
    encoded.clear()
    found = prepare(tmp_path, "second")
    assert encoded == ["day-10.parquet"]
    assert found == prepare(tmp_path, "fresh", cache=False)
    (tmp_path / "log/day-8.parquet").unlink()
    encoded.clear()
    assert prepare(tmp_path, "third") == prepare(tmp_path, "fresh-2", cache=False)
    assert encoded == ["day-9.parquet", "day-10.parquet"]  # both without a cache
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_decides_the_shards_is_encoded_again(tmp_path: Path, encoded: list[str]) -> None:
    write_day(tmp_path / "log", 1)
    write_day(tmp_path / "log", 2)
    prepare(tmp_path, "first")
    encoded.clear()
    prepare(tmp_path, "other", schema=Schema(**{**vars(SCHEMA), "hash_seed": 8}))
    assert encoded == ["day-1.parquet", "day-2.parquet"]
    table = pq.read_table(tmp_path / "log/day-2.parquet")
    pq.write_table(table.slice(1), tmp_path / "log/day-2.parquet")
    encoded.clear()
    prepare(tmp_path, "third", schema=Schema(**{**vars(SCHEMA), "hash_seed": 8}))
    assert encoded == ["day-2.parquet"]


@pytest.mark.parametrize("name", ["00000.bin", "counts.npz", "part.json"])
def test_a_damaged_entry_is_encoded_again(tmp_path: Path, encoded: list[str], name: str) -> None:
    write_day(tmp_path / "log", 1)
    first = prepare(tmp_path, "first")
    [entry] = (tmp_path / "cache").iterdir()
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / name).unlink()  # not through the link
    (entry / name).write_bytes(content)
    encoded.clear()
    assert prepare(tmp_path, "second") == first
    assert encoded == ["day-1.parquet"]


def test_features_of_impressions_that_change_are_seen(tmp_path: Path, encoded: list[str]) -> None:
    """Rows of one impression may lie in two files."""
    features = feature_params(impression=ImpressionParams(key=["shop"], columns=["price"]))
    impressions = Impressions.of(SCHEMA, features.impression)
    columns = pa.table(make_log(4)).schema
    schema = with_derived(SCHEMA, columns=columns, features=features, file="log")
    write_day(tmp_path / "log", 1)
    prepare(tmp_path, "first", schema=schema, impressions=impressions)
    encoded.clear()
    prepare(tmp_path, "again", schema=schema, impressions=impressions)
    assert encoded == []
    write_day(tmp_path / "log", 2)
    found = prepare(tmp_path, "second", schema=schema, impressions=impressions)
    assert encoded == ["day-1.parquet", "day-2.parquet"]
    assert found == prepare(tmp_path, "fresh", schema=schema, impressions=impressions, cache=False)


def test_where_files_cannot_be_linked_nothing_is_kept(
    tmp_path: Path, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    write_day(tmp_path / "log", 1)
    first = prepare(tmp_path, "first")
    monkeypatch.setattr(os, "link", refuse)
    encoded.clear()
    assert prepare(tmp_path, "second") == first  # what is kept is copied
    assert encoded == []
    write_day(tmp_path / "log", 2)
    prepare(tmp_path, "third")
    assert len(list((tmp_path / "cache").iterdir())) == 1
