"""Trees on prepared rows: what they learn, that nothing but the named rows enters, and that runs repeat."""

from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from qin.config import TreeParams
from qin.metrics.definitions import Rows, ranking_metrics, values
from qin.runtime.errors import ArtifactError
from qin.shards.files import ShardReader
from qin.shards.loader import read_batch
from qin.trees import fit as fit_module
from qin.trees.artifact import DESCRIPTION, TREES, TreesArtifact, load_trees, save_trees
from qin.trees.columns import CHUNK_ROWS, TreeColumns
from qin.trees.fit import _leaves_for, _parameters, _Rows, fit_trees, sampled
from qin.trees.fitted import FittedTrees
from tests.planted import planted_logit, write_planted

NUM_ROWS = 6000
PARAMS = TreeParams(learning_rate=0.1, max_rounds=120, patience=15, column_share=0.8, l2=1.0, seed=3)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("planted") / "train", num_rows=NUM_ROWS, seed=1)


def labels(log: ShardReader) -> np.ndarray:
    return log.read("label", 0, log.num_rows)[:, 0]


def masks() -> tuple[np.ndarray, np.ndarray]:
    is_train = np.arange(NUM_ROWS) % 5 != 0
    return is_train, ~is_train & (np.arange(NUM_ROWS) % 2 == 0)


@pytest.fixture(scope="module")
def fitted(log: ShardReader) -> FittedTrees:
    is_train, is_stopping = masks()
    return fit_trees(log, labels(log), is_train=is_train, stop=is_stopping, params=PARAMS, num_threads=2)


def test_they_come_close_to_what_their_columns_can_tell(log: ShardReader, fitted: FittedTrees) -> None:
    """The match of target and history is no column of this log, so the truth without it is the bound."""
    is_train, is_stopping = masks()
    held = ~is_train & ~is_stopping
    batch = read_batch(log, np.flatnonzero(held))
    is_seen = (batch.sequences[1].long() == batch.categorical[:, 1:].long()).any(dim=1).numpy()
    visible = planted_logit(batch).numpy() - 1.5 * is_seen
    label = labels(log)[held]
    found = values(ranking_metrics(), Rows(fitted.logit(log, held), label))["auc"]
    assert found > values(ranking_metrics(), Rows(visible, label))["auc"] - 0.03


def test_they_stop_where_the_stopping_rows_are_best(log: ShardReader) -> None:
    is_train, is_stopping = masks()
    losses: list[float] = []
    fitted = fit_trees(
        log,
        labels(log),
        is_train=is_train,
        stop=is_stopping,
        params=PARAMS,
        num_threads=2,
        on_round=lambda _, loss: losses.append(loss),
    )
    assert fitted.num_rounds == int(np.argmin(losses)) + 1
    assert len(losses) <= min(fitted.num_rounds + PARAMS.patience, PARAMS.max_rounds)


def test_only_the_named_rows_enter(log: ShardReader, fitted: FittedTrees) -> None:
    """Labels of all other rows may be anything: the trees do not change."""
    is_train, is_stopping = masks()
    other = np.where(is_train | is_stopping, labels(log), 1 - labels(log))
    again = fit_trees(log, other, is_train=is_train, stop=is_stopping, params=PARAMS, num_threads=2)
    assert again.forest.text == fitted.forest.text


def test_runs_repeat_to_the_byte_and_logits_do_not_depend_on_threads_or_on_other_rows(
    log: ShardReader, fitted: FittedTrees
) -> None:
    is_train, is_stopping = masks()
    again = fit_trees(log, labels(log), is_train=is_train, stop=is_stopping, params=PARAMS, num_threads=2)
    assert again.forest.text == fitted.forest.text
    whole = fitted.logit(log)
    one = FittedTrees(fitted.forest, fitted.columns, fitted.num_leaves, num_threads=1)
    np.testing.assert_array_equal(one.logit(log, is_stopping), whole[is_stopping])


def test_rows_come_as_selected_by_range_and_one_by_one(log: ShardReader) -> None:
    columns = TreeColumns.choose(log, np.ones(NUM_ROWS, np.bool_))
    selected = np.zeros(NUM_ROWS, np.bool_)
    selected[[0, 7, 4095, 4096, NUM_ROWS - 1]] = True
    rows = _Rows(log, columns, selected)
    whole = columns.matrix(log, 0, NUM_ROWS)[selected]
    np.testing.assert_array_equal(rows[0 : len(rows)], whole)
    np.testing.assert_array_equal(rows[1:3], whole[1:3])
    np.testing.assert_array_equal(np.stack([rows[i] for i in range(len(rows))]), whole)
    assert rows.batch_size == CHUNK_ROWS


def test_columns_are_numbers_then_small_vocabularies(log: ShardReader) -> None:
    columns = TreeColumns.choose(log, np.ones(NUM_ROWS, np.bool_))
    assert columns.names == ["price", "views", "shop", "item", "seq.last", "recent.last"]
    first = columns.matrix(log, 0, 50)
    np.testing.assert_array_equal(first[:, :2], log.read("numeric", 0, 50).astype(float))
    recent = log.read("sequence.recent", 0, 50)
    known = columns.last_items["recent"]
    expected = [known.index(int(row[row != 0][-1]) if row.any() else 0) for row in recent]
    np.testing.assert_array_equal(first[:, 5], expected)


def test_a_category_that_training_had_not_is_missing(log: ShardReader) -> None:
    shop = log.read("categorical", 0, NUM_ROWS)[:, 0]
    columns = TreeColumns.choose(log, shop != 3)
    assert 3 not in columns.categorical["shop"]
    found = columns.matrix(log, 0, NUM_ROWS)[:, columns.names.index("shop")]
    np.testing.assert_array_equal(np.isnan(found), shop == 3)


@pytest.mark.parametrize(("clicks", "others", "leaves"), [(5, 10_000, 7), (2_000, 90_000, 15), (50_000, 60_000, 31)])
def test_leaves_follow_the_rarer_class(clicks: int, others: int, leaves: int) -> None:
    label = np.r_[np.ones(clicks, np.uint8), np.zeros(others, np.uint8)]
    assert _leaves_for(label) == leaves


def test_a_fixed_number_of_rounds_needs_no_stopping_rows(log: ShardReader) -> None:
    fitted = fit_trees(log, labels(log), is_train=masks()[0], stop=7, params=PARAMS, num_threads=2)
    assert fitted.num_rounds == 7


@pytest.mark.parametrize(("max_rows", "expected"), [(None, 4800), (5000, 4800), (700, 700), ("auto", 4800)])
def test_at_most_so_many_rows_are_fitted(log: ShardReader, max_rows: int | str | None, expected: int) -> None:
    is_train, _ = masks()
    params = PARAMS.model_copy(update={"max_rows": max_rows})
    drawn = sampled(log, is_train, params=params)
    assert drawn.sum() == expected
    assert not (drawn & ~is_train).any()
    assert np.array_equal(drawn, sampled(log, is_train, params=params))


def test_very_many_rows_stay_within_a_bound(log: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, whatever the log: two bytes and a half of each field, and 40 of each row."""
    monkeypatch.setattr(fit_module, "AUTO_BYTES", 100_000)
    expected = 100_000 // (2.5 * len(log.schema.fields) + 40)
    assert sampled(log, masks()[0], params=PARAMS).sum() == expected


def test_they_travel_through_files(log: ShardReader, fitted: FittedTrees, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save_trees(tmp_path / name, TreesArtifact(fitted, log.schema, {"metrics": {}}))
    for file in (TREES, DESCRIPTION):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    loaded = load_trees(tmp_path / "first", num_threads=1)
    assert loaded.schema == log.schema
    np.testing.assert_array_equal(loaded.trees.logit(log), fitted.logit(log))
    text = (tmp_path / "first" / TREES).read_text()
    (tmp_path / "first" / TREES).write_text(text.replace("leaf_value=", "leaf_value=1", 1))
    with pytest.raises(ArtifactError, match=r"trees.txt: damaged"):
        load_trees(tmp_path / "first", num_threads=1)


def test_they_are_what_lightgbm_makes_of_the_same_matrix(log: ShardReader, fitted: FittedTrees) -> None:
    """Streaming changes nothing: the bins of this log have fewer values than the sample has rows."""
    is_train, _ = masks()
    columns = fitted.columns
    matrix = columns.matrix(log, 0, NUM_ROWS)
    parameters = _parameters(PARAMS, fitted.num_leaves, 2)
    data = lgb.Dataset(
        matrix[is_train], labels(log)[is_train], categorical_feature=columns.category_positions, params=parameters
    )
    whole = lgb.train(parameters, data, num_boost_round=3)
    streamed = fit_trees(log, labels(log), is_train=is_train, stop=3, params=PARAMS, num_threads=2)
    np.testing.assert_allclose(streamed.logit(log), whole.predict(matrix, raw_score=True), atol=1e-12)
