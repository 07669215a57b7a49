"""Pointwise sampling errors of the ranking curves: the delta method with both classes' counts as the only noise.

A curve's point estimates a rate `v` (a true positive rate, a precision, a share of clicks). Moving along the curve also
moves the threshold, so each variance needs the curve's slope there, `r = dTPR / dFPR`: the ratio of the two classes'
score densities. It is taken from a window of counts around the threshold. What is returned is the effective number of
rows, `v (1 - v) / variance`: the rows of a plain rate with the same variance. Wilson's interval of that many rows stays
inside [0, 1] and has a width also where the observed rate is 0 or 1.

Rows are taken as independent. Sources: Hsieh and Turnbull (1996), Nonparametric and semiparametric estimation of the
receiver operating characteristic curve, section 2 (variance of an ROC curve at a fixed false positive rate); Korn and
Graubard (1998), Confidence intervals for proportions with small expected number of positive counts (effective rows).
"""

from dataclasses import dataclass

import numpy as np

from qin.metrics.logits import Float64Array, IntArray

_MIN_WINDOW = 5  # positives on either side of a threshold


@dataclass(frozen=True)
class Vertices:
    """Corners of the ROC polyline from its origin up; every array has shape (num_vertices,).

    Attributes:
        true_positives: Positives above, ascending from 0 to all of them.
        false_positives: Negatives above, the same.
    """

    true_positives: IntArray
    false_positives: IntArray

    @property
    def num_positives(self) -> int:
        """All positives."""
        return int(self.true_positives[-1])

    @property
    def num_negatives(self) -> int:
        """All negatives."""
        return int(self.false_positives[-1])

    def smoothed(self) -> tuple[Float64Array, Float64Array]:
        """True and false positive rates with half a row added to each side, strictly between 0 and 1."""
        return (
            np.divide(self.true_positives + 0.5, self.num_positives + 1.0, dtype=np.float64),
            np.divide(self.false_positives + 0.5, self.num_negatives + 1.0, dtype=np.float64),
        )

    def slope(self) -> Float64Array:
        """Return `dTPR / dFPR` at each vertex, from the vertices a window of positives before and after it.

        The window is half of `num_positives ** 0.8`, the order that balances bias and noise of a density estimate.
        """
        window = max(_MIN_WINDOW, round(0.5 * self.num_positives**0.8))
        number = np.arange(self.true_positives.size)
        before = np.searchsorted(self.true_positives, self.true_positives - window, side="left")
        before = np.minimum(before, np.maximum(number - 1, 0))  # a tie may be wider than the window
        after = np.searchsorted(self.true_positives, self.true_positives + window, side="right") - 1
        after = np.maximum(after, np.minimum(number + 1, number.size - 1))
        positives = self.true_positives[after] - self.true_positives[before]
        negatives = self.false_positives[after] - self.false_positives[before]
        slope: Float64Array = (positives + 0.5) / (negatives + 0.5) * self.num_negatives / self.num_positives
        return np.where(positives + negatives > 0, slope, 1.0)  # between two corners in one place: nothing to tell


def roc_effective_rows(vertices: Vertices) -> Float64Array:
    """Effective rows of the true positive rate `R` at a fixed false positive rate `F`.

    `variance = R (1 - R) / P + r^2 F (1 - F) / N`, with `P` positives and `N` negatives.
    """
    tpr, fpr = vertices.smoothed()
    of_threshold = vertices.slope() ** 2 * fpr * (1.0 - fpr) / vertices.num_negatives
    return 1.0 / (1.0 / vertices.num_positives + of_threshold / (tpr * (1.0 - tpr)))


def precision_effective_rows(vertices: Vertices) -> Float64Array:
    """Effective rows of the precision at a fixed recall `R`.

    The odds of the precision are `(P / N) R / F(R)`, and the three factors' logarithms vary on their own:
    `1/P + 1/N` for the classes, and `(1 - F) / (N F) + e^2 (1 - R) / (P R)` for the false positive rate, where
    `e = (R / F) / r` is the curve's elasticity, `d log F / d log R`. At `e = 1` the variance is that of
    `TP / (TP + FP)` at a fixed threshold.
    """
    tpr, fpr = vertices.smoothed()
    num_positives, num_negatives = vertices.num_positives, vertices.num_negatives
    elasticity = tpr / fpr / vertices.slope()
    variance_of_logit = (
        1.0 / num_positives
        + 1.0 / num_negatives
        + (1.0 - fpr) / (num_negatives * fpr)
        + elasticity**2 * (1.0 - tpr) / (num_positives * tpr)
    )
    precision = num_positives * tpr / (num_positives * tpr + num_negatives * fpr)
    return 1.0 / (precision * (1.0 - precision) * variance_of_logit)


def gain_effective_rows(
    share: Float64Array, gain: Float64Array, *, slope: Float64Array, base_rate: float, num_rows: int
) -> Float64Array:
    """Effective rows of the gain `G`, the share of clicks among the best `share` of all rows.

    A row with label `y`, `h = 1` inside the share `s`, moves the gain by `(y (h - G) - m (h - s)) / q`, where `m` is
    the click rate at the threshold and `q` the base rate: the second term is the threshold that moves to keep the
    share. The variance is the mean square of this over the four kinds of rows, divided by the rows.

    Args:
        share: `(n,)`, in (0, 1].
        gain: The observed shares of clicks, of the same shape.
        slope: `dTPR / dFPR` there.
        base_rate: Share of clicks among all rows.
        num_rows: All rows.
    """
    # The gain of all rows is 1 without an error, and its effective rows would be 0 / 0.
    share = np.minimum(share, 1.0 - 0.5 / num_rows)
    # Half a click on either side, as `Vertices.smoothed` has it.
    gain = (gain * base_rate * num_rows + 0.5) / (base_rate * num_rows + 1.0)
    at_threshold = base_rate * slope / (base_rate * slope + 1.0 - base_rate)
    inside, outside = base_rate * gain, base_rate * (1.0 - gain)  # shares of clicks
    mean_square = (
        inside * ((1.0 - gain) - at_threshold * (1.0 - share)) ** 2
        + np.maximum(share - inside, 0.0) * (at_threshold * (1.0 - share)) ** 2
        + outside * (gain - at_threshold * share) ** 2
        + np.maximum(1.0 - share - outside, 0.0) * (at_threshold * share) ** 2
    )
    return gain * (1.0 - gain) * base_rate**2 * num_rows / mean_square
