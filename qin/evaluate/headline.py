"""The figures that are tracked as metrics: few enough that `dvc metrics show` and `dvc exp show` fit a terminal."""

from collections.abc import Mapping
from typing import Any

_DIGITS = 4

# Name in metrics/run.json: its place in metrics/evaluate.json.
HEADLINE = {
    "ap": "ap",
    "ap_se": "ap_se",
    "auc": "auc",
    "auc_se": "auc_se",
    "gauc": "gauc",
    "log_loss": "after.log_loss",
    "ne": "after.ne",
    "score": "score.balanced",
    "ratio": "after.calibration_ratio",
    "vs_trees": "members.trees.difference.log_loss",
}


def headline(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The tracked figures, at four digits; one that does not exist is left out, such as GAUC without groups.

    Args:
        evaluation: Content of `metrics/evaluate.json`.

    Returns:
        `ap`, `auc` and their standard errors, `gauc`, `log_loss` and `ne` of the calibrated probabilities, `score` (the
        competition's, for the balanced prior), `ratio` (predicted over observed clicks), and `vs_trees`, the model's
        log loss minus that of gradient boosted trees alone: negative where the model is better.
    """
    found = {name: _at(evaluation, path) for name, path in HEADLINE.items()}
    return {name: float(f"{value:.{_DIGITS}g}") for name, value in found.items() if value is not None}


def _at(tree: Mapping[str, Any], path: str) -> float | None:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return None if node is None else float(node)
