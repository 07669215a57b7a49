"""The catalogue's metrics of logits and labels in one call each, for tests."""

from typing import Any

from numpy.typing import NDArray

from qin.metrics import definitions
from qin.metrics.definitions import CALIBRATION_RATIO, LOG_LOSS, WLL, Rows, estimates, values
from qin.metrics.estimate import Estimate
from qin.metrics.probability import calibration_figures

Array = NDArray[Any]


def ranking_metrics(logit: Array, label: Array) -> dict[str, float]:
    return values(definitions.ranking_metrics(), Rows(logit, label))


def probability_metrics(logit: Array, label: Array, *, base_rate: float, num_bins: int = 20) -> dict[str, float | None]:
    rows = Rows(logit, label, base_rate=base_rate)
    return {**values(definitions.probability_metrics(), rows), **calibration_figures(logit, label, num_bins=num_bins)}


def ranking_estimates(logit: Array, label: Array) -> dict[str, Estimate]:
    return estimates(definitions.ranking_metrics(), Rows(logit, label))


def probability_estimates(logit: Array, label: Array, *, base_rate: float) -> dict[str, Estimate]:
    return estimates(definitions.probability_metrics(), Rows(logit, label, base_rate=base_rate))


def log_loss_estimate(logit: Array, label: Array) -> Estimate:
    return LOG_LOSS.estimate(Rows(logit, label))


def wll_estimate(logit: Array, label: Array) -> Estimate:
    return WLL.estimate(Rows(logit, label))


def calibration_ratio_estimate(logit: Array, label: Array) -> Estimate:
    return CALIBRATION_RATIO.estimate(Rows(logit, label))
