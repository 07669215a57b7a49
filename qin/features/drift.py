"""Whether a feature stays what it was: its distribution and its effect late in the train fold against shortly before.

A feature that was fitted on clicks may mean less, or something else, a little later; the rows to predict are later
still. So the third quarter of the train fold in time is compared with the fourth, by the population stability index
of the feature and by its slope in a logistic regression of the click. Both see the feature as the network does, by its
signed log.

A rate of a field with few values is a few spikes that never stand quite still, and bins would count a spike that
moved by a hair over a cut as a different world. So each value is spread evenly over half a standard deviation to either
side, and over no less than a tenth: what moves less than that hardly counts.

Source: Siddiqi (2006), Credit Risk Scorecards, chapter 8 (population stability index; above 0.25 is a major shift).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qin.features.scale import signed_log
from qin.metrics.logistic import fit_logistic, has_overlap
from qin.metrics.logits import Float64Array

NUM_BINS = 10
MAX_ROWS = 100_000  # of each quarter: the index's own noise is then below 0.001

# Of several hundred measures whose effect stays as it is, 3 standard errors name less than one.
_LOST_SHARE, _NUM_ERRORS = 0.5, 3.0
_SPREAD_DEVIATIONS, _MIN_SPREAD = 0.5, 0.1  # to either side
_GOLDEN_RATIO = 0.6180339887498949

Values = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drift:
    """How a feature moved.

    Attributes:
        psi: Population stability index.
        slope: Of the earlier and of the later quarter, per standard deviation of the earlier; None where one of them
            cannot tell.
        errors: Standard errors of the slopes.
    """

    psi: float
    slope: tuple[float, float] | None
    errors: tuple[float, float] | None

    def reason(self, *, max_psi: float) -> str | None:
        """Why the feature should not be used, or None."""
        if self.psi > max_psi:
            return f"distribution moved: stability index {self.psi:.2f}"
        if self.slope is None or self.errors is None:
            return None
        early, late = self.slope
        # How far the later slope is below half of the earlier, in the earlier one's direction, and that in errors.
        lost = math.copysign(1.0, early) * (_LOST_SHARE * early - late)
        if lost > _NUM_ERRORS * math.hypot(_LOST_SHARE * self.errors[0], self.errors[1]):
            return f"effect moved: slope {early:.2f}, then {late:.2f}"
        return None


def measure_drift(early: Values, early_label: Labels, late: Values, late_label: Labels) -> Drift:
    """Compare a feature between two times.

    Args:
        early: Values, finite, `(n,)`.
        early_label: `(n,)`.
        late: Values, finite, `(m,)`.
        late_label: `(m,)`.
    """
    values = [signed_log(early), signed_log(late)]
    deviation = float(values[0].std())
    spread = max(_SPREAD_DEVIATIONS * deviation, _MIN_SPREAD)
    psi = stability_index(*(_spread_out(column, spread) for column in values))
    fits = [
        # By the earlier deviation both times: by its own, a feature that spreads as its effect falls would seem good.
        _slope(column / (deviation or 1.0), label == 1)
        for column, label in zip(values, (early_label, late_label), strict=True)
    ]
    if fits[0] is None or fits[1] is None:
        return Drift(psi, None, None)
    return Drift(psi, (fits[0][0], fits[1][0]), (fits[0][1], fits[1][1]))


def _spread_out(values: Float64Array, half_width: float) -> Float64Array:
    """The values, moved by an even spread of amounts: multiples of the golden ratio fill an interval evenly."""
    position = np.arange(values.size) * _GOLDEN_RATIO % 1.0
    return values + half_width * (2.0 * position - 1.0)


def stability_index(early: Float64Array, late: Float64Array) -> float:
    """The sum over bins of `(q - p) log(q / p)`, bins cut at the tenths of the earlier values.

    Equal values stay in one bin, so a feature that is mostly 0 has fewer bins. Half a row is added to each bin, so
    that an empty one is no infinity.

    Args:
        early: `(n,)`.
        late: `(m,)`.
    """
    cuts = tenths(early)
    return index_of_counts(bin_counts(early, cuts), bin_counts(late, cuts))


def tenths(values: Float64Array) -> Float64Array:
    """Where the bins of values `(n,)` are cut, equal cuts once."""
    # Values that there are: a cut between two spikes would move with either, and divide neither.
    return np.unique(np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS, method="inverted_cdf"))


def bin_counts(values: Float64Array, cuts: Float64Array) -> npt.NDArray[np.int64]:
    """Values `(n,)` in each bin; a cut belongs to the bin below it, so that a mass at one value is not divided."""
    return np.bincount(np.searchsorted(cuts, values, side="left"), minlength=cuts.size + 1)


def index_of_counts(early: npt.NDArray[np.int64], late: npt.NDArray[np.int64]) -> float:
    """The stability index of values that are counted in bins, `(num_bins,)` each."""
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (early, late)]
    return float(np.dot(shares[1] - shares[0], np.log(shares[1] / shares[0])))


def _slope(values: Float64Array, is_positive: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """Slope and standard error, or None where the values or the clicks do not determine one."""
    if not is_positive.any() or is_positive.all() or not has_overlap(values, is_positive):
        return None
    try:
        fit = fit_logistic(values, is_positive)
    except ValueError:  # all but separated, or too close together, to rounding
        return None
    return float(fit.coefficient[0]), math.sqrt(float(fit.covariance[0, 0]))
