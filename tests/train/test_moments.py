"""Streaming moments against one-pass float64 statistics of the whole array."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.features.scale import signed_log
from qin.train.moments import NumericMoments


def make_rows(seed: int, num_rows: int = 3000) -> npt.NDArray[np.float32]:
    """Heavy tails, a large offset with a small spread, a constant, a small integer, and one empty field."""
    generator = np.random.default_rng(seed)
    columns = [
        generator.standard_cauchy(num_rows) * 1e4,
        1e6 + generator.normal(size=num_rows),
        np.full(num_rows, 0.1),
        generator.integers(-2, 3, num_rows),
        np.full(num_rows, np.nan),
    ]
    rows = np.stack(columns, axis=1).astype(np.float32)
    rows[generator.random(rows.shape) < 0.2] = np.nan
    return rows


def fit(batches: list[npt.NDArray[np.float32]]) -> NumericMoments:
    moments = NumericMoments(batches[0].shape[1])
    for batch in batches:
        moments.update(batch)
    return moments


def test_equals_the_statistics_of_the_whole_array() -> None:
    rows = make_rows(0)
    moments = fit(np.array_split(rows, 7))
    for field in (0, 1, 3):
        logs = [math.copysign(math.log1p(abs(x)), x) for x in rows[:, field].tolist() if not math.isnan(x)]
        reference = np.array(logs, np.longdouble)
        assert moments.count[field] == len(logs)
        np.testing.assert_allclose(moments.mean[field], reference.mean(), rtol=1e-12)
        # A last-digit difference between two log1p is 1e-9 of the spread of field 1, which is 1e-6 around 14.
        np.testing.assert_allclose(moments.std[field], reference.std(), rtol=1e-9 if field == 1 else 1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.lists(st.integers(0, 3000), max_size=8))
def test_the_cut_into_batches_does_not_matter(seed: int, cuts: list[int]) -> None:
    rows = make_rows(seed)
    whole, split = fit([rows]), fit(np.split(rows, sorted(cuts)))
    assert np.array_equal(whole.count, split.count)
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(split.std, whole.std, rtol=1e-12)


@pytest.mark.parametrize("threads", [2, 7])
def test_the_number_of_threads_does_not_matter(threads: int, num_threads: None) -> None:
    batches = np.array_split(make_rows(2, num_rows=70_000), 2)
    torch.set_num_threads(1)
    alone = fit(batches)
    torch.set_num_threads(threads)
    together = fit(batches)
    assert alone.mean.tobytes() == together.mean.tobytes()
    assert alone.std.tobytes() == together.std.tobytes()


def test_constant_and_empty_fields_have_no_spread_at_all() -> None:
    moments = fit(np.array_split(make_rows(1), 11))
    assert moments.std[2] == 0.0
    assert moments.mean[2] == signed_log(np.array([0.1], np.float32))[0]
    assert (moments.count[4], moments.mean[4], moments.std[4]) == (0, 0.0, 0.0)


def test_empty_batches_and_no_fields() -> None:
    moments = NumericMoments(2)
    moments.update(np.empty((0, 2), np.float32))
    assert moments.count.tolist() == [0, 0]
    empty = NumericMoments(0)
    empty.update(np.empty((5, 0), np.float32))
    assert empty.mean.shape == empty.std.shape == (0,)


@pytest.mark.parametrize("row", [0, 1])
def test_infinite_values_are_refused(row: int) -> None:
    batch = np.ones((2, 3), np.float32)
    batch[row, 1] = np.inf
    with pytest.raises(ValueError, match="field 1 is not"):
        NumericMoments(3).update(batch)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(rows, 3\), got \(2, 4\)"):
        NumericMoments(3).update(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="num_fields=-1"):
        NumericMoments(-1)
