"""Whether two models differ on the same rows, or by chance: paired differences with their standard errors."""

from dataclasses import dataclass

from qin.influence import Estimate, log_loss_estimate, ranking_estimates, standard_error, wll_estimate
from qin.logits import FloatArray, IntArray, LabelArray, positive_rows


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
        ValueError: see `qin.logits.positive_rows` and `qin.influence.standard_error`.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated ROC curves, for
    AUC; the other metrics follow the same way from their influence functions.
    """
    is_positive = positive_rows(first, label)
    estimates = [_estimates(logit, label) for logit in (first, second)]
    return {
        name: paired_difference(estimates[0][name], estimates[1][name], is_positive=is_positive, cluster=cluster)
        for name in estimates[0]
    }


def paired_difference(
    first: Estimate, second: Estimate, *, is_positive: LabelArray, cluster: IntArray | None = None
) -> Difference:
    """Compare two estimates on the same rows; see `compare_logits`."""
    error = standard_error(second.influence - first.influence, is_positive, cluster=cluster)
    return Difference(first.value, second.value, second.value - first.value, error)


def _estimates(logit: FloatArray, label: LabelArray) -> dict[str, Estimate]:
    return {
        **ranking_estimates(logit, label),
        "log_loss": log_loss_estimate(logit, label),
        "wll": wll_estimate(logit, label),
    }
