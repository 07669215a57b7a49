"""The interval of a share against SciPy's."""

import pytest
from scipy.stats import binomtest

from qin.metrics.intervals import wilson_interval


@pytest.mark.parametrize(("num_positives", "num_rows"), [(0, 10), (10, 10), (1, 1), (3, 500), (0, 1), (19, 1_000_000)])
def test_wilson_interval_equals_scipy(num_positives: int, num_rows: int) -> None:
    reference = binomtest(num_positives, num_rows).proportion_ci(0.95, method="wilson")
    assert wilson_interval(num_positives, num_rows=num_rows) == pytest.approx(
        (reference.low, reference.high), abs=1e-15
    )


@pytest.mark.parametrize(("num_positives", "num_rows"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_rates_are_refused(num_positives: int, num_rows: int) -> None:
    with pytest.raises(ValueError, match="0 <= num_positives <= num_rows must hold"):
        wilson_interval(num_positives, num_rows=num_rows)
