"""Names and globs of columns."""

from qin.columns.patterns import expanded, matching
from qin.runtime.errors import did_you_mean
from qin.runtime.sources import natural_key

NAMES = dict.fromkeys(["b_10", "price[usd]", "pricee", "b_9", "b_09", "a", "b_*"])


def test_a_name_is_first_itself() -> None:
    assert matching("price[usd]", NAMES) == ["price[usd]"]
    assert matching("b_*", NAMES) == ["b_*"]
    assert matching("pric[e-f]e", NAMES) == ["pricee"]
    assert matching("nothing", NAMES) == []


def test_matches_are_in_natural_order() -> None:
    assert matching("b_[0-9]*", NAMES) == ["b_09", "b_9", "b_10"]
    assert sorted(["x10", "x9", "x", "2", "10", "x9y"], key=natural_key) == ["2", "10", "x", "x9", "x9y", "x10"]


def test_patterns_are_expanded_in_their_own_order() -> None:
    assert list(expanded(["a", "b_[0-9]*", "a"], NAMES)) == [
        ("a", "a"),
        ("b_[0-9]*", "b_09"),
        ("b_[0-9]*", "b_9"),
        ("b_[0-9]*", "b_10"),
        ("a", "a"),
    ]


def test_a_near_name_is_suggested() -> None:
    assert did_you_mean("pricee_", NAMES) == ", did you mean pricee?"
    assert did_you_mean("zzzz", NAMES) == ""
