"""Which statistics the settings want: in time or out of fold, of which fields, or none; only the train fold counts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qin.config import Params, load_params
from qin.features.artifact import Statistics
from qin.features.past import Earlier, OtherParts
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION
from qin.shards.row_facts import RowFacts
from qin.train.statistics import fit_train_statistics, past_of
from tests.features.logs import write_buckets
from tests.project import ROOT

NUM_ROWS = 1000
UNIT = np.random.default_rng(0).integers(0, 2**63, NUM_ROWS).astype(np.uint64)


def settings(*, user: str | None = None, **changes: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    statistics = params.features.statistics.model_copy(update=changes)
    features = params.features.model_copy(update={"statistics": statistics})
    split = params.split.model_copy(update={"group_key": user})
    return params.model_copy(update={"features": features, "split": split})


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    generator = np.random.default_rng(1)
    columns = {name: generator.integers(2, 9, NUM_ROWS) for name in ("user", "shop", "item")}
    return write_buckets(tmp_path / "log", columns, generator.integers(0, 2, NUM_ROWS))


def names(reader: ShardReader, folder: Path, params: Params) -> tuple[str, ...]:
    folder.mkdir()
    fold = (np.arange(NUM_ROWS) % 3).astype(np.uint8)
    fit_train_statistics(params, reader, fold == TRAIN, RowFacts(UNIT, None, None), folder)
    return Statistics(folder).names


def test_fields_and_pairs_are_those_of_the_settings(reader: ShardReader, tmp_path: Path) -> None:
    found = names(reader, tmp_path / "all", settings(user="user"))
    assert [name for name in found if name.endswith("rate")] == [
        f"stat.{fields}.rate" for fields in ("user", "shop", "item", "user:item")
    ]
    listed = settings(fields=["s*"], pairs=[["shop", "item"]])
    assert {name.rsplit(".", 1)[0] for name in names(reader, tmp_path / "few", listed)} == {
        "stat.shop",
        "stat.shop:item",
    }


def test_they_can_be_turned_off(reader: ShardReader, tmp_path: Path) -> None:
    assert names(reader, tmp_path / "none", settings(enable=False)) == ()


def test_rows_of_other_folds_do_not_count(reader: ShardReader, tmp_path: Path) -> None:
    """Their labels may change, and no value does."""
    fold = np.repeat([TRAIN, VALIDATION, EXCLUDED], [600, 300, 100]).astype(np.uint8)
    columns = {
        field.name: reader.read("categorical", 0, NUM_ROWS)[:, number]
        for number, field in enumerate(reader.schema.categorical)
    }
    label = np.asarray(reader.read("label", 0, NUM_ROWS)[:, 0])
    flipped = np.where(fold == TRAIN, label, 1 - label)
    read = []
    for name, clicks in (("as it is", label), ("flipped", flipped)):
        log = write_buckets(tmp_path / name / "log", columns, clicks)
        folder = tmp_path / name / "fit"
        folder.mkdir()
        fit_train_statistics(settings(), log, fold == TRAIN, RowFacts(UNIT, np.arange(NUM_ROWS), None), folder)
        out = np.empty((NUM_ROWS, len(Statistics(folder).names)), np.float32)
        Statistics(folder).read_stored(0, out)
        read.append(out)
    assert read[0].size
    assert np.array_equal(read[0], read[1])


def test_time_orders_the_rows_where_there_is_one() -> None:
    fitted = np.arange(10)
    assert isinstance(past_of(RowFacts(UNIT, None, None), fitted, num_blocks=5), OtherParts)
    time = np.arange(NUM_ROWS)[::-1]
    past = past_of(RowFacts(UNIT, time, None), fitted, num_blocks=5)
    assert isinstance(past, Earlier)
    assert past.learn.tolist() == list(range(9, -1, -1))
    assert past.rows_so_far[:10].tolist() == [8, 8, 6, 6, 4, 4, 2, 2, 0, 0]
    together = past_of(RowFacts(UNIT, time, np.zeros(NUM_ROWS, np.int64)), fitted, num_blocks=5)
    assert not together.rows_so_far.any()
