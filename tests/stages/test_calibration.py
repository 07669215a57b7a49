"""Calibration settings through calibrate, evaluate and predict, with clicks that lean by a column on purpose."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from qin.runtime import paths
from qin.runtime.chain import read_artifact
from qin.scored.rows import ScoredRows
from tests.project import copy_project, set_params
from tests.stages.run import run_in_process

COLUMN = "inventory_id"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A trained project whose validation clicks were redrawn: the higher the inventory's number, the more of them."""
    project = copy_project(tmp_path_factory.mktemp("calibration") / "project", log=small_log)
    quick: dict[str, Any] = {
        "train.epochs": 1,
        "imbalance.use_neg_downsampling": True,
        "imbalance.neg_downsample_ratio": 0.05,
    }
    quick["model.members"] = ["network"]  # whose training prior the calibrator undoes
    set_params(project / "params.yaml", quick)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        for stage in ("prepare", "split", "train", "trees"):
            run_in_process(stage)
    folder = project / "artifacts/validation"
    scored, origin = ScoredRows.read(folder), read_artifact(paths.VALIDATION, at=folder).origin
    rng = np.random.default_rng(0)
    logit = rng.normal(-1.0, 1.0, scored.row.size)
    number = np.array(pq.read_table(project / "data/train.parquet")[COLUMN].to_pylist(), float)[scored.row]
    lean = (number - number.mean()) / number.std()
    label = rng.random(scored.row.size) < 1.0 / (1.0 + np.exp(-0.5 * logit - lean + 1.0))
    replace(scored, logit=logit.astype(np.float32), label=label.astype(np.uint8)).write(folder, origin=origin)
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(trained, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def run(project: Path, **calibration: Any) -> tuple[dict[str, Any], dict[str, Any], NDArray[np.float64]]:
    """The calibration file, metrics/evaluate.json, and the submitted probabilities, under some settings."""
    set_params(project / "params.yaml", {f"calibration.{key}": value for key, value in calibration.items()})
    for stage in ("calibrate", "evaluate", "predict"):
        run_in_process(stage)
    with (project / "outputs/submission.csv").open() as file:
        probability = np.array([float(row[1]) for row in list(csv.reader(file))[1:]])
    return (
        json.loads((project / "artifacts/temperature.json").read_text()),
        json.loads((project / "metrics/evaluate.json").read_text()),
        probability,
    )


def warnings_of(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """But for that of predict about the rows to predict."""
    lines = capfd.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning") and "drift.json" not in line]


def logit_of(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probability) - np.log1p(-probability)


def test_shifts_by_column_reach_metrics_and_submission(project: Path) -> None:
    test = project / "data/test.parquet"
    table = pq.read_table(test)
    values = table[COLUMN].to_pylist()
    values[:2] = [None, "never seen"]
    pq.write_table(table.set_column(table.schema.get_field_index(COLUMN), COLUMN, pa.array(values)), test)
    run_in_process("prepare")  # its test file changed
    plain_file, plain_figures, plain = run(project, method="platt")
    file, figures, shifted = run(project, method="platt", by=COLUMN)
    segments = file["segments"]
    assert segments["column"] == COLUMN
    assert segments["tau"] > 0.3
    assert segments["p_value"] < 1e-6
    assert "null" not in segments["shift"]
    expected = [segments["shift"].get(value, 0.0) for value in values]
    assert expected[:2] == [0.0, 0.0]
    assert len(set(expected)) > 5
    np.testing.assert_allclose(logit_of(shifted) - logit_of(plain), expected, atol=1e-4)  # 6 digits in the file
    assert figures["after"]["log_loss"] < plain_figures["after"]["log_loss"]
    assert figures["auc"] == plain_figures["auc"]
    assert figures["after"]["auc"] > plain_figures["after"]["auc"] + 0.02
    assert file["before"] == plain_file["before"]
    assert file["offset_parts"] == {"pos_weight": 1.0, "neg_ratio": 0.05, "reweighted": True}
    headline = json.loads((project / "metrics/calibrate.json").read_text())
    assert headline["segment_tau"] == pytest.approx(segments["tau"], rel=1e-5)
    for name in ("log_loss", "ap", "wll"):
        assert headline["after"][name] == pytest.approx(figures["after"][name], rel=1e-5)


def test_a_bias_is_warned_of_once_and_platt_mends_it(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, temperature, _ = run(project, method="temperature")
    [line] = warnings_of(capfd)
    assert "consider calibration.method: platt" in line
    assert file["likelihood_ratio"]["p_value"] < 0.01
    file, platt, _ = run(project, method="platt")
    assert not warnings_of(capfd)
    assert (file["method"], file["temperature"], set(file["parameters"])) == ("platt", None, {"a", "b"})
    assert platt["after"]["log_loss"] < temperature["after"]["log_loss"]
    assert platt["ap"] == temperature["ap"]


def test_balanced_output_is_the_natural_one_at_the_fitted_click_rate(project: Path) -> None:
    file, _, natural = run(project, method="beta", objective="wll")
    set_params(project / "params.yaml", {"predict.prior": "balanced"})
    _, _, balanced = run(project)
    rate = file["base_rates"]["validation"]
    np.testing.assert_allclose(logit_of(balanced), logit_of(natural) - np.log(rate / (1.0 - rate)), atol=1e-4)


def test_a_missing_column_is_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(project / "params.yaml", {"calibration.by": "nothing"})
    with pytest.raises(SystemExit) as exit_info:
        run_in_process("calibrate")
    assert exit_info.value.code == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert errors == ["error: data/train.parquet: no column nothing"]


@pytest.mark.parametrize(("stage", "file"), [("calibrate", "train"), ("evaluate", "train"), ("predict", "test")])
def test_a_column_that_was_dropped_since_is_one_line(
    stage: str, file: str, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_params(project / "params.yaml", {"calibration.by": COLUMN})
    if stage != "calibrate":
        run_in_process("calibrate")
    path = project / f"data/{file}.parquet"
    pq.write_table(pq.read_table(path).drop_columns([COLUMN]), path)
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run_in_process(stage)
    assert exit_info.value.code == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"made from another data/{file}.parquet than the one that is there" in errors[0]


def test_a_file_of_an_earlier_format_is_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_in_process("calibrate")
    (project / "artifacts/temperature.json").write_text('{"method": "temperature", "temperature": 1.03, "offset": 0.0}')
    for stage in ("evaluate", "predict"):
        with pytest.raises(SystemExit):
            run_in_process(stage)
        assert "artifacts/temperature.json: its checksum is not that of its content" in capfd.readouterr().err


def test_logits_that_no_method_can_calibrate_stay_as_they_are(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A model that ranks backwards ends with a submission and a warning, not after hours without either."""
    folder = project / "artifacts/validation"
    scored, origin = ScoredRows.read(folder), read_artifact(paths.VALIDATION, at=folder).origin
    replace(scored, logit=-scored.logit).write(folder, origin=origin)
    for method in ("temperature", "platt", "beta"):
        set_params(project / "params.yaml", {"calibration.method": method})
        capfd.readouterr()  # of the stages that ran with the method before
        run_in_process("calibrate")
        [line] = warnings_of(capfd)
        assert line.startswith("warning: the validation fold determines no calibrator: no ")
        assert "order the labels backwards" in line
        report = json.loads((project / "artifacts/temperature.json").read_text())
        assert (report["method"], report["heldout"]["parameters"]) == ("identity", {})
        for stage in ("evaluate", "predict"):
            run_in_process(stage)
