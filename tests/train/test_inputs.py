"""Ends of bins and rare values against plain counts of the train fold's rows."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from qin.config import NetworkParams, load_params
from qin.features.scale import signed_log
from qin.shards.files import ShardReader
from qin.train import inputs
from qin.train.inputs import bin_edges, drawn_rows, fit_inputs, rare_buckets, read_numbers
from tests.planted import SCHEMA, write_planted
from tests.project import ROOT

NUM_ROWS = 2500
IS_TRAIN = np.random.default_rng(3).random(NUM_ROWS) < 0.5


def params(**changes: Any) -> NetworkParams:
    return load_params(ROOT / "params.yaml").model.network.model_copy(update=changes)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("inputs") / "log", num_rows=NUM_ROWS)


def test_values_are_counted_in_fields_and_in_the_histories_that_share_their_vocabulary(
    reader: ShardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_CHUNK_ROWS", 700)
    counts: Counter[tuple[str, int]] = Counter()
    for row in np.flatnonzero(IS_TRAIN).tolist():
        for field, bucket in zip(SCHEMA.categorical, reader.read("categorical", row, row + 1)[0].tolist(), strict=True):
            counts[field.name, bucket] += 1
        for field in SCHEMA.sequences:
            for bucket in reader.read(f"sequence.{field.name}", row, row + 1)[0].tolist():
                counts[field.vocabulary, bucket] += 1
    min_count = sorted(counts.values())[len(counts) // 2]
    expected = [
        bucket > 1 and counts[name, bucket] < min_count
        for name, num_buckets in SCHEMA.vocabularies.items()
        for bucket in range(num_buckets)
    ]
    found = rare_buckets(reader, IS_TRAIN, min_count=min_count)
    assert found.tolist() == expected
    assert 10 < (~found).sum() < len(counts)


def test_other_rows_do_not_count(reader: ShardReader) -> None:
    """All values are rare to an empty fold; those of the other rows stay so."""
    assert rare_buckets(reader, np.zeros(NUM_ROWS, np.bool_), min_count=1).sum() == sum(
        num_buckets - 2 for num_buckets in SCHEMA.vocabularies.values()
    )
    of_few, of_all = (rare_buckets(reader, np.arange(NUM_ROWS) < num_rows, min_count=2) for num_rows in (20, NUM_ROWS))
    assert (of_all <= of_few).all()
    assert of_all.sum() < of_few.sum()


def test_bins_end_at_quantiles() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(1001, 2))
    values[generator.permutation(1001)[:200], 0] = np.nan
    found = bin_edges(values, 4)
    for field in range(2):
        present = np.sort(values[~np.isnan(values[:, field]), field])
        np.testing.assert_allclose(found[field], present[np.arange(5) * (present.size - 1) // 4], rtol=1e-6)


def test_equal_quantiles_give_fewer_bins() -> None:
    columns = {
        "mostly zero": (
            np.repeat([0.0, 1.0, 2.0], [80, 10, 10]),
            [0.0, 1.0] + [2.0] * 9,
        ),
        "constant": (np.full(100, 0.7), [np.float32(0.7)] * 11),
        "missing": (np.full(100, np.nan), [0.0] * 11),
        "too near for float32": (np.linspace(0, 1e-9, 100), [0.0] * 11),
    }
    found = bin_edges(np.stack([column for column, _ in columns.values()], axis=1), 10)
    for row, (name, (_, expected)) in zip(found, columns.items(), strict=True):
        assert row.tolist() == expected, name


def test_a_large_fold_gives_a_sample_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_QUANTILE_ROWS", 50)
    rows = drawn_rows(IS_TRAIN, seed=1)
    assert rows.size == np.unique(rows).size == 50
    assert IS_TRAIN[rows].all()
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, drawn_rows(IS_TRAIN, seed=1))
    assert not np.array_equal(rows, drawn_rows(IS_TRAIN, seed=2))
    monkeypatch.setattr(inputs, "_QUANTILE_ROWS", NUM_ROWS)
    assert np.array_equal(drawn_rows(IS_TRAIN, seed=1), np.flatnonzero(IS_TRAIN))


def test_numbers_are_read_by_row(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_CHUNK_ROWS", 600)
    rows = np.array([0, 599, 600, 1300, NUM_ROWS - 1])
    assert np.array_equal(read_numbers(reader, rows), reader.read("numeric", 0, NUM_ROWS)[rows], equal_nan=True)


def test_bins_are_those_of_what_the_normalizer_gives(reader: ShardReader) -> None:
    """In each bin of a field without spikes are as many of the train fold's rows."""
    fitted = fit_inputs(reader, IS_TRAIN, params(numeric_bins=4), seed=0)
    assert fitted.is_rare is None
    assert fitted.edges is not None
    numeric = reader.read("numeric", 0, NUM_ROWS)[IS_TRAIN]
    normalized = fitted.normalizer(torch.from_numpy(numeric))[:, :2].numpy()
    for field in range(2):
        present = normalized[~np.isnan(numeric[:, field]), field]
        counts = np.histogram(present, bins=fitted.edges[field].numpy())[0]
        np.testing.assert_allclose(counts, present.size / 4, atol=2.0)


def test_only_what_is_asked_for_is_fitted(reader: ShardReader) -> None:
    plain = fit_inputs(reader, IS_TRAIN, params(numeric_bins=0, min_count=1), seed=0)
    assert (plain.edges, plain.is_rare) == (None, None)
    published = fit_inputs(reader, IS_TRAIN, params(preset="published", numeric_bins=3, min_count=9), seed=0)
    assert (published.edges, published.is_rare) == (None, None)
    both = fit_inputs(reader, IS_TRAIN, params(numeric_bins=3, min_count=9), seed=0)
    assert both.is_rare is not None
    assert both.edges is not None
    np.testing.assert_array_equal(both.is_rare.numpy(), rare_buckets(reader, IS_TRAIN, min_count=9))
    logs = signed_log(reader.read("numeric", 0, NUM_ROWS)[IS_TRAIN].astype(float))
    np.testing.assert_allclose(plain.normalizer.mean.numpy(), np.nanmean(logs, axis=0), rtol=1e-6)
