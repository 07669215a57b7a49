"""Whether two models differ on the same rows, or by chance: paired differences with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qin.metrics.definitions import AP, AUC, LOG_LOSS, WLL, Metric, Rows
from qin.metrics.estimate import Estimate
from qin.metrics.logits import BoolArray, FloatArray, IntArray, LabelArray
from qin.metrics.resampling import equivalent_z
from qin.metrics.standard_errors import confidence, standard_error


@dataclass(frozen=True)
class Difference:
    """One metric of two models on the same rows.

    Attributes:
        first: The first model's value.
        second: The second model's value.
        difference: Second minus first.
        standard_error: Of `difference`, paired; None where a class lies in a single cluster.
        lower: 95% interval of `difference`; None without a standard error. For what holds an average precision of few
            clicks it is resampled, and not `difference +- 1.96 standard_error`.
        upper: Its other end.
        z: `difference` in standard errors or, where the interval is resampled, the normal deviate of the same p-value;
            None without a standard error above 0.
    """

    first: float
    second: float
    difference: float
    standard_error: float | None
    lower: float | None = None
    upper: float | None = None
    z: float | None = None


def compare_logits(
    first: FloatArray,
    second: FloatArray,
    label: LabelArray,
    *,
    cluster: IntArray | None = None,
    metrics: Sequence[Metric] = (AP, AUC, LOG_LOSS, WLL),
) -> dict[str, Difference]:
    """Compare two models' logits row by row.

    Args:
        first: `(n,)`, calibrated logits of the first model.
        second: `(n,)`, those of the second model on the same rows.
        label: `(n,)` in {0, 1}.
        cluster: `(n,)`, codes from 0 of what is drawn independently, such as users; None for rows.
        metrics: What to compare, one after the other: an estimate holds a number per row.

    Returns:
        Each metric's difference by name.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows` and `qin.metrics.standard_errors.standard_error`.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated ROC curves, for
    AUC; the other metrics follow the same way from their influence functions.
    """
    ours, theirs = Rows(first, label), Rows(second, label)
    return {
        metric.name: paired_difference(
            metric.estimate(ours), metric.estimate(theirs), is_positive=ours.is_positive, cluster=cluster
        )
        for metric in metrics
    }


def paired_difference(
    first: Estimate, second: Estimate, *, is_positive: BoolArray, cluster: IntArray | None = None
) -> Difference:
    """Compare two estimates on the same rows; see `compare_logits`."""
    change = second.minus(first)
    error = standard_error(change.influence, is_positive, cluster=cluster)
    found = confidence(change, is_positive, cluster=cluster, standard_error=error)
    if found is None:
        return Difference(first.value, second.value, change.value, None)
    z = None
    if error:
        z = change.value / error
        if found.is_resampled:
            z = math.copysign(equivalent_z(found.p_value), change.value)
    return Difference(first.value, second.value, change.value, error, found.lower, found.upper, z)
