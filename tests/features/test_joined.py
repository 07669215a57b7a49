"""Joined rows behave as the prepared file with more columns, whichever file they are of; damage is named."""

from pathlib import Path

import numpy as np
import pytest

from qin.features.artifact import COLUMNS, MANIFEST, Statistics
from qin.features.joined import JoinedRows
from qin.features.lookups import ValueLookup
from qin.features.past import Earlier
from qin.runtime.errors import ArtifactError
from qin.shards.files import ShardReader
from tests.features.logs import fit, write_buckets

NUM_ROWS = 2500


def buckets(seed: int, *names: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.integers(1, 30, NUM_ROWS) for name in names}


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    label = np.random.default_rng(1).integers(0, 2, NUM_ROWS)
    return write_buckets(tmp_path_factory.mktemp("joined") / "train", buckets(0, "shop", "item"), label)


@pytest.fixture(scope="module")
def folder(train: ShardReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits") / "statistics"
    fit(
        folder, train, Earlier.of(np.arange(NUM_ROWS), None, np.arange(2000), num_blocks=2000), pairs=[("shop", "item")]
    )
    return folder


@pytest.fixture
def joined(train: ShardReader, folder: Path) -> JoinedRows:
    return JoinedRows(train, Statistics(folder))


def test_statistics_are_the_last_numeric_fields(train: ShardReader, joined: JoinedRows) -> None:
    names = [field.name for field in joined.schema.numeric]
    assert names == ["price", *(f"stat.{f}.{m}" for f in ("shop", "item", "shop:item") for m in ("rate", "share"))]
    assert [field.source for field in joined.schema.numeric] == [""] + ["statistic"] * 6
    assert joined.schema.categorical == train.schema.categorical
    assert {g.name: g.width for g in joined.groups} == {g.name: g.width for g in train.groups} | {"numeric": 7}
    assert joined.manifest != train.manifest


def test_rows_of_another_file_are_given_what_a_table_says(train: ShardReader, folder: Path, tmp_path: Path) -> None:
    """Found by key, one statistic after the other, and 0 for a value that was never fitted."""
    columns = {name: np.append(values, 31) for name, values in buckets(7, "shop", "item").items()}
    statistics = Statistics(folder)
    out = np.full((NUM_ROWS + 1, 6), np.nan, np.float32)
    for dtype in (np.uint16, np.int32):
        statistics.look_up({"categorical": np.column_stack(list(columns.values())).astype(dtype)}, out)
        keys = [columns["shop"], columns["item"], columns["shop"] * 70_000 + columns["item"]]
        for number, (lookup, wanted) in enumerate(zip(statistics.lookups(), keys, strict=True)):
            assert isinstance(lookup, ValueLookup)
            at = {int(key): position for position, key in enumerate(lookup.keys)}
            for measure, values in enumerate(lookup.values):
                expected = [values[at[key]] if key in at else 0.0 for key in wanted.tolist()]
                assert out[:, 2 * number + measure].tolist() == expected
    assert out[-1].tolist() == [0.0] * 6


@pytest.mark.parametrize("rows", [(0, NUM_ROWS), (990, 1010), (1999, 2001), (7, 7)])
def test_any_range_of_rows_reads_the_same(train: ShardReader, joined: JoinedRows, rows: tuple[int, int]) -> None:
    start, stop = rows
    whole = joined.read("numeric", 0, NUM_ROWS)
    assert np.array_equal(joined.read("numeric", start, stop), whole[start:stop])
    into = np.full((stop - start, 7), np.nan, np.float32)
    joined.read_into("numeric", start, into)
    assert np.array_equal(into, whole[start:stop])
    assert np.array_equal(joined.read("categorical", start, stop), train.read("categorical", start, stop))
    assert np.array_equal(whole[:, :1], train.read("numeric", 0, NUM_ROWS))


def test_another_file_is_given_what_held_out_rows_are_given(
    train: ShardReader, joined: JoinedRows, folder: Path, tmp_path: Path
) -> None:
    columns = {
        field.name: train.read("categorical", 0, NUM_ROWS)[:, i] for i, field in enumerate(train.schema.categorical)
    }
    other = JoinedRows(write_buckets(tmp_path / "test", columns, np.zeros(NUM_ROWS)), Statistics(folder))
    mine, theirs = (reader.read("numeric", 0, NUM_ROWS) for reader in (joined, other))
    assert np.array_equal(mine[2000:], theirs[2000:])
    assert (mine[:2000] != theirs[:2000]).any(axis=1).mean() > 0.9  # the train rows' own are of their past


def test_values_that_the_fit_never_saw_are_the_prior(folder: Path, tmp_path: Path) -> None:
    unseen = {name: np.full(3, 60_000) for name in ("shop", "item")}
    reader = JoinedRows(write_buckets(tmp_path / "test", unseen, np.zeros(3)), Statistics(folder))
    assert not reader.read("numeric", 0, 3)[:, 1:].any()


def test_a_file_of_another_encoding_is_refused(folder: Path, tmp_path: Path) -> None:
    reader = write_buckets(tmp_path / "test", buckets(2, "item", "shop"), np.zeros(NUM_ROWS))
    with pytest.raises(ArtifactError, match="different: order"):
        JoinedRows(reader, Statistics(folder))


def test_equal_fits_have_equal_bytes(train: ShardReader, folder: Path, tmp_path: Path) -> None:
    fit(
        tmp_path / "again",
        train,
        Earlier.of(np.arange(NUM_ROWS), None, np.arange(2000), num_blocks=2000),
        pairs=[("shop", "item")],
    )
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["000.npy", "001.npy", "002.npy", COLUMNS, MANIFEST]
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


@pytest.mark.parametrize("name", ["000.npy", COLUMNS, MANIFEST])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_damage_is_named(train: ShardReader, folder: Path, tmp_path: Path, name: str, change: str) -> None:
    copy = tmp_path / "statistics"
    copy.mkdir()
    for path in folder.iterdir():
        data = path.read_bytes()
        if path.name == name:
            data = data[:-9] if change == "truncate" else data[:40] + bytes([data[40] ^ 1]) + data[41:]
        if path.name != name or change != "remove":
            (copy / path.name).write_bytes(data)
    with pytest.raises(ArtifactError, match=name):
        JoinedRows(train, Statistics(copy)).verify()
