"""What prepare derives, in the shards: of histories and impressions, whatever the batches, threads and shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qin.columns.resolve import resolve_schema
from qin.config import ImpressionParams, PrepareParams
from qin.features.derived import Impressions, with_derived
from qin.prepare.file import prepare_file
from qin.runtime.errors import DataError
from qin.shards.files import ShardReader
from tests.logs import Columns, data_params, feature_params, make_log, write_log

NUM_ROWS = 300
FEATURES = feature_params(impression=ImpressionParams(key=["request"], columns=["price", "place"]))


def make() -> Columns:
    generator = np.random.default_rng(3)
    place = [None if n == 5 else str(n + 0.5) for n in generator.integers(0, 6, NUM_ROWS)]
    request = [None if n == 9 else n for n in generator.integers(0, 40, NUM_ROWS).tolist()]
    log = make_log(NUM_ROWS)
    item = pa.array([0 if n % 2 else n for n in log["item"].to_pylist()])
    recent = pa.array([None if h is None else [0 if n % 3 else n for n in h] for h in log["recent"].to_pylist()])
    return {**log, "item": item, "recent": recent, "place": pa.array(place), "request": pa.array(request)}


def prepare(folder: Path, log: Columns, **knobs: int) -> ShardReader:
    folder.mkdir(parents=True)
    file = write_log(folder / "log.parquet", log)
    columns = pa.schema([(name, array.type) for name, array in log.items()])
    schema = resolve_schema(columns, data=data_params(ignore=["place", "request"]), features=FEATURES)
    (folder / "out").mkdir()
    prepare_file(
        file,
        folder / "out",
        schema=with_derived(schema, columns=columns, features=FEATURES, file=file),
        with_label=True,
        knobs=PrepareParams.model_validate({"shard_rows": 64, "batch_rows": 50, "num_threads": 1, **knobs}),
        impressions=Impressions.of(schema, FEATURES.impression),
    )
    return ShardReader(folder / "out")


def numbers(reader: ShardReader) -> dict[str, np.ndarray]:
    columns = reader.read("numeric", 0, reader.num_rows).T
    return {field.name: column for field, column in zip(reader.schema.numeric, columns, strict=True)}


def test_histories_are_described_as_a_loop_would(tmp_path: Path) -> None:
    log = make()
    found = numbers(prepare(tmp_path / "a", log))
    assert found["seq.length"].tolist() == [len(h.split(",")) if h else 0 for h in log["seq"].to_pylist()]
    histories = [history or [] for history in log["recent"].to_pylist()]
    for row, (item, history) in enumerate(zip(log["item"].to_pylist(), histories, strict=True)):
        hits = history.count(item)
        since = history[::-1].index(item) if hits else np.nan
        share = hits / len(history) if history else np.nan
        wanted = np.array([len(history), hits, since, share], np.float32)
        got = np.array([found[f"recent.{name}"][row] for name in ("length", "hits", "since", "share")])
        assert np.array_equal(got, wanted, equal_nan=True)
    assert (found["recent.hits"] > 0).sum() > 20


def test_impressions_are_described_as_a_loop_would(tmp_path: Path) -> None:
    log = make()
    found = numbers(prepare(tmp_path / "a", log))
    request = log["request"].to_pylist()
    values = {
        "price": np.array([np.nan if v is None else v for v in log["price"].to_pylist()], np.float32),
        "place": np.array([np.nan if v is None else float(v) for v in log["place"].to_pylist()], np.float32),
        "recent.hits": found["recent.hits"],
    }
    for row, key in enumerate(request):
        shown = [row] if key is None else [other for other in range(NUM_ROWS) if request[other] == key]
        assert found["impression.size"][row] == len(shown)
        for name, column in values.items():
            others = column[shown][~np.isnan(column[shown])]
            rank = found[f"impression.{name}.rank"][row]
            if np.isnan(column[row]):
                assert np.isnan(rank)
                continue
            smaller, ties = (others < column[row]).sum(), (others == column[row]).sum() - 1
            assert rank == pytest.approx((smaller + ties / 2) / (others.size - 1) if others.size > 1 else 0.5, abs=1e-6)


def test_batches_threads_and_shards_change_nothing(tmp_path: Path) -> None:
    one = prepare(tmp_path / "one", make())
    two = prepare(tmp_path / "two", make(), batch_rows=7, num_threads=3, shard_rows=19)
    for group in one.groups:
        first, second = (reader.read(group.name, 0, NUM_ROWS) for reader in (one, two))
        assert first.tobytes() == second.tobytes()
    assert {path.suffix for path in (tmp_path / "one" / "out").iterdir()} == {".bin", ".json"}  # nothing temporary


def test_nulls_are_counted_of_the_files_columns_alone(tmp_path: Path) -> None:
    reader = prepare(tmp_path / "a", make())
    text = (reader.folder / "statistics.json").read_text()
    assert '"price"' in text
    assert "recent.since" not in text


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("place", "3rd", r"column place, row 7: not a number: '3rd'"),
        ("place", "inf", r"column place, row 7: not a number: 'inf'"),
        ("place", "1e300", r"column place, row 7: too large for 32-bit floats"),
    ],
)
def test_text_that_is_no_number_is_named(tmp_path: Path, column: str, value: Any, message: str) -> None:
    log = make()
    cells = log[column].to_pylist()
    cells[7] = value
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a", {**log, column: pa.array(cells)})
