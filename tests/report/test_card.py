"""The model card: of the default run, and of runs that have something to say about their limits."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from qin.report.card import limits, write_card
from qin.runtime.chain import Origin
from tests.project import ROOT

STAGES = ("prepare", "split", "train", "trees", "calibrate", "evaluate")
SETTINGS = {"data.label": "clicked", "model.members": ["network", "trees"], "split.method": "stratified"}
FIGURES = {"rows": 900, "base_rate": 0.1, "ap": 0.3, "ap_se": 0.02, "auc": None, "auc_se": None}
SLICES = {
    "tab": {
        "a|b": {**FIGURES, "calibration_ratio": 1.5, "calibration_ratio_se": 0.1},
        "c": {**FIGURES, "calibration_ratio": 1.1, "calibration_ratio_se": 0.1},
    }
}


@pytest.fixture
def details() -> dict[str, Any]:
    """What the default run left."""
    return {name: json.loads((ROOT / f"metrics/{name}.json").read_text()) for name in STAGES}


def test_the_card_of_a_run_has_its_parts_and_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    origin = Origin(SETTINGS, {"data.train": "abc"})
    for name in ("one.md", "two.md"):
        write_card(tmp_path / name, origin=origin, slices=SLICES)
    text = (tmp_path / "one.md").read_text()
    assert text == (tmp_path / "two.md").read_text()
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        *("Data", "Folds", "Figures", "Members", "Calibration", "Slices", "Training", "Limits"),
        *("Settings that differ from the default", "Made from"),
    ]
    assert "| tab | a\\|b | 900 | 0.1 | 0.3 ± 0.02 |  | 1.5 ± 0.1 |" in text
    assert "| data.train | abc |" in text
    evaluation = json.loads((ROOT / "metrics/evaluate.json").read_text())
    assert f"{evaluation['auc']:.4g}" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| tab |")}
    assert widths == {6}, "a value with a bar stays in its cell"


def test_stages_that_have_not_run_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/evaluate.json").write_text((ROOT / "metrics/evaluate.json").read_text())
    monkeypatch.chdir(tmp_path)
    write_card(Path("card.md"), origin=Origin(SETTINGS, {}), slices={})
    text = Path("card.md").read_text()
    assert "## Data" not in text
    assert "## Figures" in text


def test_limits_are_those_of_the_run(details: dict[str, Any]) -> None:
    origin = Origin({**SETTINGS, "train.refit": "all"}, {})
    found = "\n".join(limits(details, origin, SLICES))
    assert "Not calibrated within `tab` (predicted over observed clicks): a|b (1.50)." in found
    assert "c (1.10)" not in found
    assert "as old as those of training" in found
    assert f"{details['split']['cold']['target']:.1%} of the validation rows have a target" in found
    assert "fitted on the validation rows, too" in found
    assert all(warning in found for warning in details["evaluate"]["warnings"])

    other = copy.deepcopy(details)
    other["split"]["cold"] = {"target": 0.01}
    other["evaluate"]["rows"]["reported"], other["evaluate"]["base_rate"] = 1_000_000, 0.2
    origin = Origin({**SETTINGS, "split.method": "time"}, {"train.init_from": "abc"})
    found = "\n".join(limits(other, origin, {}))
    assert "clicks decide" not in found
    assert "were never tried" in found
    assert "unseen in training" not in found
    assert "started from an earlier model" in found
    assert "how groups fare is unknown" in found


NAMES = {
    "": "the column without a name",
    "a`b": "``a`b``",
    "`": "`` ` ``",
    "l\nb": "`l\\nb`",
    "<script>": "`<script>`",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_values_are_shown_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    value = "<b>*x*</b> | [a](javascript:b) `c` __d__ e_f &lt; ~~g~~ \\\n\x00\u202e"
    shown = {name: {value: {**FIGURES, "calibration_ratio": 2.0, "calibration_ratio_se": 0.1}}}
    origin = Origin({**SETTINGS, "data.label": name}, {})
    write_card(tmp_path / "card.md", origin=origin, slices=shown)
    text = (tmp_path / "card.md").read_text()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert f"probabilities that {NAMES[name]} is 1" in text
    assert f"Not calibrated within {NAMES[name]} (predicted" in text
    escaped = r"\<b>\*x\*\</b> {} [a]\(javascript:b) \`c\` \_\_d\_\_ e_f \&lt; \~\~g\~\~ \\"
    assert f"clicks): {escaped.format('|')}" + r"\\n\\x00\\u202e (2.00)." in text
    assert f"| {escaped.format(chr(92) + '|')} " + r"\\x00\\u202e | 900 |" in text
    [row] = [line for line in text.splitlines() if line.endswith("| 900 | 0.1 | 0.3 ± 0.02 |  | 2 ± 0.1 |")]
    assert row.count(" | ") == 6
