"""Tables of a report."""

import json
from typing import Any

import pytest

from qin.report.tables import (
    audit_table,
    calibration_table,
    data_table,
    figures_table,
    members_table,
    settings_table,
    training_table,
    warnings_of,
)
from qin.runtime.chain import Origin
from tests.project import ROOT
from tools import settings_page


def recorded(stage: str) -> Any:
    """What the default run left."""
    return json.loads((ROOT / f"metrics/{stage}.json").read_text())


def test_every_figure_has_its_value_and_its_interval() -> None:
    evaluation = recorded("evaluate")
    rows = {row[0]: row for row in figures_table(evaluation).rows}
    assert float(rows["AUC"][1]) == pytest.approx(evaluation["auc"], rel=1e-3)
    lower, upper = map(float, rows["AUC"][2].split(" to "))
    assert (lower + upper) / 2 == pytest.approx(evaluation["auc"], rel=1e-3)
    assert (upper - lower) / 2 == pytest.approx(1.96 * evaluation["auc_se"], rel=1e-2)
    assert float(rows["AP"][2].split(" to ")[0]) == pytest.approx(evaluation["ap_lower"], rel=1e-3)
    assert ("GAUC" in rows) == (evaluation["gauc"] is not None)


def test_members_are_compared_by_three_figures_each() -> None:
    evaluation = recorded("evaluate")
    table = members_table(evaluation, recorded("calibrate")["blend"])
    assert len(table.rows) == 3 * len(evaluation["members"])
    assert {row[-1] for row in table.rows} <= {"better", "worse", "noise", "unknown"}
    assert members_table(evaluation, None).rows[0][0] == next(iter(evaluation["members"]))


def test_what_the_stages_found_is_in_tables() -> None:
    prepared = {(row[0], row[1]): row[2] for row in data_table(recorded("prepare")).rows}
    assert prepared["train", "rows"] == f"{recorded('prepare')['train']['num_rows']:,}"
    audit = {row[0]: row[1] for row in audit_table(recorded("split")).rows}
    assert audit["method"] == recorded("split")["method"]
    assert audit["rows, val"] == f"{recorded('split')['rows']['val']:,}"
    trained = {row[1]: row[2] for row in training_table(recorded("train"), recorded("trees")).rows}
    assert trained["trees"] == f"{recorded('trees')['num_rounds']:,}"
    assert len(training_table(recorded("train"), {}).rows) < len(trained)
    assert [row[0] for row in calibration_table(recorded("calibrate")).rows] == ["ap", "log_loss", "wll"]


def test_settings_that_differ_from_the_default_are_listed_with_it() -> None:
    defaults = settings_page.defaults()
    here = {"train.lr": 0.5, "train.epochs": defaults["train.epochs"], "data.label": "liked"}
    assert settings_table(Origin(here, {})).rows == [("train.lr", "0.5", str(defaults["train.lr"]))]
    assert "Every setting has its default" in settings_table(Origin({}, {})).text


def test_defaults_are_those_of_params_yaml() -> None:
    assert json.loads(settings_page.DEFAULTS.read_text()) == settings_page.defaults(), (
        "python -m tools.settings_page --write"
    )


def test_warnings_of_all_stages_are_told_once() -> None:
    assert warnings_of([{"warnings": ["few clicks"]}, {}, {"warnings": ["few clicks", "biased"]}]) == [
        "few clicks",
        "biased",
    ]
