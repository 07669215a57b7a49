"""Each member beside the blend, and the gradient boosted trees as the row that the model has to beat."""

from collections.abc import Mapping
from typing import Any

from qin.evaluate.fold import Reported
from qin.metrics.definitions import AP, AUC, LOG_LOSS, WLL
from qin.metrics.logits import FloatArray
from qin.metrics.paired import Difference, compare_logits
from qin.report.verdict import judged
from qin.runtime.progress import followed, log

_METRICS = (AP, AUC, LOG_LOSS, WLL)


def compare_members(half: Reported, natural: Mapping[str, FloatArray]) -> dict[str, dict[str, Any]]:
    """Compare the calibrated model with each member alone, on rows that decided nothing about either.

    Args:
        half: The report half.
        natural: Logits of the whole validation fold by member, on the natural scale, without a calibrator.

    Returns:
        By name the member's `ap`, `auc`, `log_loss` and `wll`, and under `difference` the model's minus the member's,
        each with its paired standard error `_se` and the ends `_lower` and `_upper` of its 95% interval, None where it
        cannot be estimated.
    """
    figures = {}
    for name, logit in followed(natural.items(), label="members", unit="members"):
        compared = compare_logits(
            logit[half.is_reported],
            half.calibrated,
            half.scored.label,
            cluster=half.cluster,
            metrics=_METRICS,
        )
        difference: dict[str, float | None] = {}
        for figure, found in compared.items():
            difference |= {figure: found.difference, f"{figure}_se": found.standard_error}
            difference |= {f"{figure}_lower": found.lower, f"{figure}_upper": found.upper}
        if name == "trees":
            _warn_where_worse(compared, difference)
        figures[name] = {**{figure: found.first for figure, found in compared.items()}, "difference": difference}
    return figures


def _warn_where_worse(compared: Mapping[str, Difference], difference: Mapping[str, float | None]) -> None:
    for name, found in compared.items():
        if judged(name, difference) == "worse":
            log.warning(
                "warning: the model is worse than its gradient boosted trees alone: %s %.4g instead of %.4g, "
                "difference %.2g +- %.2g",
                name,
                found.second,
                found.first,
                found.difference,
                found.standard_error,
            )
