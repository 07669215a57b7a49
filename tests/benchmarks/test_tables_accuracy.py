"""The table of one default on every log: what is of the whole fold, and what of the half that decided nothing."""

import json
from pathlib import Path

import pytest

from benchmarks import markdown, tables_accuracy
from benchmarks.ablation import PROFILE
from benchmarks.profile import CAPABILITIES
from benchmarks.tables_accuracy import LOGS, LOGS_HEADER, logs_table, peers_table


def run(whole: float, report: float) -> dict[str, object]:
    """A run whose members score as its blend does, its AP half of its AUC."""
    of_fold, of_half = ({"auc": value, "ap": value / 2} for value in (whole, report))
    names = ("network", "trees", "blend")
    return {
        **dict.fromkeys(names, of_half),
        "whole": dict.fromkeys(names, of_fold),
        "errors": {"auc": 0.01, "ap": 0.02},
    }


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of the first log, and one of each other."""
    for name in LOGS:
        seeds = {"0": run(0.70, 0.60)} | ({"1": run(0.72, 0.64)} if name == "sample_100k" else {})
        (tmp_path / f"{CAPABILITIES}{name}.json").write_text(json.dumps({"runs": {PROFILE: seeds}}))
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    monkeypatch.setattr(tables_accuracy, "PUBLISHED", {})


def test_the_whole_fold_and_the_report_half_are_told_apart() -> None:
    header, _, *rows = logs_table().splitlines()
    assert header == f"| {' | '.join(LOGS_HEADER)} |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [title for title, _ in LOGS.values()]
    assert rows[1].split(" | ")[1:5] == ["1", *["0.7000 / 0.3500"] * 3]
    assert rows[1].endswith("| 0.6000 ± 0.0100 / 0.3000 ± 0.0200 |")


def test_figures_are_means_with_the_standard_error_over_seeds() -> None:
    first = logs_table().splitlines()[2]
    # The two values lie 0.02 apart: deviation 0.01414, divided by the root of two.
    mean = "0.7100 / 0.3550"
    assert first.split(" | ")[1:5] == ["2", mean, mean, "0.7100 ± 0.0100 / 0.3550 ± 0.0050"]
    assert first.endswith("| 0.6200 ± 0.0100 / 0.3100 ± 0.0200 |")


def test_the_readme_has_the_report_half() -> None:
    first = peers_table().splitlines()[2]
    assert first == f"| {LOGS['sample_100k'][0]} | 0.6200 ± 0.0100 | 0.6200 | 0.6200 |  | 0.3100 ± 0.0200 | 0.3100 |"
