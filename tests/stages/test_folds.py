"""Cross-validation through the whole pipeline: who judges which row, what is submitted, what a killed run keeps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from qin.calibrate.folds import read_deployed_folds
from qin.calibrate.report import read_calibrations
from qin.config import load_params
from qin.experiments.compare import compare_runs, shared_rows
from qin.experiments.runs import read_run
from qin.features.joined import open_rows
from qin.members import Members
from qin.metrics.definitions import AUC, LOG_LOSS, Rows
from qin.metrics.logits import sigmoid
from qin.raw.segments import read_segments
from qin.runtime import paths
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_json
from qin.runtime.folded import fold_places
from qin.runtime.stage import STAGES
from qin.scored.rows import ScoredRows
from qin.serving.deployed import read_deployed
from qin.serving.drift import log_drift
from qin.serving.export import export
from qin.serving.files import Output, score_file
from qin.serving.scorer import Scorer
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, read_folds
from qin.trees.run import fit_heldout
from tests.project import copy_project, digests, set_params
from tests.stages.killing import KilledError, killed_after, steps_taken
from tests.stages.run import run_in_process

NUM_FOLDS = 3


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Iterator[Path]:
    """A project whose whole pipeline has run in three folds, as the current folder."""
    folder = copy_project(tmp_path_factory.mktemp("folds") / "project", log=small_log)
    set_params(folder / "params.yaml", {"split.num_folds": NUM_FOLDS, "calibration.by": "gender"})
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for stage in STAGES:
            run_in_process(stage)
        yield folder


def figures(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((paths.METRICS / f"{name}.json").read_text())
    return tree


def folds() -> list[np.ndarray]:
    num_rows = ShardReader(paths.PREPARED_TRAIN).num_rows
    return [read_folds(place, num_rows=num_rows) for place in fold_places(paths.FOLDS)]


def test_every_row_is_judged_by_the_model_that_has_not_seen_it(project: Path) -> None:
    for place, fold in zip(fold_places(paths.VALIDATION), folds(), strict=True):
        assert np.array_equal(ScoredRows.read(place).row, np.flatnonzero(fold == VALIDATION))
    rows = np.concatenate([ScoredRows.read(place).row for place in fold_places(paths.SCORED)])
    assert sorted(rows) == list(range(8000))
    audits = [figures("split"), *figures("split")["other_folds"]]
    assert [audit["rows"]["val"] + audit["rows"]["train"] for audit in audits] == [8000] * NUM_FOLDS
    models = [json.loads((place / "model.json").read_text()) for place in fold_places(paths.MODEL)]
    assert len({model["provenance"]["run"] for model in models}) == NUM_FOLDS
    for model, fold in zip(models, folds(), strict=True):
        assert model["provenance"]["metrics"]["rows"]["train"] == np.count_nonzero(fold == TRAIN)


def test_figures_are_of_the_report_halves_of_all_folds(project: Path) -> None:
    logit, label = [], []
    for place, report in zip(fold_places(paths.SCORED), read_calibrations(paths.CALIBRATOR), strict=True):
        scored = ScoredRows.read(place)
        segments = read_segments("data/train.parquet", "gender", scored.row)
        logit.append(report.heldout.apply(scored.logit, segments)[scored.is_report == 1])
        label.append(scored.label[scored.is_report == 1])
    rows = Rows(np.concatenate(logit), np.concatenate(label))
    found = figures("evaluate")
    assert found["rows"] == {"validation": 8000, "reported": rows.label.size}
    assert found["after"]["log_loss"] == pytest.approx(LOG_LOSS.statistic(rows), rel=1e-5)
    assert found["after"]["auc"] == pytest.approx(AUC.statistic(rows), rel=1e-5)
    assert sum(fold["rows"]["reported"] for fold in found["folds"]) == rows.label.size
    losses = [fold["log_loss"] * fold["rows"]["reported"] for fold in found["folds"]]
    assert sum(losses) / rows.label.size == pytest.approx(found["after"]["log_loss"], rel=1e-5)
    errors = [fold["log_loss_se"] for fold in found["folds"]]
    assert found["after"]["log_loss_se"] < min(errors)


def test_the_submission_has_the_mean_of_the_calibrated_logits(project: Path) -> None:
    params = load_params(paths.PARAMS)
    assert read_deployed_folds(paths.BLEND) == [1, 2, 3]
    logits = []
    for fold, report in enumerate(read_calibrations(paths.CALIBRATOR), start=1):
        reader = open_rows(paths.PREPARED_TEST, fold_places(paths.STATISTICS)[fold - 1])
        members = Members.load(params, reader, heldout=False, fold=fold)
        segments = read_segments("data/test.parquet", "gender", np.arange(reader.num_rows))
        logits.append(report.deployed.apply(members.logit(reader, batch_size=999), segments))
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    submitted = pacsv.read_csv(paths.SUBMISSION).column(1).to_numpy()
    ids = pacsv.read_csv(paths.SUBMISSION).column(0).to_pylist()
    assert ids == sorted(ids)  # as the sample has them, and the test file
    np.testing.assert_allclose(submitted, sigmoid(np.mean(logits, axis=0)), rtol=1e-6)


def test_the_report_and_comparisons_have_all_folds(project: Path) -> None:
    text = paths.REPORT.read_text()
    assert all(f"Fold {number} of 3." in text for number in (1, 2, 3))
    run = read_run("workspace")
    found = compare_runs(shared_rows(run, run, train="data/train.parquet"))
    assert found["log_loss"].first == pytest.approx(figures("evaluate")["after"]["log_loss"], rel=1e-5)
    assert found["log_loss"].difference == 0.0


def test_a_scorer_has_all_models(project: Path) -> None:
    """As predict submits, to the last digit that the file has; alone or among others."""
    scorer, rows = Scorer.load("artifacts"), pq.read_table("data/test.parquet")
    probability = scorer.score(rows)
    submitted = pacsv.read_csv(paths.SUBMISSION).column(1).to_numpy()
    np.testing.assert_allclose(probability, submitted, rtol=1e-6)
    assert (scorer.score(rows.slice(7, 3)) == probability[7:10]).all()
    assert scorer.logits(rows).shape == (400, NUM_FOLDS)
    assert scorer.logits(rows.slice(0, 0)).shape == (0, NUM_FOLDS)
    assert scorer.score(rows.slice(0, 0)).shape == (0,)
    of_item = load_params(paths.PARAMS).features.target
    user, items = rows.slice(0, 1).drop_columns(of_item), rows.select(of_item).slice(0, 9)
    written_out = [{**user.to_pylist()[0], **item} for item in items.to_pylist()]
    assert (scorer.score_candidates(user, items) == scorer.score(written_out)).all()
    assert scorer.base_rate == pytest.approx(figures("evaluate")["base_rate"], abs=0.002)


def test_a_log_is_scored_and_compared(project: Path, tmp_path: Path) -> None:
    model = read_deployed(Path("artifacts"), num_threads=1, precision=None)
    score_file(model, "data/test.parquet", tmp_path / "scores.parquet", Output(), num_threads=1)
    scores = pq.read_table(tmp_path / "scores.parquet").column("probability").to_numpy()
    assert (scores == Scorer.load("artifacts").score(pq.read_table("data/test.parquet"))).all()
    assert len(model.folds) == NUM_FOLDS
    assert len(read_deployed(Path("artifacts"), num_threads=1, precision=None, num_folds=1).folds) == 1
    found, submitted = log_drift(Path("artifacts"), "data/test.parquet", num_threads=1), read_json(paths.DRIFT)
    assert found["num_rows"] == submitted["num_rows"]
    assert found["scores"]["psi"] == pytest.approx(submitted["scores"]["psi"], rel=1e-4)


def test_an_export_says_that_it_holds_one_model(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^artifacts: 3 models, made with split\.num_folds; an export holds one: "):
        export(Path("artifacts"), tmp_path / "out", "data/test.parquet", kind="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("made", "now"), [(3, 2), (3, 1)])
def test_outputs_of_other_folds_are_not_read(
    project: Path, capfd: pytest.CaptureFixture[str], made: int, now: int
) -> None:
    set_params(project / "params.yaml", {"split.num_folds": now})
    try:
        for stage in ("train", "calibrate", "predict"):
            with pytest.raises(SystemExit):
                run_in_process(stage)
            assert (
                f"made with split.num_folds: {made}, params.yaml has {now}; run `dvc repro`" in capfd.readouterr().err
            )
    finally:
        set_params(project / "params.yaml", {"split.num_folds": made})


def test_a_run_that_was_killed_in_a_fold_goes_on_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digests(project)
    num_steps = [one["num_steps"] for one in (figures("train"), *figures("train")["other_folds"])]
    killed_after(num_steps[0] + num_steps[1] // 2, monkeypatch)
    assert digests(project) == whole  # the old outputs stay
    with monkeypatch.context() as patched:
        taken = steps_taken(patched)
        run_in_process("train")
    assert len(taken) < sum(num_steps[1:]) + 1  # the first fold's are not made again
    assert digests(project) == whole
    assert not list(paths.CHECKPOINTS.iterdir())


def test_trees_that_were_killed_in_a_fold_go_on_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, made = digests(project), list[int]()

    def killed(*arguments: Any, **more: Any) -> Any:
        if len(made) == 2:
            raise KilledError
        made.append(1)
        return fit_heldout(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr("stages.trees.fit_heldout", killed)
        with pytest.raises(KilledError):
            run_in_process("trees")
        assert digests(project) == whole
        made.clear()
        run_in_process("trees")
    assert len(made) == 1
    assert digests(project) == whole
    assert not list(paths.CHECKPOINTS.iterdir())


def test_folds_of_time_walk_forward_and_the_latest_is_deployed(
    tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_project(tmp_path / "project", log=small_log)
    changes = {"split.num_folds": 2, "split.method": "time", "split.time_col": "hour", "split.time_val_ratio": 0.3}
    set_params(folder / "params.yaml", {**changes, "train.epochs": 1, "evaluate.importance_rows": 0})
    monkeypatch.chdir(folder)
    for stage in STAGES:
        run_in_process(stage)
    first, second = folds()
    assert (first[second == VALIDATION] == EXCLUDED).all()
    assert not (first == EXCLUDED)[second == TRAIN].any()
    assert read_deployed_folds(paths.BLEND) == [2]
    params = load_params(paths.PARAMS)
    reader = open_rows(paths.PREPARED_TEST, fold_places(paths.STATISTICS)[1])
    logit = Members.load(params, reader, heldout=False, fold=2).logit(reader, batch_size=999)
    report = read_calibrations(paths.CALIBRATOR)[1]
    submitted = pacsv.read_csv(paths.SUBMISSION).column(1).to_numpy()
    np.testing.assert_allclose(submitted, sigmoid(report.deployed.apply(logit)), rtol=1e-6)
    scores = Scorer.load("artifacts").score(pq.read_table("data/test.parquet"))
    np.testing.assert_allclose(scores, submitted, rtol=1e-6)
    parity = export(Path("artifacts"), tmp_path / "out", "data/test.parquet", kind="onnx")
    assert parity["different_buckets"] == 0
