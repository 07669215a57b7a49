"""Whether two models differ on the same rows, or by chance: paired differences with their standard errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qin.metrics.logits import FloatArray, IntArray, LabelArray, positive_rows
from qin.metrics.standard_errors import Estimate, log_loss_estimate, ranking_estimates, standard_error, wll_estimate


@dataclass(frozen=True)
class Difference:
    """One metric of two models on the same rows.

    Attributes:
        first: the first model's value.
        second: the second model's value.
        difference: second minus first.
        standard_error: of `difference`, paired; None where a class lies in a single cluster.
    """

    first: float
    second: float
    difference: float
    standard_error: float | None


def compare_logits(
    first: FloatArray, second: FloatArray, label: LabelArray, *, cluster: IntArray | None = None
) -> dict[str, Difference]:
    """Compare two models' logits row by row.

    Args:
        first: ndarray of shape (n,), calibrated logits of the first model.
        second: ndarray of shape (n,), those of the second model on the same rows.
        label: ndarray of shape (n,) in {0, 1}.
        cluster: ndarray of shape (n,), codes from 0 of what is drawn independently, such as users; None for rows.

    Returns:
        `ap`, `auc`, `log_loss` and `wll` (natural prior).

    Raises:
        ValueError: see `qin.metrics.logits.positive_rows` and `qin.metrics.standard_errors.standard_error`.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated ROC curves, for
    AUC; the other metrics follow the same way from their influence functions.
    """
    return {
        **compare_rankings(first, second, label, cluster=cluster),
        **compare_losses(first, second, label, cluster=cluster),
    }


def compare_rankings(
    first: FloatArray, second: FloatArray, label: LabelArray, *, cluster: IntArray | None = None
) -> dict[str, Difference]:
    """Return `ap` and `auc` of `compare_logits` alone."""
    return _compare([ranking_estimates], first, second, label, cluster=cluster)


def compare_losses(
    first: FloatArray, second: FloatArray, label: LabelArray, *, cluster: IntArray | None = None
) -> dict[str, Difference]:
    """Return `log_loss` and `wll` of `compare_logits` alone."""
    return _compare([_log_loss, _wll], first, second, label, cluster=cluster)


def _compare(
    functions: Sequence[Callable[[FloatArray, LabelArray], dict[str, Estimate]]],
    first: FloatArray,
    second: FloatArray,
    label: LabelArray,
    *,
    cluster: IntArray | None,
) -> dict[str, Difference]:
    """Compare what each function estimates, one function after the other: an estimate holds a number per row."""
    is_positive = positive_rows(first, label)
    found = {}
    for estimates_of in functions:
        ours, theirs = estimates_of(first, label), estimates_of(second, label)
        for name, estimate in ours.items():
            found[name] = paired_difference(estimate, theirs[name], is_positive=is_positive, cluster=cluster)
    return found


def paired_difference(
    first: Estimate, second: Estimate, *, is_positive: LabelArray, cluster: IntArray | None = None
) -> Difference:
    """Compare two estimates on the same rows; see `compare_logits`."""
    error = standard_error(second.influence - first.influence, is_positive, cluster=cluster)
    return Difference(first.value, second.value, second.value - first.value, error)


def _log_loss(logit: FloatArray, label: LabelArray) -> dict[str, Estimate]:
    return {"log_loss": log_loss_estimate(logit, label)}


def _wll(logit: FloatArray, label: LabelArray) -> dict[str, Estimate]:
    return {"wll": wll_estimate(logit, label)}
