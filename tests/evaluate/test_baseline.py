"""Trees: their rows and inputs, against scikit-learn put together by hand, and the comparison with the network."""

import logging

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import TargetEncoder

from qin.errors import DataError
from qin.evaluate import baseline as baseline_module
from qin.evaluate.baseline import Trees, baseline_figures, baseline_logits, sample_rows, tabulate
from qin.metrics.logits import Float64Array
from qin.metrics.paired import compare_logits
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, VALIDATION
from qin.shards.loader import read_batch, read_labels
from tests.planted import SCHEMA, planted_logit, write_planted

NUM_ROWS = 4_000
FOLD = np.where(np.arange(NUM_ROWS) % 4 == 3, VALIDATION, TRAIN).astype(np.uint8)
ROWS = np.flatnonzero(FOLD == VALIDATION)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("baseline") / "log", num_rows=NUM_ROWS)


def scored(
    reader: ShardReader, *, max_rows: int = NUM_ROWS, seed: int = 0, batch_size: int = 300, num_threads: int = 1
) -> tuple[int, Float64Array]:
    return baseline_logits(
        reader, FOLD, ROWS, max_rows=max_rows, seed=seed, batch_size=batch_size, num_threads=num_threads
    )


def test_sample_is_bounded_seeded_and_of_the_train_fold() -> None:
    rows = sample_rows(FOLD, max_rows=500, seed=0)
    assert rows.size == 500
    assert (np.diff(rows) > 0).all()
    assert (FOLD[rows] == TRAIN).all()
    np.testing.assert_array_equal(rows, sample_rows(FOLD, max_rows=500, seed=0))
    assert not np.array_equal(rows, sample_rows(FOLD, max_rows=500, seed=1))
    assert set(sample_rows(FOLD, max_rows=200, seed=0)) <= set(rows)  # more rows keep the ones that were there
    np.testing.assert_array_equal(sample_rows(FOLD, max_rows=3_000, seed=0), np.flatnonzero(FOLD == TRAIN))
    thirds = np.bincount(rows * 4 // NUM_ROWS, minlength=4)
    assert (np.abs(thirds - 125) < 50).all()


def test_inputs_equal_a_loop_over_rows(reader: ShardReader) -> None:
    batch = read_batch(reader, np.arange(50))
    categories, numbers = tabulate(batch, SCHEMA)
    for row in range(50):
        seq, recent = (tensor[row].tolist() for tensor in batch.sequences)
        shop, item = batch.categorical[row].tolist()
        last = [next((bucket for bucket in reversed(items) if bucket), 0) for items in (seq, recent)]
        assert categories[row].tolist() == [shop, item, *last]
        lengths = [sum(bucket != 0 for bucket in items) for items in (seq, recent)]
        expected = [*batch.numeric[row].tolist(), *lengths, recent.count(item)]
        np.testing.assert_array_equal(numbers[row], expected)


def test_trees_equal_scikit_learn_put_together_by_hand(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_module, "MAX_CATEGORIES", 20)  # the shop and the last item of no sequence
    train, other = read_batch(reader, np.arange(2_000)), read_batch(reader, np.arange(2_000, 2_500))
    label = read_labels(reader)[:2_000]
    (categories, numbers), (other_categories, other_numbers) = tabulate(train, SCHEMA), tabulate(other, SCHEMA)
    shops = sorted(set(categories[:, 0]))
    encoder = TargetEncoder(target_type="binary", cv=StratifiedKFold(5, shuffle=True, random_state=3))
    rates = encoder.fit_transform(categories[:, 1:], label)
    model = HistGradientBoostingClassifier(
        categorical_features=[0],
        learning_rate=0.05,
        max_iter=300,
        l2_regularization=1.0,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=20,
        random_state=3,
    )
    model.fit(np.hstack([np.searchsorted(shops, categories[:, :1]), rates, numbers]), label)
    codes = np.searchsorted(shops, other_categories[:, :1])
    expected = model.decision_function(np.hstack([codes, encoder.transform(other_categories[:, 1:]), other_numbers]))
    np.testing.assert_array_equal(Trees(train, SCHEMA, seed=3).logit(other), expected)


def test_trees_beat_chance_by_far_and_stay_below_the_truth(reader: ShardReader) -> None:
    num_rows, logit = scored(reader)
    label, truth = read_labels(reader)[ROWS], planted_logit(read_batch(reader, ROWS)).numpy()
    assert num_rows == 3_000
    best = roc_auc_score(label, truth)
    assert 0.5 + 0.6 * (best - 0.5) < roc_auc_score(label, logit) < best
    constant = np.full(label.size, label.mean())
    assert (
        log_loss(label, 1 / (1 + np.exp(-truth)))
        < log_loss(label, 1 / (1 + np.exp(-logit)))
        < log_loss(label, constant)
    )


def test_logits_depend_on_the_seed_alone(reader: ShardReader) -> None:
    num_rows, logit = scored(reader, max_rows=800)
    assert num_rows == 800
    np.testing.assert_array_equal(logit, scored(reader, max_rows=800, batch_size=1_000)[1])
    assert not np.array_equal(logit, scored(reader, max_rows=800, seed=1)[1])


@pytest.mark.slow  # threads that wait for each other on a busy machine
def test_logits_do_not_depend_on_threads(reader: ShardReader) -> None:
    np.testing.assert_array_equal(scored(reader)[1], scored(reader, num_threads=2)[1])


def test_a_sample_with_too_few_clicks_is_refused(reader: ShardReader) -> None:
    with pytest.raises(
        DataError, match=r"evaluate\.baseline_rows: 20 sampled rows hold \d clicks, each class needs 10"
    ):
        scored(reader, max_rows=20)


def test_a_network_that_loses_to_trees_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    good = generator.normal(-1.0, 2.0, 2_000)
    label = (generator.random(2_000) < 1 / (1 + np.exp(-good))).astype(np.uint8)
    is_judge = generator.random(2_000) < 0.5
    bad = good + generator.normal(0.0, 2.0, 2_000)
    ranking_logit = 2.0 * bad - 1.0  # before calibration: the same order
    with caplog.at_level(logging.WARNING, "qin"):
        figures = baseline_figures(good, bad, label, ranking=ranking_logit, is_judge=is_judge)
    assert [record.getMessage().split(":")[1].split()[0] for record in caplog.records] == [
        "ap",
        "auc",
        "log_loss",
        "wll",
    ]
    ranking = compare_logits(good, bad, label)
    judged = compare_logits(good[is_judge], bad[is_judge], label[is_judge])
    assert figures["auc"] == pytest.approx(roc_auc_score(label, good))
    for name in ("ap", "auc"):
        ends = figures["difference"][f"{name}_lower"], figures["difference"][f"{name}_upper"]
        assert ends == (ranking[name].lower, ranking[name].upper)
        assert ends[1] is not None
        assert ends[1] < 0
    assert figures["difference"]["auc"] == ranking["auc"].difference < 0
    assert figures["difference"]["auc_se"] == ranking["auc"].standard_error
    assert figures["difference"]["log_loss"] == judged["log_loss"].difference > 0
    assert figures["difference"]["log_loss_se"] == judged["log_loss"].standard_error
    caplog.clear()
    baseline_figures(bad, good, label, ranking=good, is_judge=is_judge)
    close = good + 1e-9 * bad
    baseline_figures(good, close, label, ranking=close, is_judge=is_judge)
    assert not caplog.records
