"""Click rates of what a history holds beside the row's value: each is that of a loop, none sees its own click."""

from pathlib import Path

import numpy as np
import pytest

from qin.features import histories as histories_module
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.features.past import Earlier, OtherParts, Past
from qin.features.statistics import choose_statistics
from qin.metrics.definitions import AUC, Rows
from qin.runtime.errors import ArtifactError, SchemaError
from qin.shards.files import ShardReader
from tests.features.logs import bucket_schema, fit, write_buckets

NAME = "stat.seen:item.rate"
NUM_ROWS, NUM_FITTED, LENGTH = 6_000, 4_500, 6


def histories(num_rows: int, num_items: int, *, seed: int) -> np.ndarray:
    """Items from 1 (null) on, padded before them to lengths from 0 to all."""
    generator = np.random.default_rng(seed)
    items = generator.integers(1, 1 + num_items, (num_rows, LENGTH))
    items[np.arange(LENGTH) >= generator.integers(0, LENGTH + 1, num_rows)[:, None]] = 0
    return items[:, ::-1]


def past_of(kind: str, num_fitted: int, num_rows: int) -> Past:
    fitted = np.sort(np.random.default_rng(8).permutation(num_rows)[:num_fitted])
    if kind == "earlier":
        return Earlier.of(np.random.default_rng(9).integers(0, num_rows, num_rows), None, fitted, num_blocks=7)
    return OtherParts.of(np.random.default_rng(9).integers(0, 2**63, num_rows).astype(np.uint64), fitted)


def measure_of(reader: ShardReader, folder: Path, past: Past) -> np.ndarray:
    _, fitted = fit(folder, reader, past, pairs=[("seen", "item")])
    rows = JoinedRows(reader, fitted)
    names = [field.name for field in rows.schema.numeric]
    return rows.read("numeric", 0, reader.num_rows)[:, names.index(NAME)]


@pytest.mark.parametrize("kind", ["earlier", "other parts"])
def test_every_value_is_that_of_a_loop(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted rows and others, read in chunks; no two of these few pairs share a slot."""
    monkeypatch.setattr(histories_module, "_CHUNK_ROWS", 7)
    num_rows = 120
    seen, item = histories(num_rows, 4, seed=0), np.random.default_rng(1).integers(2, 5, num_rows)
    label = np.random.default_rng(2).integers(0, 2, num_rows).astype(np.uint8)
    past = past_of(kind, 90, num_rows)
    reader = write_buckets(tmp_path / "log", {"item": item}, label, seen=seen)
    found = measure_of(reader, tmp_path / "fit", past)
    fitted, base = set(past.fitted.tolist()), label[past.fitted].mean()
    known_to = {int(row): past.fitted for row in set(range(num_rows)) - fitted}
    if isinstance(past, Earlier):
        known_to |= {int(row): past.learn[:known] for row, known in zip(past.read, past.known, strict=True)}
    elif isinstance(past, OtherParts):
        known_to |= {row: past.fitted[past.part[past.fitted] != past.part[row]] for row in fitted}
    for row in range(num_rows):
        counts = {token: [0, 0] for token in range(1, 5)}
        for other in known_to[row]:
            if item[other] == item[row]:
                for token in seen[other][seen[other] > 0].tolist():
                    counts[token][0] += int(label[other])
                    counts[token][1] += 1
        rates = [(counts[t][0] + 20 * base) / (counts[t][1] + 20) for t in seen[row][seen[row] > 0].tolist()]
        expected = np.mean([np.log(p / (1 - p)) - np.log(base / (1 - base)) for p in rates] or [0.0])
        assert found[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["earlier", "other parts"])
@pytest.mark.parametrize("num_items", [20, 60_000])
def test_random_histories_gain_nothing(tmp_path: Path, kind: str, num_items: int) -> None:
    """Neither on the fitted rows, where a leak would look like skill, nor on the others."""
    label = (np.random.default_rng(3).random(NUM_ROWS) < 0.2).astype(np.uint8)
    item = np.random.default_rng(4).integers(2, 40, NUM_ROWS)
    reader = write_buckets(tmp_path / "log", {"item": item}, label, seen=histories(NUM_ROWS, num_items, seed=5))
    past = past_of(kind, NUM_FITTED, NUM_ROWS)
    found, is_fitted = measure_of(reader, tmp_path / "fit", past), np.zeros(NUM_ROWS, np.bool_)
    is_fitted[past.fitted] = True
    for rows in (is_fitted, ~is_fitted):
        error = np.sqrt(1 / (12 * 0.2 * 0.8 * rows.sum()))
        assert abs(AUC.statistic(Rows(found[rows].astype(np.float64), label[rows])) - 0.5) < 4 * error


def test_taste_is_found_on_other_rows(tmp_path: Path) -> None:
    """Items and histories of one kind go together: neither alone says anything, their pairs do."""
    seen, item = histories(NUM_ROWS, 40, seed=6), np.random.default_rng(7).integers(2, 12, NUM_ROWS)
    is_alike = (seen % 2 == item[:, None] % 2) & (seen > 0)
    share = is_alike.sum(axis=1) / np.maximum((seen > 0).sum(axis=1), 1)
    label = (np.random.default_rng(8).random(NUM_ROWS) < 0.1 + 0.5 * share).astype(np.uint8)
    reader = write_buckets(tmp_path / "log", {"item": item}, label, seen=seen)
    past = past_of("other parts", NUM_FITTED, NUM_ROWS)
    others = np.setdiff1d(np.arange(NUM_ROWS), past.fitted)
    found = measure_of(reader, tmp_path / "fit", past)[others].astype(np.float64)
    best = AUC.statistic(Rows(share[others], label[others]))
    assert AUC.statistic(Rows(found, label[others])) > best - 0.08


def test_another_file_is_given_what_held_out_rows_are_given(tmp_path: Path) -> None:
    label = np.random.default_rng(10).integers(0, 2, NUM_ROWS)
    item, seen = np.random.default_rng(11).integers(2, 9, NUM_ROWS), histories(NUM_ROWS, 30, seed=12)
    reader = write_buckets(tmp_path / "log", {"item": item}, label, seen=seen)
    past = past_of("earlier", NUM_FITTED, NUM_ROWS)
    mine = measure_of(reader, tmp_path / "fit", past)
    other = write_buckets(tmp_path / "test", {"item": item}, 1 - label, seen=seen)
    theirs = JoinedRows(other, Statistics(tmp_path / "fit")).read("numeric", 0, NUM_ROWS)[:, -1]
    others = np.setdiff1d(np.arange(NUM_ROWS), past.fitted)
    assert np.array_equal(mine[others], theirs[others])
    assert not np.array_equal(mine, theirs)


def test_a_history_of_other_buckets_is_refused(tmp_path: Path) -> None:
    columns, label = {"item": np.full(40, 2)}, np.arange(40) % 2
    reader = write_buckets(tmp_path / "log", columns, label, seen=histories(40, 3, seed=13))
    fit(tmp_path / "fit", reader, past_of("other parts", 30, 40), pairs=[("seen", "item")])
    shorter = write_buckets(tmp_path / "test", columns, label, seen=histories(40, 3, seed=13)[:, 1:])
    with pytest.raises(ArtifactError, match="different: seen"):
        JoinedRows(shorter, Statistics(tmp_path / "fit"))


def test_histories_pair_with_each_column_of_the_target() -> None:
    schema = bucket_schema("user", "shop", "item", target=("item", "shop"), max_len=3)
    chosen = choose_statistics(schema, patterns=[], pairs=None, user=None)
    assert [name for statistic in chosen for name in statistic.names] == [NAME, "stat.seen:shop.rate"]


@pytest.mark.parametrize("pair", [("item", "seen"), ("seen", "seen"), ("price", "item"), ("nobody", "item")])
def test_a_pair_of_other_columns_is_refused(pair: tuple[str, str]) -> None:
    schema = bucket_schema("user", "item", max_len=3)
    with pytest.raises(SchemaError, match=rf"statistics.pairs: \[{pair[0]}, {pair[1]}\] must be"):
        choose_statistics(schema, patterns=None, pairs=[pair], user=None)
