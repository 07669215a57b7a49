"""What a run's figures say, in sentences: better than its baseline by how much, or noise; and how far to trust them."""

import math
from collections.abc import Mapping
from typing import Any

from qin.metrics.definitions import METRICS
from qin.metrics.intervals import NORMAL_975

FEW_CLICKS = 100  # of which a rate has a standard error of a tenth

_NAMES = {"ap": "AP", "auc": "AUC", "log_loss": "log loss", "wll": "WLL"}


def judged(name: str, difference: Mapping[str, float | None]) -> str:
    """`better`, `worse` or `noise`: on which side of no difference the 95% interval of a figure lies.

    Args:
        name: The figure.
        difference: The model's value minus the other's under its name, with `_lower` and `_upper`.

    Returns:
        One of the three, or `unknown` without an interval.
    """
    lower, upper = difference[f"{name}_lower"], difference[f"{name}_upper"]
    if lower is None or upper is None:
        return "unknown"
    if lower <= 0.0 <= upper:
        return "noise"
    return "better" if (upper < 0.0) == METRICS[name].lower_is_better else "worse"


def verdict(evaluation: Mapping[str, Any]) -> str:
    """The run in one sentence: the model against gradient boosted trees on the same rows.

    Args:
        evaluation: Content of `metrics/evaluate.json`.
    """
    if "trees" not in evaluation["members"]:
        return "There are no gradient boosted trees to compare with."
    difference = evaluation["members"]["trees"]["difference"]
    # One figure of the probabilities and one of the ranking: neither stands for the other.
    found = {name: judged(name, difference) for name in ("log_loss", "ap")}
    if set(found.values()) <= {"noise", "unknown"}:
        opening = "Against gradient boosted trees alone the model is no better and no worse than noise explains"
    elif "worse" in found.values():
        opening = "The model is worse than gradient boosted trees alone"
    else:
        opening = "The model is better than gradient boosted trees alone"
    return f"{opening}: {'; '.join(_in_words(name, difference, word) for name, word in found.items())}."


def against_chance(evaluation: Mapping[str, Any]) -> str:
    """Whether the probabilities are worth more than one base rate for all rows."""
    after = evaluation["after"]
    value, error = after["ne"], after["ne_se"]
    gain = f"{abs(1.0 - value):.1%} {'less' if value < 1.0 else 'more'} log loss than the base rate for every row"
    if error is None:
        return f"It has {gain}."
    surely = abs(1.0 - value) > NORMAL_975 * error
    return f"It has {gain}, ± {NORMAL_975 * error:.1%}{'' if surely else ': noise explains that'}."


def smallness(evaluation: Mapping[str, Any]) -> str | None:
    """A sentence where few clicks decide; None otherwise."""
    num_rows = evaluation["rows"]["reported"]
    num_clicks = round(evaluation["base_rate"] * num_rows)
    if num_clicks >= FEW_CLICKS * 10:
        return None
    size = "Very few" if num_clicks < FEW_CLICKS else "Few"
    return (
        f"{size} clicks decide: {num_clicks:,} in the {num_rows:,} rows of the report half. Intervals are wide, and a "
        "difference that is noise here may be real; more rows, or a larger split.val_ratio, would tell."
    )


def _in_words(name: str, difference: Mapping[str, float | None], word: str) -> str:
    value, lower, upper = difference[name], difference[f"{name}_lower"], difference[f"{name}_upper"]
    assert value is not None
    if lower is None or upper is None:
        return f"{_NAMES[name]} {value:+.4g} (no interval)"
    places = decimals(upper - lower)
    return f"{_NAMES[name]} {value:+.{places}f} (95% {lower:+.{places}f} to {upper:+.{places}f}, {word})"


def decimals(width: float) -> int:
    """Decimal places at which an interval of a width shows three digits of it: more would be noise."""
    return max(0, 2 - math.floor(math.log10(width))) if width > 0.0 else 6
