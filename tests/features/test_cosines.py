"""Cosines of the users who have two items: each is that of a loop over sets, and none knows what comes later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qin.columns.counted import COSINES
from qin.columns.schema import Schema
from qin.features import cosines as cosines_module
from qin.features import histories as histories_module
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.features.past import Earlier
from qin.features.statistics import choose_statistics, fit_statistics
from qin.metrics.definitions import AUC, Rows
from qin.shards.files import ShardReader, ShardWriter, layout
from tests.features.logs import bucket_schema

NUM_ROWS, LENGTH = 240, 14
NAMES = [f"stat.seen:item.{measure}" for measure in COSINES]


def schema_of(*, num_buckets: int = 70_000) -> Schema:
    """A user, an item, and a history of items."""
    schema = bucket_schema("user", "item", max_len=LENGTH)
    fields = [
        replace(field, vocabulary="item" if field.name == "seen" else field.vocabulary, num_buckets=num_buckets)
        if field.vocabulary
        else field
        for field in schema.fields
    ]
    return replace(schema, fields=tuple(fields))


def write(folder: Path, user: np.ndarray, item: np.ndarray, seen: np.ndarray, label: np.ndarray) -> ShardReader:
    folder.mkdir(parents=True)
    schema = schema_of()
    writer = ShardWriter(folder, layout(schema, with_label=True), num_rows=label.size, shard_rows=50)
    writer.append(
        {
            "categorical": np.column_stack((user, item)).astype(np.int32),
            "numeric": np.arange(label.size, dtype=np.float32)[:, None],
            "label": label.astype(np.uint8)[:, None],
            "sequence.seen": seen.astype(np.int32),
        }
    )
    writer.close(schema=schema)
    return ShardReader(folder)


def log(num_rows: int, *, num_users: int, num_items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users and items from 2 on, some of them null, and histories with repetitions and nulls, padded behind."""
    generator = np.random.default_rng(seed)
    user = generator.integers(1, 2 + num_users, num_rows)
    item = generator.integers(1, 2 + num_items, num_rows)
    seen = generator.integers(1, 2 + num_items, (num_rows, LENGTH))
    seen[np.arange(LENGTH) >= generator.integers(0, LENGTH + 1, num_rows)[:, None]] = 0
    return user, item, seen


def fit(folder: Path, reader: ShardReader, past: Earlier) -> None:
    folder.mkdir(parents=True)
    chosen = choose_statistics(reader.schema, patterns=[], pairs=[("seen", "item")], user="user", cosines=True)
    label = np.asarray(reader.read("label", 0, reader.num_rows)[:, 0])
    fit_statistics(reader, chosen, label=label, past=past, prior_weight=20.0, keep=None, folder=folder)


def measures(reader: ShardReader, folder: Path) -> np.ndarray:
    """The cosines of all rows, `(num_rows, 5)`."""
    rows = JoinedRows(reader, Statistics(folder))
    names = [field.name for field in rows.schema.numeric]
    return rows.read("numeric", 0, reader.num_rows)[:, [names.index(name) for name in NAMES]]


def expected(item: int, seen: np.ndarray, sets: list[set[int]]) -> list[float]:
    items = seen[seen > 0].tolist()

    def count(*wanted: int) -> int:
        return sum(set(wanted) <= one for one in sets)

    def cosine(other: int) -> float:
        if 1 in (item, other) or item == other:
            return 0.0
        return float(count(item, other) / ((count(item) + 5) * (count(other) + 5)) ** 0.5)

    found = [cosine(other) for other in items]
    if not found:
        return [0.0] * len(COSINES)
    top = sorted(found, reverse=True)[:10]
    return [sum(found), float(np.mean(found)), top[0], float(np.mean(top)), float(np.mean(found[-5:]))]


def test_every_value_is_that_of_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted rows and others, read in chunks; no two of these few pairs share a slot."""
    monkeypatch.setattr(histories_module, "_CHUNK_ROWS", 7)
    user, item, seen = log(NUM_ROWS, num_users=9, num_items=12, seed=0)
    label = np.random.default_rng(1).integers(0, 2, NUM_ROWS)
    time = np.random.default_rng(2).integers(0, NUM_ROWS // 2, NUM_ROWS)
    fitted = np.sort(np.random.default_rng(3).permutation(NUM_ROWS)[:180])
    past = Earlier.of(time, None, fitted, num_blocks=6)
    reader = write(tmp_path / "log", user, item, seen, label)
    fit(tmp_path / "fit", reader, past)
    found = measures(reader, tmp_path / "fit")
    known_to = dict.fromkeys(np.setdiff1d(np.arange(NUM_ROWS), fitted).tolist(), past.learn)
    known_to |= {int(row): past.learn[:known] for row, known in zip(past.read, past.known, strict=True)}
    for row in range(NUM_ROWS):
        newest = {int(user[other]): set(seen[other][seen[other] > 1].tolist()) for other in known_to[row]}
        sets = [items for who, items in newest.items() if who > 1]
        assert found[row] == pytest.approx(expected(int(item[row]), seen[row], sets), rel=1e-5, abs=1e-7)
    assert (found[fitted] > 0).any()


def test_another_file_is_given_what_held_out_rows_are_given(tmp_path: Path) -> None:
    user, item, seen = log(NUM_ROWS, num_users=40, num_items=12, seed=4)
    label = np.random.default_rng(5).integers(0, 2, NUM_ROWS)
    past = Earlier.of(np.arange(NUM_ROWS), None, np.arange(150), num_blocks=5)
    reader = write(tmp_path / "log", user, item, seen, label)
    fit(tmp_path / "fit", reader, past)
    mine = measures(reader, tmp_path / "fit")
    theirs = measures(write(tmp_path / "test", user, item, seen, 1 - label), tmp_path / "fit")
    assert np.array_equal(mine[150:], theirs[150:])
    assert not np.array_equal(mine[:150], theirs[:150])


def grown(num_users: int, per_user: int, *, seed: int) -> tuple[np.ndarray, ...]:
    """Users who click by chance and whose histories hold just what they clicked, the newest last; with the clicks."""
    generator = np.random.default_rng(seed)
    user = np.tile(np.arange(2, 2 + num_users), per_user)
    item = generator.integers(2, 60, user.size)
    label = (generator.random(user.size) < 0.3).astype(np.uint8)
    seen = np.zeros((user.size, LENGTH), np.int64)
    histories: dict[int, list[int]] = {}
    for row in range(user.size):
        items = histories.setdefault(int(user[row]), [])[-LENGTH:]
        seen[row, : len(items)] = items
        if label[row]:
            histories[int(user[row])].append(int(item[row]))
    return user, item, seen, label


def test_random_clicks_gain_nothing(tmp_path: Path) -> None:
    """A later history of the same user holds what they click now: whoever saw it would find the click."""
    user, item, seen, label = grown(500, 16, seed=6)
    num_fitted = 6000
    past = Earlier.of(np.arange(user.size), None, np.arange(num_fitted), num_blocks=8)
    reader = write(tmp_path / "log", user, item, seen, label)
    fit(tmp_path / "fit", reader, past)
    found = measures(reader, tmp_path / "fit").astype(np.float64)
    for rows in (slice(num_fitted // 8, num_fitted), slice(num_fitted, None)):
        error = np.sqrt(1 / (12 * 0.3 * 0.7 * label[rows].size))
        for measure in found[rows].T:
            assert abs(AUC.statistic(Rows(measure, label[rows])) - 0.5) < 4 * error


def test_taste_is_found(tmp_path: Path) -> None:
    """Users like items of one kind alone, which no item's number says."""
    user, item, seen, _ = grown(400, 12, seed=7)
    likes = item % 3 == user % 3
    generator = np.random.default_rng(8)
    label = (generator.random(user.size) < np.where(likes, 0.6, 0.05)).astype(np.uint8)
    histories: dict[int, list[int]] = {}
    seen[:] = 0
    for row in range(user.size):
        items = histories.setdefault(int(user[row]), [])[-LENGTH:]
        seen[row, : len(items)] = items
        if label[row]:
            histories[int(user[row])].append(int(item[row]))
    num_fitted = 3600
    reader = write(tmp_path / "log", user, item, seen, label)
    fit(tmp_path / "fit", reader, Earlier.of(np.arange(user.size), None, np.arange(num_fitted), num_blocks=8))
    found = measures(reader, tmp_path / "fit").astype(np.float64)[num_fitted:]
    scores = {
        name: AUC.statistic(Rows(column, label[num_fitted:])) for name, column in zip(NAMES, found.T, strict=True)
    }
    assert min(scores.values()) > 0.7, scores


def test_very_many_users_count_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About as many as there may be, and the same ones each time."""
    monkeypatch.setattr(cosines_module, "MAX_USERS", 100)
    user = np.arange(2, 1002)
    item, seen = np.full(1000, 2), np.zeros((1000, LENGTH), np.int64)
    seen[:, :2] = [3, 4]
    reader = write(tmp_path / "log", user, item, seen, np.arange(1000) % 2)
    past = Earlier.of(np.arange(1000), None, np.arange(1000), num_blocks=4)
    pair = histories_module.HistoryPair.of(reader.schema, "seen", "item")
    keys, counts, _ = cosines_module.fit_cosines(reader, pair, user=user, past=past)
    assert keys.tolist() == [3, 4, 3 * 2**32 + 4]
    assert len(set(counts.rows.tolist())) == 1
    assert 60 < counts.rows[0] < 140


def test_what_has_no_room_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs that are seen first are counted exactly; tables grow on the way."""
    monkeypatch.setattr(cosines_module, "_FIRST_SLOTS", 16)
    user, item, seen = log(NUM_ROWS, num_users=40, num_items=30, seed=9)
    reader = write(tmp_path / "log", user, item, seen, np.arange(NUM_ROWS) % 2)
    past = Earlier.of(np.arange(NUM_ROWS), None, np.arange(NUM_ROWS), num_blocks=4)
    pair = histories_module.HistoryPair.of(reader.schema, "seen", "item")
    keys, counts, _ = cosines_module.fit_cosines(reader, pair, user=user, past=past)
    every = dict(zip(keys.tolist(), counts.rows.tolist(), strict=True))
    monkeypatch.setattr(cosines_module, "MAX_PAIRS", 64)
    keys, counts, _ = cosines_module.fit_cosines(reader, pair, user=user, past=past)
    some = dict(zip(keys.tolist(), counts.rows.tolist(), strict=True))
    assert len(some) < len(every)
    assert some.items() <= every.items()
    assert sum(key > 2**32 for key in some) <= 64


@pytest.mark.parametrize(
    ("user", "cosines", "shared"),
    [(None, True, True), ("nobody", True, True), ("user", False, True), ("user", True, False)],
)
def test_without_a_user_or_one_vocabulary_there_are_none(user: str | None, cosines: bool, shared: bool) -> None:
    schema = schema_of() if shared else bucket_schema("user", "item", max_len=LENGTH)
    chosen = choose_statistics(schema, patterns=[], pairs=[("seen", "item")], user=user, cosines=cosines)
    assert [name for statistic in chosen for name in statistic.names] == ["stat.seen:item.rate"]
