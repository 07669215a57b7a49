"""Features of impressions against loops over the rows of a file, however it is read; rows without a key are alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.features.impression import (
    Compared,
    Distance,
    build_impression_features,
    feature_names,
    impression_features,
    impression_hashes,
)
from qin.raw.hashing import hash_column

NUM_ROWS = 500


def numbers(name: str) -> Compared:
    def values(_file: str, _row: int, batch: pa.RecordBatch) -> list[np.ndarray]:
        return [batch.column(name).to_numpy(zero_copy_only=False).astype(np.float32)]

    return Compared((name,), (name,), values)


def build(folder: Path, columns: dict[str, Any], key: list[str], **changes: Any) -> np.ndarray:
    folder.mkdir(parents=True)
    file = str(folder / "log.parquet")
    pq.write_table(pa.table(columns), file)
    settings = {"batch_rows": 64, "num_threads": 1, **changes}
    features = build_impression_features(file, key=key, compared=[numbers("price")], folder=folder, **settings)
    out = np.empty((len(columns["price"]), 3), np.float32)
    features.read_into(0, out)
    return out


def log(seed: int) -> dict[str, pa.Array]:
    generator = np.random.default_rng(seed)
    session = [None if n == 9 else f"s{n}" for n in generator.integers(0, 10, NUM_ROWS)]
    price = generator.integers(0, 5, NUM_ROWS).astype(np.float32)
    price[generator.random(NUM_ROWS) < 0.1] = np.nan
    return {
        "session": pa.array(session, pa.string()),
        "time": pa.array(generator.integers(0, 9, NUM_ROWS)),
        "price": pa.array(price, from_pandas=False),
    }


def test_features_are_those_of_a_loop(tmp_path: Path) -> None:
    columns = log(0)
    found = build(tmp_path / "log", columns, ["session", "time"])
    keys = list(zip(columns["session"].to_pylist(), columns["time"].to_pylist(), strict=True))
    price = columns["price"].to_numpy(zero_copy_only=False).astype(np.float64)
    for row, key in enumerate(keys):
        shown = np.array([row] if key[0] is None else [other for other in range(NUM_ROWS) if keys[other] == key])
        values = price[shown][~np.isnan(price[shown])]
        assert found[row, 0] == shown.size
        if np.isnan(price[row]):
            assert np.isnan(found[row, 1:]).all()
            continue
        smaller, ties = (values < price[row]).sum(), (values == price[row]).sum() - 1
        spread = values.std()
        assert found[row, 1] == pytest.approx((smaller + ties / 2) / (values.size - 1) if values.size > 1 else 0.5)
        assert found[row, 2] == pytest.approx((price[row] - values.mean()) / spread if spread else 0.0, abs=1e-5)


def test_numbers_are_compared_with_those_of_the_row_that_was_last_in_a_history(tmp_path: Path) -> None:
    """Three hotels of one list, of which the second was looked at last; then a list of which none was."""
    columns = {
        "list": pa.array([1, 1, 1, 2, 2]),
        "price": pa.array(np.array([90, 70, np.nan, 50, 60], np.float32), from_pandas=False),
        "since": pa.array(np.array([4, 1, np.nan, np.nan, np.nan], np.float32), from_pandas=False),
    }
    file = str(tmp_path / "log.parquet")
    pq.write_table(pa.table(columns), file)
    compared, distances = [numbers("price"), numbers("since")], [Distance(0, 1, "apart")]
    names = feature_names(["price", "since"], distances)
    assert names[-1] == "apart"
    features = build_impression_features(
        file, key=["list"], compared=compared, distances=distances, folder=tmp_path, batch_rows=2, num_threads=1
    )
    out = np.empty((5, len(names)), np.float32)
    features.read_into(0, out)
    np.testing.assert_array_equal(out[:, -1], np.array([20, 0, np.nan, np.nan, np.nan], np.float32))
    in_memory = np.empty_like(out)
    hashes = impression_hashes([hash_column(columns["list"])], first_row=0)
    values = [columns[name].to_numpy(zero_copy_only=False) for name in ("price", "since")]
    impression_features(hashes, values, distances).read_into(0, in_memory)
    np.testing.assert_array_equal(in_memory, out)


def test_batches_and_threads_change_nothing(tmp_path: Path) -> None:
    plain = build(tmp_path / "one", log(1), ["session", "time"])
    other = build(tmp_path / "two", log(1), ["session", "time"], batch_rows=7, num_threads=3)
    assert np.array_equal(plain, other, equal_nan=True)


def test_the_key_of_a_number_is_its_value_whatever_the_type(tmp_path: Path) -> None:
    columns = log(2)
    text = {**columns, "time": columns["time"].cast(pa.string())}
    number, other = (build(tmp_path / str(i), c, ["session", "time"]) for i, c in enumerate((columns, text)))
    assert np.array_equal(number, other, equal_nan=True)


def test_rows_without_a_key_are_alone(tmp_path: Path) -> None:
    nothing = {"session": pa.nulls(40, pa.string()), "price": pa.array(np.arange(40, dtype=np.float32))}
    assert build(tmp_path / "log", nothing, ["session"]).tolist() == [[1.0, 0.5, 0.0]] * 40


def test_only_the_features_are_left_on_disk(tmp_path: Path) -> None:
    build(tmp_path / "log", log(3), ["time"])
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["impression.bin", "log.parquet"]


def test_names_say_what_is_compared_and_how() -> None:
    assert feature_names(["price", "seq.hits"]) == [
        "impression.size",
        "impression.price.rank",
        "impression.price.relative",
        "impression.seq.hits.rank",
        "impression.seq.hits.relative",
    ]


def test_rows_in_memory_have_the_features_of_the_same_rows_in_a_file(tmp_path: Path) -> None:
    columns = log(5)
    hashes = impression_hashes([hash_column(columns[name]) for name in ("session", "time")], first_row=0)
    found = np.empty((NUM_ROWS, 3), np.float32)
    impression_features(hashes, [columns["price"].to_numpy(zero_copy_only=False)]).read_into(0, found)
    np.testing.assert_array_equal(found, build(tmp_path / "file", columns, ["session", "time"]))
    part = np.empty((7, 3), np.float32)
    impression_features(hashes, [columns["price"].to_numpy(zero_copy_only=False)]).read_into(40, part)
    np.testing.assert_array_equal(part, found[40:47])
