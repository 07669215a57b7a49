"""Importance by replacement: planted fields are found, unused ones count nothing, figures equal a plain computation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from qin.evaluate.curves import Row
from qin.evaluate.importance import COLUMNS, draw_rows, fold_importance, permutation_importance
from qin.metrics.logits import Float64Array, FloatArray, IntArray
from qin.shards.files import ShardReader, read_labels
from qin.shards.loader import Batch, read_batch
from tests.planted import SCHEMA, planted_logit, write_planted

NUM_ROWS = 3_000


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("importance") / "log", num_rows=NUM_ROWS)


def score(batch: Batch) -> Float64Array:
    """The truth, and a little of a field that the clicks do not depend on."""
    return np.asarray(planted_logit(batch) + 0.05 * torch.nan_to_num(batch.numeric[:, 1].double()))


def as_they_are(logit: FloatArray, _: IntArray) -> Float64Array:
    return logit.astype(np.float64)


def importance(reader: ShardReader, **changes: int) -> list[Row]:
    rows, label = np.arange(1, NUM_ROWS, 2), read_labels(reader)[1::2]
    settings = {"max_rows": 1_000, "seed": 0, **changes}
    return fold_importance(reader, rows, label, score=score, calibrate=as_they_are, **settings)


def of_kind(rows: list[Row], kind: str) -> dict[str, Row]:
    return {str(row["name"]): row for row in rows if row["kind"] == kind}


def z_score(row: Row) -> float:
    return float(row["log_loss_rise"]) / float(row["log_loss_rise_se"])


def test_planted_fields_are_found_and_others_are_not(reader: ShardReader) -> None:
    rows = importance(reader)
    assert all(tuple(row) == COLUMNS for row in rows)
    fields = of_kind(rows, "field")
    assert set(fields) == {field.name for field in SCHEMA.fields}
    for name in ("shop", "item", "price", "recent"):
        assert z_score(fields[name]) > 3.0, name
        assert float(fields[name]["auc_drop"]) > 2.0 * float(fields[name]["auc_drop_se"]) > 0.0, name
        assert float(fields[name]["ap_drop"]) > 0.0, name
    assert fields["seq"]["log_loss_rise"] == fields["seq"]["log_loss_rise_se"] == fields["seq"]["auc_drop"] == 0.0
    assert abs(z_score(fields["views"])) < 3.0
    assert [row["rank"] for row in fields.values()] == list(range(1, 7))
    assert sorted(fields, key=lambda name: -float(fields[name]["log_loss_rise"])) == list(fields)


def test_the_pair_that_only_counts_together_is_the_strongest(reader: ShardReader) -> None:
    # taking the item or the history from another row breaks the match, and so does taking both from different rows;
    # taken together from one row the match stays, without its bond to the click
    pairs = of_kind(importance(reader), "pair")
    assert len(pairs) == 15
    first = next(iter(pairs.values()))
    assert first["name"] == "item x recent"
    assert abs(z_score(first)) > 3.0


def test_the_same_seed_gives_the_same_rows_and_another_does_not(reader: ShardReader) -> None:
    assert importance(reader) == importance(reader)
    assert importance(reader) != importance(reader, seed=1)


def test_no_more_rows_are_read_or_scored_than_asked(reader: ShardReader) -> None:
    sizes = set()

    def counting(batch: Batch) -> Float64Array:
        sizes.add(batch.rows.size)
        return score(batch)

    rows, label = np.arange(NUM_ROWS), read_labels(reader)
    fold_importance(reader, rows, label, score=counting, calibrate=as_they_are, max_rows=100, seed=0)
    assert sizes == {100}


@pytest.mark.parametrize(
    ("num_clicks", "num_others", "max_rows", "expected"),
    [(50, 950, 40, (20, 20)), (5, 995, 40, (5, 35)), (5, 15, 40, (5, 15)), (35, 5, 20, (15, 5))],
)
def test_draw_takes_clicks_up_to_half(
    num_clicks: int, num_others: int, max_rows: int, expected: tuple[int, int]
) -> None:
    label = np.random.default_rng(0).permutation(np.repeat([1, 0], [num_clicks, num_others]))
    drawn = draw_rows(label, max_rows=max_rows, seed=0)
    assert np.bincount(label[drawn.sampled])[::-1].tolist() == list(expected)
    assert (np.diff(drawn.sampled) > 0).all()
    assert np.unique(drawn.donor).size == drawn.donor.size == drawn.sampled.size


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows must be at least 4: max_rows=3"):
        draw_rows(np.array([0, 1, 0, 1]), max_rows=3, seed=0)


def test_figures_equal_a_plain_computation(reader: ShardReader) -> None:
    generator = np.random.default_rng(5)
    sampled = read_batch(reader, np.sort(generator.choice(NUM_ROWS, 400, replace=False)))
    donor = read_batch(reader, np.sort(generator.choice(NUM_ROWS, 400, replace=False)))
    assert sampled.label is not None
    label, base_rate = sampled.label.numpy().astype(np.float64), 0.05
    weight = np.where(label == 1, base_rate / label.mean(), (1 - base_rate) / (1 - label.mean()))

    def losses(logit: Float64Array) -> Float64Array:
        probability = 1.0 / (1.0 + np.exp(-logit))
        return -np.log(np.where(label == 1, probability, 1.0 - probability))

    def replaced(*columns: int) -> Float64Array:
        categorical = sampled.categorical.clone()
        for column in columns:
            categorical[:, column] = donor.categorical[:, column]
        return score(Batch(sampled.rows, categorical, sampled.numeric, sampled.sequences, None))

    rows = permutation_importance(score, sampled, donor, schema=SCHEMA, base_rate=base_rate)
    rise = losses(replaced(0)) - losses(score(sampled))
    shop = of_kind(rows, "field")["shop"]
    assert shop["log_loss_rise"] == pytest.approx(np.average(rise, weights=weight), rel=1e-12)
    variance = sum(
        share**2 * rise[label == clicked].var(ddof=1) / (label == clicked).sum()
        for clicked, share in ((1, base_rate), (0, 1 - base_rate))
    )
    assert shop["log_loss_rise_se"] == pytest.approx(np.sqrt(variance), rel=1e-12)
    before, after = score(sampled), replaced(0)
    drop = roc_auc_score(label, before) - roc_auc_score(label, after)
    assert shop["auc_drop"] == pytest.approx(drop, rel=1e-9)
    drop = average_precision_score(label, before, sample_weight=weight)
    drop -= average_precision_score(label, after, sample_weight=weight)
    assert shop["ap_drop"] == pytest.approx(drop, rel=1e-9)
    pair = of_kind(rows, "pair")["shop x item"]
    beyond = losses(replaced(0, 1)) - losses(replaced(0)) - losses(replaced(1)) + losses(score(sampled))
    assert pair["log_loss_rise"] == pytest.approx(np.average(beyond, weights=weight), rel=1e-9)
