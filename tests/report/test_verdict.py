"""What a run's figures say in words."""

from typing import Any

import pytest

from qin.report.verdict import against_chance, decimals, judged, smallness, verdict


def difference(name: str, lower: float | None, upper: float | None) -> dict[str, float | None]:
    value = None if lower is None or upper is None else (lower + upper) / 2
    return {name: value, f"{name}_lower": lower, f"{name}_upper": upper}


@pytest.mark.parametrize(
    ("name", "lower", "upper", "word"),
    [
        ("ap", 0.01, 0.02, "better"),
        ("ap", -0.02, -0.01, "worse"),
        ("auc", -0.01, 0.02, "noise"),
        ("auc", 0.0, 0.02, "noise"),
        ("log_loss", -0.02, -0.01, "better"),
        ("log_loss", 0.01, 0.02, "worse"),
        ("wll", 0.01, 0.02, "worse"),
        ("ap", None, None, "unknown"),
    ],
)
def test_a_difference_is_judged_by_the_side_on_which_its_interval_lies(
    name: str, lower: float | None, upper: float | None, word: str
) -> None:
    assert judged(name, difference(name, lower, upper)) == word


def evaluation(log_loss: tuple[float, float], ap: tuple[float, float]) -> dict[str, Any]:
    return {"members": {"trees": {"difference": {**difference("log_loss", *log_loss), **difference("ap", *ap)}}}}


@pytest.mark.parametrize(
    ("log_loss", "ap", "opening"),
    [
        ((-0.001, 0.001), (-0.1, 0.2), "Against gradient boosted trees alone the model is no better and no worse"),
        ((-0.003, -0.001), (-0.1, 0.2), "The model is better than"),
        ((-0.003, -0.001), (-0.2, -0.1), "The model is worse than"),  # one figure that is worse is said first
    ],
)
def test_the_verdict_says_better_worse_or_noise_with_the_figures(
    log_loss: tuple[float, float], ap: tuple[float, float], opening: str
) -> None:
    text = verdict(evaluation(log_loss, ap))
    assert text.startswith(opening)
    assert f"95% {log_loss[0]:+.5f}"[:12] in text


def test_without_trees_there_is_nothing_to_beat() -> None:
    assert "no gradient boosted trees" in verdict({"members": {}})


def test_a_figure_is_shown_with_the_places_that_its_interval_supports() -> None:
    assert [decimals(width) for width in (0.0017, 0.034, 1.0, 250.0, 0.0)] == [5, 4, 2, 0, 6]


@pytest.mark.parametrize(
    ("ne", "error", "words"),
    [
        (0.966, 0.0157, "3.4% less log loss than the base rate for every row, ± 3.1%."),
        (0.99, 0.0157, "1.0% less log loss than the base rate for every row, ± 3.1%: noise explains that."),
        (1.05, 0.01, "5.0% more log loss"),
        (0.9, None, "10.0% less log loss"),
    ],
)
def test_the_model_is_held_against_the_base_rate(ne: float, error: float | None, words: str) -> None:
    assert words in against_chance({"after": {"ne": ne, "ne_se": error}})


@pytest.mark.parametrize(("num_clicks", "opening"), [(50, "Very few"), (500, "Few"), (1000, None)])
def test_small_samples_are_said_to_be_small(num_clicks: int, opening: str | None) -> None:
    text = smallness({"rows": {"reported": 10_000}, "base_rate": num_clicks / 10_000})
    assert (text is None) == (opening is None)
    assert text is None or text.startswith(f"{opening} clicks decide: {num_clicks} in the 10,000 rows")
