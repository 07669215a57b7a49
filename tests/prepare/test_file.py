"""Prepared folders: the right rows, the same bytes however the work is cut, brute-force statistics, named errors."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qin.columns.buckets import NULL_BUCKET
from qin.config import PrepareParams
from qin.prepare.file import prepare_file
from qin.prepare.statistics import headline, headlines
from qin.raw.hashing import bucket_of, hash_values, seed_of
from qin.runtime.errors import DataError
from qin.shards.files import ShardReader
from qin.shards.ids import read_ids
from tests.logs import (
    ITEM_BUCKETS,
    RECENT_MAX_LEN,
    SEQ_BUCKETS,
    SEQ_MAX_LEN,
    SHOP_BUCKETS,
    Columns,
    log_schema,
    make_log,
    write_log,
)

NUM_ROWS = 230


def prepare(
    folder: Path,
    file: str,
    *,
    with_label: bool = True,
    shard_rows: int = 64,
    batch_rows: int = 50,
    num_threads: int = 1,
) -> dict[str, Any]:
    folder.mkdir()
    return prepare_file(
        file,
        folder,
        schema=log_schema(make_log(4)),
        with_label=with_label,
        knobs=PrepareParams(shard_rows=shard_rows, batch_rows=batch_rows, num_threads=num_threads),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(folder: Path) -> dict[str, list[Any]]:
    reader = ShardReader(folder)
    return {group.name: reader.read(group.name, 0, reader.num_rows).tolist() for group in reader.groups}


def buckets(array: pa.Array, vocabulary: str, num_buckets: int) -> list[int]:
    hashes, is_null = hash_values(array, seed_of(vocabulary, 7))
    return [
        NULL_BUCKET if null else int(bucket_of(value, np.uint64(num_buckets - 2)))
        for value, null in zip(hashes, is_null, strict=True)
    ]


def test_prepared_row_i_is_raw_row_i(tmp_path: Path) -> None:
    log = make_log(NUM_ROWS)
    prepare(tmp_path / "out", write_log(tmp_path / "log.parquet", log, row_group_rows=70))
    found = read_all(tmp_path / "out")
    shop, item = buckets(log["shop"], "shop", SHOP_BUCKETS), buckets(log["item"], "item", ITEM_BUCKETS)
    assert found["categorical"] == [list(pair) for pair in zip(shop, item, strict=True)]
    numbers = [[np.nan if value is None else value for value in log[name].to_pylist()] for name in ("price", "views")]
    np.testing.assert_array_equal(found["numeric"], np.array(numbers, np.float32).T)
    assert [label for (label,) in found["label"]] == log["clicked"].to_pylist()
    for name, vocabulary, num_buckets, max_len in (
        ("seq", "seq", SEQ_BUCKETS, SEQ_MAX_LEN),
        ("recent", "item", ITEM_BUCKETS, RECENT_MAX_LEN),
    ):
        for row, value in enumerate(log[name].to_pylist()):
            tokens = ([] if not value else value.split(",") if isinstance(value, str) else value)[-max_len:]
            expected = buckets(pa.array([str(token) for token in tokens], pa.string()), vocabulary, num_buckets)
            assert found[f"sequence.{name}"][row] == expected + [0] * (max_len - len(tokens))


def test_a_shared_vocabulary_gives_target_and_history_one_bucket(tmp_path: Path) -> None:
    log = make_log(40)
    log["recent"] = pa.array([[value] for value in log["item"].to_pylist()])
    prepare(tmp_path / "out", write_log(tmp_path / "log.parquet", log))
    found = read_all(tmp_path / "out")
    assert [row[0] for row in found["sequence.recent"]] == [row[1] for row in found["categorical"]]


@pytest.mark.parametrize("with_label", [True, False])
def test_batches_threads_and_row_groups_do_not_show(tmp_path: Path, with_label: bool) -> None:
    log = make_log(NUM_ROWS)
    results = []
    for number, (batch_rows, num_threads, row_group_rows) in enumerate(
        [(1000, 1, None), (50, 1, None), (50, 3, 70), (1, 2, None), (64, 2, 1)]
    ):
        file = write_log(tmp_path / "log.parquet", log, row_group_rows=row_group_rows)
        folder = tmp_path / str(number)
        figures = prepare(folder, file, with_label=with_label, batch_rows=batch_rows, num_threads=num_threads)
        results.append((figures, contents(folder)))
    assert all(result == results[0] for result in results[1:])
    assert set(results[0][1]) == {"manifest.json", "statistics.json", *(f"{shard:05d}.bin" for shard in range(4))} | (
        set() if with_label else {"ids.arrow"}
    )


def test_shard_rows_change_the_files_but_not_the_rows(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.parquet", make_log(NUM_ROWS))
    figures, rows = [], []
    for shard_rows in (1000, 230, 64, 7):
        folder = tmp_path / str(shard_rows)
        figures.append(prepare(folder, file, shard_rows=shard_rows))
        reader = ShardReader(folder)
        rows.append([reader.read(group.name, 0, NUM_ROWS).tobytes() for group in reader.groups])
        assert len(list(folder.glob("*.bin"))) == -(-NUM_ROWS // shard_rows)
    assert all(found == rows[0] for found in rows[1:])
    assert all(found == figures[0] for found in figures[1:])


def test_ids_are_kept_as_text_in_row_order(tmp_path: Path) -> None:
    log = make_log(NUM_ROWS)
    for name, ids in (("text", log["ID"]), ("numbers", pa.array(range(1000, 1000 + NUM_ROWS)))):
        file = write_log(tmp_path / "log.parquet", {**log, "ID": ids})
        prepare(tmp_path / name, file, with_label=False)
        assert read_ids(tmp_path / name).to_pylist() == [str(value) for value in ids.to_pylist()]
    assert "label" not in {group.name for group in ShardReader(tmp_path / "text").groups}


def test_statistics_equal_brute_force(tmp_path: Path) -> None:
    log = make_log(NUM_ROWS)
    figures = prepare(tmp_path / "out", write_log(tmp_path / "log.parquet", log))
    labels = log["clicked"].to_pylist()
    assert figures["num_rows"] == NUM_ROWS
    assert figures["num_clicks"] == sum(labels)
    assert figures["base_rate"] == sum(labels) / NUM_ROWS
    assert figures["nulls"] == {name: log[name].null_count for name in ("shop", "price")}
    assert min(figures["nulls"].values()) > 0
    for name, num_buckets in (("shop", SHOP_BUCKETS), ("item", ITEM_BUCKETS)):
        distinct = log[name].drop_null().unique()
        assert figures["vocabularies"][name] == {
            "num_distinct": len(distinct),
            "is_exact": True,
            "num_buckets": num_buckets,
            "collisions": sum(count - 1 for count in Counter(buckets(distinct, name, num_buckets)).values()),
        }
        assert figures["vocabularies"][name]["collisions"] > 0
    for name, max_len in (("seq", SEQ_MAX_LEN), ("recent", RECENT_MAX_LEN)):
        values = log[name].to_pylist()
        lengths = np.array([0 if not v else len(v.split(",")) if isinstance(v, str) else len(v) for v in values])
        quantiles = np.quantile(lengths, [0.25, 0.5, 0.75, 0.99], method="inverted_cdf").tolist()
        assert figures["sequences"][name] == {
            "mean": pytest.approx(lengths.mean(), rel=1e-12),
            **dict(zip(("p25", "p50", "p75", "p99"), quantiles, strict=True)),
            "max": lengths.max(),
            "empty": (lengths == 0).sum(),
            "truncated": (lengths > max_len).sum(),
        }


def with_value(log: Columns, column: str, row: int, value: Any, kind: pa.DataType | None = None) -> Columns:
    values = log[column].to_pylist()
    values[row] = value
    return {**log, column: pa.array(values, kind or log[column].type, from_pandas=False)}


EXPECTED = "expected integers such as '12,13' or '[12, 13]'"
READS_TEXT = "features.sequences.seq.tokens: text would read text"


@pytest.mark.parametrize(
    ("column", "value", "kind", "message"),
    [
        ("clicked", 2, None, "label must be 0 or 1: 2"),
        ("clicked", -1, None, "label must be 0 or 1: -1"),
        ("clicked", None, None, "label must be 0 or 1: None"),
        ("clicked", float("nan"), pa.float64(), "label must be 0 or 1: nan"),
        ("clicked", 0.5, pa.float32(), "label must be 0 or 1: 0.5"),
        ("price", float("inf"), None, "infinite: inf"),
        ("price", float("-inf"), pa.float64(), "infinite: -inf"),
        ("price", 1e39, pa.float64(), "too large for 32-bit floats: 1e+39"),
        ("item", float("inf"), pa.float64(), "infinite: inf"),
        ("seq", "1,x,3", None, f"a token is not an integer: 'x'; {EXPECTED}; {READS_TEXT}"),
        ("seq", "9,9,9,9,1,2.5,,4", None, f"a token is not an integer: '2.5'; {EXPECTED}; {READS_TEXT}"),
        ("seq", "7,,8", None, f"a token is not an integer: ''; {EXPECTED}"),
        ("seq", "a" * 100, None, f"a token is not an integer: '{'a' * 28}...{'a' * 28}'; {EXPECTED}; {READS_TEXT}"),
    ],
)
@pytest.mark.parametrize("row", [0, 161, NUM_ROWS - 1])
def test_a_bad_value_is_named_with_its_row(
    tmp_path: Path, column: str, value: Any, kind: pa.DataType | None, message: str, row: int
) -> None:
    log = with_value(make_log(NUM_ROWS), column, row, value, kind)
    file = write_log(tmp_path / "log.parquet", log)
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", file, num_threads=2)
    assert str(caught.value) == f"{file}: column {column}, row {row}: {message}"


def test_the_first_of_several_bad_rows_is_named(tmp_path: Path) -> None:
    log = with_value(make_log(NUM_ROWS), "clicked", 170, 3)
    log = with_value(with_value(log, "clicked", 120, 9), "clicked", 130, 8)
    file = write_log(tmp_path / "log.parquet", log)
    for num_threads in (1, 3):
        with pytest.raises(DataError, match=r"column clicked, row 120: label must be 0 or 1: 9$"):
            prepare(tmp_path / str(num_threads), file, num_threads=num_threads)


def test_labels_must_be_numbers(tmp_path: Path) -> None:
    log = make_log(NUM_ROWS)
    file = write_log(tmp_path / "log.parquet", {**log, "clicked": log["clicked"].cast(pa.string())})
    with pytest.raises(DataError, match=r"column clicked: labels must be numbers 0 and 1, the type is string$"):
        prepare(tmp_path / "out", file)


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.float64()], ids=str)
def test_labels_of_every_number_type(tmp_path: Path, kind: pa.DataType) -> None:
    log = make_log(NUM_ROWS)
    prepare(tmp_path / "out", write_log(tmp_path / "log.parquet", {**log, "clicked": log["clicked"].cast(kind)}))
    assert [label for (label,) in read_all(tmp_path / "out")["label"]] == log["clicked"].to_pylist()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_refused(tmp_path: Path, label: int) -> None:
    file = write_log(tmp_path / "log.parquet", {**make_log(20), "clicked": pa.array([label] * 20)})
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", file)
    assert str(caught.value) == f"{file}: column clicked: all labels are {label}; training needs both classes"


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_id_is_named(tmp_path: Path, missing: str | None) -> None:
    file = write_log(tmp_path / "log.parquet", with_value(make_log(NUM_ROWS), "ID", 161, missing))
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", file, with_label=False)
    assert str(caught.value) == f"{file}: column ID, row 161: id is missing"


def test_the_second_of_two_equal_ids_is_named(tmp_path: Path) -> None:
    log = with_value(make_log(NUM_ROWS), "ID", 161, "ROW_00180")
    for row in range(201, 221):
        log = with_value(log, "ID", row, f"ROW_{row - 200:05d}")
    file = write_log(tmp_path / "log.parquet", log)
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", file, with_label=False)
    assert str(caught.value) == f"{file}: column ID, row 180: id occurs twice: 'ROW_00180'"


def test_without_numbers_and_sequences(tmp_path: Path) -> None:
    log = {name: array for name, array in make_log(30).items() if name in ("shop", "item", "clicked")}
    schema = log_schema(make_log(4))
    schema = type(schema)(fields=schema.categorical, target=("item",), label="clicked", id="ID", hash_seed=7)
    (tmp_path / "out").mkdir()
    prepare_file(
        write_log(tmp_path / "log.parquet", log),
        tmp_path / "out",
        schema=schema,
        with_label=True,
        knobs=PrepareParams(shard_rows=7, batch_rows=4, num_threads=1),
    )
    reader = ShardReader(tmp_path / "out")
    assert reader.schema == schema
    assert reader.read("numeric", 3, 25).shape == (22, 0)
    assert reader.read("label", 0, 30)[:, 0].tolist() == log["clicked"].to_pylist()


def test_headline_totals_the_columns(tmp_path: Path) -> None:
    statistics = prepare(tmp_path / "out", write_log(tmp_path / "log.parquet", make_log(NUM_ROWS)))
    figures = headline(statistics)
    assert figures["nulls"] == {"columns": 2, "values": sum(statistics["nulls"].values())}
    collisions = [vocabulary["collisions"] for vocabulary in statistics["vocabularies"].values()]
    assert figures["collisions"] == {"columns": sum(map(bool, collisions)), "values": sum(collisions)}
    assert {key: figures[key] for key in ("num_rows", "num_clicks", "base_rate", "sequences")} == {
        key: statistics[key] for key in ("num_rows", "num_clicks", "base_rate", "sequences")
    }


def test_each_label_is_a_column_of_its_own(tmp_path: Path) -> None:
    """And none is among what a reader of rows gets."""
    columns = make_log(NUM_ROWS)
    liked = pa.array((np.arange(NUM_ROWS) % 5 == 2).astype(np.int8))
    file = write_log(tmp_path / "log.parquet", {**columns, "liked": liked})
    schema = replace(log_schema(make_log(4)), other_labels=("liked",))
    knobs = PrepareParams(shard_rows=64, batch_rows=50, num_threads=1)
    folder = tmp_path / "both"
    folder.mkdir()
    statistics = prepare_file(file, folder, schema=schema, with_label=True, knobs=knobs)
    one = prepare(tmp_path / "one", file)
    reader, alone = ShardReader(folder), ShardReader(tmp_path / "one")
    reader.verify()
    assert [group.name for group in reader.groups] == [group.name for group in alone.groups if group.name != "label"]
    for group in reader.groups:
        assert np.array_equal(reader.read(group.name, 3, 200), alone.read(group.name, 3, 200), equal_nan=True)
    assert np.array_equal(reader.read("label.clicked", 0, NUM_ROWS), alone.read("label", 0, NUM_ROWS))
    assert reader.read("label.liked", 0, NUM_ROWS)[:, 0].tolist() == liked.to_pylist()
    assert ShardReader(folder).schema.labels == ("clicked", "liked")
    told = headlines(statistics, schema.labels)
    assert told["clicked"] == headline(one) == headlines(one, ["clicked"])["clicked"]
    assert told["liked"] == {**headline(one), "num_clicks": 46, "base_rate": 46 / NUM_ROWS}


def test_a_label_of_one_class_is_named(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.parquet", {**make_log(NUM_ROWS), "liked": pa.array([0] * NUM_ROWS)})
    schema = replace(log_schema(make_log(4)), other_labels=("liked",))
    knobs = PrepareParams(shard_rows=64, batch_rows=50, num_threads=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"log\.parquet: column liked: all labels are 0; training needs both classes"):
        prepare_file(file, tmp_path / "out", schema=schema, with_label=True, knobs=knobs)
