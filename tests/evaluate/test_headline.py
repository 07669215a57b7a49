"""The tracked figures."""

from typing import Any

from qin.evaluate.headline import HEADLINE, headline


def test_the_headline_has_four_digits_and_leaves_out_what_does_not_exist() -> None:
    evaluation: dict[str, Any] = {
        "ap": 0.06628761,
        "ap_se": 0.0201362,
        "auc": 0.665342,
        "auc_se": None,
        "gauc": None,
        "after": {"log_loss": 0.0949607, "ne": 0.966011, "calibration_ratio": 0.907659},
        "score": {"balanced": 0.335337},
        "members": {"network": {}},
    }
    assert headline(evaluation) == {
        "ap": 0.06629,
        "ap_se": 0.02014,
        "auc": 0.6653,
        "log_loss": 0.09496,
        "ne": 0.966,
        "score": 0.3353,
        "ratio": 0.9077,
    }


def test_the_names_are_short_enough_for_a_terminal_of_100_columns() -> None:
    """`dvc metrics show` prints them beside the file's path, each column two spaces from the next."""
    widths = [max(len(name), len("0.06629")) for name in HEADLINE if name != "gauc"]
    assert len("metrics/run.json") + sum(width + 2 for width in widths) <= 100
