"""Two labels through the whole pipeline: each as if it were alone, none in the features of the other."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from qin.config import load_params
from qin.experiments.compare import compared
from qin.experiments.search import Budget
from qin.experiments.space import read_space
from qin.experiments.tune import Plan, tune
from qin.labels import stage as by_label
from qin.labels.parts import OUTPUTS
from qin.model.artifact import load_model, weights_file
from qin.runtime import paths
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_json
from qin.runtime.stage_process import started_stage
from qin.serving.drift import log_drift
from qin.serving.export import export
from qin.serving.scorer import Scorer
from qin.shards.files import ShardReader
from tests.project import ROOT, copy_project, digests, set_params
from tests.stages.killing import killed_after, steps_taken
from tests.stages.run import run_all, run_as_command, run_in_process

# A glob of the features matches the second label, which says more about the first than any feature does.
LABELS = ("clicked", "feat_like")
FOLDER_PLACES = [place for places in OUTPUTS.values() for place in places if not place.suffix]

SETTINGS = {
    "split.method": "group_user",
    "split.group_key": "l_feat_12",
    "calibration.by": "gender",
    "evaluate.slices": ["hour"],
}


SHARED = {
    "data.label_heads": "shared",
    "model.seeds": 2,
    "model.alternatives": [{"attention_bias": "constant", "embedding_std": 0.01}],
}


def two_label_log(folder: Path, log: Path, *, labels: tuple[str, ...] = LABELS) -> Path:
    """The small log with a like beside the click, which is rare without one; only some labels stay."""
    folder.mkdir()
    table = pq.read_table(log / "train.parquet")
    clicked = table.column("clicked").to_numpy()
    chance = np.random.default_rng(7).random(clicked.size)
    liked = np.where(clicked == 1, chance < 0.7, chance < 0.01).astype(np.int8)
    table = table.append_column("feat_like", pa.array(liked))
    table = table.drop_columns([name for name in LABELS if name not in labels])
    pq.write_table(table, folder / "train.parquet")
    for name in ("test.parquet", "sample_submission.csv"):
        (folder / name).write_bytes((log / name).read_bytes())
    return folder


def ran(folder: Path, log: Path, label: str | list[str], **changes: Any) -> Path:
    project = copy_project(folder / "project", log=log)
    set_params(project / "params.yaml", {**SETTINGS, "data.label": label, **changes})
    run_all(project)
    return project


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A project whose pipeline has run with two labels."""
    folder = tmp_path_factory.mktemp("both")
    return ran(folder, two_label_log(folder / "log", small_log), list(LABELS))


@pytest.fixture(scope="module", params=LABELS)
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_log: Path
) -> tuple[str, Path]:
    """A label, and a project of a log in which the other one's column is not."""
    folder = tmp_path_factory.mktemp("alone")
    log = two_label_log(folder / "log", small_log, labels=(request.param,))
    return request.param, ran(folder, log, request.param)


# What the raw file decides by its name alone: it has one column less.
FROM_THE_FILE = {"origin", "checksum", "run", "prepared", "data", "weights_crc32"}


def without_origin(tree: Any) -> Any:
    """A description without what it was made from, and without the checksum of a file that holds that as well."""
    if isinstance(tree, Mapping):
        return {key: without_origin(value) for key, value in tree.items() if key not in FROM_THE_FILE}
    return [without_origin(value) for value in tree] if isinstance(tree, list) else tree


def content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: (value.dtype, value.shape, value.numpy().tobytes()) for name, value in load_file(path).items()}
    return without_origin(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_label_has_the_artifacts_of_a_run_with_that_label_alone(both: Path, alone: tuple[str, Path]) -> None:
    """To the byte: so nothing of the other label, which a glob of the features matches, has entered."""
    label, project = alone
    for place in FOLDER_PLACES:
        found, expected = contents(both / place / label), contents(project / place)
        assert found.keys() == expected.keys() != set(), place
        for name, value in expected.items():
            assert found[name] == value, f"{place}/{name}"
    for place in (paths.BLEND, paths.CALIBRATOR):
        assert without_origin(read_json(both / place)["labels"][label]) == without_origin(read_json(project / place))


def test_each_label_has_the_figures_and_plots_of_a_run_with_that_label_alone(
    both: Path, alone: tuple[str, Path]
) -> None:
    label, project = alone
    for path in sorted((project / paths.METRICS).glob("*.json")):
        assert read_json(both / paths.METRICS / path.name)[label] == read_json(path), path.name
    for path in sorted((project / paths.PLOTS).glob("*.csv")):
        with path.open(newline="") as file, (both / paths.PLOTS / path.name).open(newline="") as joined:
            header, *rows = csv.reader(file)
            first, *others = csv.reader(joined)
        assert first == ["of_label", *header]
        assert [row[1:] for row in others if row[0] == label] == rows, path.name


def test_slices_reports_and_cards_are_of_both(both: Path) -> None:
    slices = read_json(both / paths.SLICES)
    assert list(slices) == list(LABELS)
    assert all("hour" in slices[label] for label in LABELS)
    report, card = (both / paths.REPORT).read_text(), (both / paths.CARD).read_text()
    for label in LABELS:
        assert f"Report of the run: {label}</h1>" in report
        assert f"# Model card: {label}\n" in card
        assert f"probabilities that `{label}` is 1" in card
    assert report.count("<!DOCTYPE html>") == 1
    assert report.count('data-plot="l1-roc"') == report.count('id="spec-l2-roc"') == 1


def submitted(project: Path) -> np.ndarray[Any, Any]:
    return np.asarray(pacsv.read_csv(project / paths.SUBMISSION).column(1).to_numpy())


def test_a_submission_is_of_the_label_that_is_named(
    both: Path, alone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    label, project = alone
    monkeypatch.chdir(both)
    settings = (both / "params.yaml").read_text()
    for named in {None if label == LABELS[0] else label, label}:
        set_params(both / "params.yaml", {"predict.label": named})
        run_in_process("predict")
        assert f"outputs/submission.csv: probabilities of {label}" in capfd.readouterr().err.splitlines()
        assert (both / paths.SUBMISSION).read_bytes() == (project / paths.SUBMISSION).read_bytes()
        assert (both / paths.DRIFT).read_bytes() == (project / paths.DRIFT).read_bytes()
    (both / "params.yaml").write_text(settings)
    assert not (both / ".qin/labels/predict").exists()


def test_a_scorer_is_of_the_label_that_is_named(both: Path, alone: tuple[str, Path]) -> None:
    label, project = alone
    rows = pq.read_table(project / "data/test.parquet")
    scorer = Scorer.load(both / "artifacts", label=label)
    assert scorer.label == label
    assert (scorer.score(rows) == Scorer.load(project / "artifacts").score(rows)).all()
    assert np.array_equal(scorer.score(rows).astype(np.float32), submitted(project).astype(np.float32))
    if label == LABELS[0]:
        assert (Scorer.load(both / "artifacts").score(rows) == scorer.score(rows)).all()
    assert set(LABELS).isdisjoint(scorer.columns)
    with pytest.raises(ArtifactError, match="artifacts: no label seen; it is of clicked, feat_like"):
        Scorer.load(both / "artifacts", label="seen")


def test_drift_is_of_the_label_that_is_named(both: Path, alone: tuple[str, Path]) -> None:
    label, project = alone
    test = str(project / "data/test.parquet")
    found = log_drift(both / "artifacts", test, num_threads=1, label=label)
    assert found == log_drift(project / "artifacts", test, num_threads=1)


def test_a_search_is_of_the_label_that_is_named(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trials have that label alone, and are judged by its clicks."""
    monkeypatch.chdir(both)
    params, label = load_params(paths.PARAMS), LABELS[1]
    space = read_space(["calibration.method=temperature,platt"], None, params)
    plan = Plan(budget=Budget(None, None), num_seeds=1, is_grid=True)
    tuned = tune(params, space, plan, label=label, folder=tmp_path)
    assert tuned.errors == []
    positive = pq.read_table("data/train.parquet", columns=[label]).column(label).to_numpy() == 1
    for finalist in tuned.finalists:
        judged = finalist.runs[0]
        assert np.array_equal(judged.rows.is_positive, positive[judged.numbers])
    trials = [load_params(file) for file in tmp_path.glob("trials/runs/*/params.yaml")]
    assert len(trials) == 2
    assert {trial.data.label for trial in trials} == {label}
    assert all(LABELS[0] in trial.data.ignore for trial in trials)


@pytest.mark.slow
def test_an_export_is_of_the_label_that_is_named(both: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = str(both / "data/test.parquet")
    parity = export(both / "artifacts", tmp_path / "exported", rows, kind="onnx", label=LABELS[1])
    assert parity["logit"]["max"] < parity["limit"]
    signature = json.loads((tmp_path / "exported/signature.json").read_text())
    assert signature["model"] == Scorer.load(both / "artifacts", label=LABELS[1]).version


def test_runs_of_several_labels_are_compared_label_by_label(
    both: Path, alone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    label, project = alone
    monkeypatch.chdir(both)
    report = compared("workspace", str(project), params=paths.PARAMS)
    assert list(report["labels"]) == [label]
    assert {row["verdict"] for row in report["labels"][label]["metrics"].values()} == {"identical"}
    itself = compared("workspace", str(both), params=paths.PARAMS)
    assert list(itself["labels"]) == list(LABELS)


def test_what_prepare_wrote_holds_each_label_once_and_no_label_as_an_input(both: Path) -> None:
    reader = ShardReader(both / paths.PREPARED_TRAIN)
    assert reader.schema.labels == LABELS
    assert not [group.name for group in reader.groups if group.name.startswith("label")]
    table = pq.read_table(both / "data/train.parquet")
    for label in LABELS:
        found = reader.read(f"label.{label}", 0, reader.num_rows)[:, 0]
        assert found.tolist() == table.column(label).to_pylist()
    assert set(LABELS).isdisjoint(field.name for field in reader.schema.fields)


KILLED = """
import os, sys
from qin.train.loop import TrainingLoop
step, taken = TrainingLoop._train_step, []
def counting(self, batch):
    if len(taken) == {steps}:
        os._exit(9)
    taken.append(1)
    step(self, batch)
TrainingLoop._train_step = counting
import stages.train
stages.train.main()
"""


@contextmanager
def killed_in(label: str, *, steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the training of a label end without a word after some steps, as by kill -9."""
    started = started_stage

    @contextmanager
    def starting(stage: str, folder: Path, *, checkpoints: Path) -> Iterator["subprocess.Popen[bytes]"]:
        if folder.name != label:
            with started(stage, folder, checkpoints=checkpoints) as process:
                yield process
            return
        environment = {"PYTHONPATH": str(ROOT), "QIN_CHECKPOINTS": str(checkpoints.absolute())}
        command = [sys.executable, "-c", KILLED.format(steps=steps)]
        with subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}) as process:
            yield process

    with monkeypatch.context() as patched:
        patched.setattr(by_label, "started_stage", starting)
        yield


def test_a_run_that_was_killed_goes_on_in_the_label_where_it_was(
    both: Path, tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    project = copy_project(tmp_path / "project", log=two_label_log(tmp_path / "log", small_log))
    changes = {**SETTINGS, "data.label": list(LABELS), "train.checkpoint_steps": 1}
    set_params(project / "params.yaml", changes)
    monkeypatch.chdir(project)
    for stage in ("prepare", "split"):
        run_in_process(stage)
    with killed_in(LABELS[1], steps=12, monkeypatch=monkeypatch), pytest.raises(SystemExit) as ended:
        run_in_process("train")
    assert ended.value.code == 9
    assert not paths.MODEL.exists()
    assert list((project / ".qin/checkpoints").rglob("*.pt"))
    capfd.readouterr()
    run_in_process("train")
    told = capfd.readouterr().err.splitlines()
    assert f"label {LABELS[0]}: finished before" in told
    assert f"label {LABELS[1]}: finished before" not in told
    assert any(line.startswith("resuming at epoch") for line in told)
    places = [str(place) for place in OUTPUTS["train"]]

    def of_train(folder: Path) -> dict[str, str]:
        return {name: digest for name, digest in digests(folder).items() if name.startswith(tuple(places))}

    assert of_train(project) == of_train(both)
    assert not (project / ".qin/labels/train").exists()


def test_what_fails_for_a_label_leaves_the_outputs_of_all(both: Path, tmp_path: Path) -> None:
    before = digests(both)
    text = (both / "params.yaml").read_text()
    set_params(both / "params.yaml", {"data.label": ["clicked"]})
    done = run_as_command("calibrate", both)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "run the stage" in done.stderr
    (both / "params.yaml").write_text(text)
    assert digests(both) == before


def test_outputs_of_one_label_are_not_taken_for_those_of_several(alone: tuple[str, Path]) -> None:
    _, project = alone
    text = (project / "params.yaml").read_text()
    set_params(project / "params.yaml", {"data.label": list(LABELS)})
    for stage in ("train", "calibrate", "predict"):
        done = run_as_command(stage, project)
        assert done.returncode == 1, stage
        assert "Traceback" not in done.stderr
        assert "data/prepared/train: made with data.label: " in done.stderr, stage
    (project / "params.yaml").write_text(text)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A project whose labels have learned one network."""
    folder = tmp_path_factory.mktemp("shared")
    log = two_label_log(folder / "log", small_log)
    return ran(folder, log, list(LABELS), **SHARED)


def weights(folder: Path, *, number: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / weights_file(number))


def test_labels_share_all_that_is_learned_but_their_heads(shared: Path) -> None:
    for number in (0, 1):
        first, second = (weights(shared / paths.MODEL / label, number=number) for label in LABELS)
        assert first.keys() == second.keys()
        differ = {name for name in first if not torch.equal(first[name], second[name])}
        of_rows = {name for name in differ if name.startswith("normalizer.")}  # moments of each label's own statistics
        assert differ - of_rows == {"network.fc.weight", "network.fc.bias"}
    names = [[f.name for f in load_model(shared / paths.MODEL / label).schema.fields] for label in LABELS]
    assert names[0] == names[1]
    assert [load_model(shared / paths.MODEL / label).schema.label for label in LABELS] == list(LABELS)


def test_a_shared_network_is_judged_calibrated_and_submitted_per_label(shared: Path, both: Path) -> None:
    evaluation, train = (read_json(shared / paths.METRICS / f"{name}.json") for name in ("evaluate", "train"))
    for label in LABELS:
        assert evaluation[label]["members"].keys() == {"network", "trees"}
        assert 0.4 < evaluation[label]["auc"] < 1.0
        assert [form["is_kept"] for form in train[label]["forms"]].count(True) == 1
        alone = read_json(both / paths.METRICS / "train.json")[label]["num_parameters"]
        assert train[label]["num_parameters"] - alone in (0, 1)  # the bias of the other form's attention
    assert len({train[label]["shared_val_log_loss"] for label in LABELS}) == 1
    assert train[LABELS[0]]["val_log_loss"] != train[LABELS[1]]["val_log_loss"]
    mean = np.mean([train[label]["val_log_loss"] for label in LABELS])
    assert mean == pytest.approx(train[LABELS[0]]["shared_val_log_loss"], rel=1e-5)
    rows = pq.read_table(shared / "data/test.parquet")
    scores = [Scorer.load(shared / "artifacts", label=label).score(rows) for label in LABELS]
    assert np.array_equal(scores[0].astype(np.float32), submitted(shared).astype(np.float32))
    assert not np.array_equal(scores[0], scores[1])
    # trees are of each label alone, on statistics that both keep
    assert (shared / paths.TREES / LABELS[1] / "trees.json").is_file()


def test_a_shared_training_that_was_killed_goes_on(
    shared: Path, tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project", log=two_label_log(tmp_path / "log", small_log))
    changes = {"data.label": list(LABELS), **SHARED, "train.checkpoint_steps": 1}
    set_params(project / "params.yaml", {**SETTINGS, **changes})
    monkeypatch.chdir(project)
    for stage in ("prepare", "split"):
        run_in_process(stage)
    killed_after(15, monkeypatch)
    assert not paths.MODEL.exists()
    with monkeypatch.context() as patched:
        taken = steps_taken(patched)
        run_in_process("train")
    assert len(taken) > 0
    places = tuple(str(place) for place in OUTPUTS["train"])
    found = {name: digest for name, digest in digests(project).items() if name.startswith(places)}
    assert found == {name: digest for name, digest in digests(shared).items() if name.startswith(places)}
    assert not list((project / ".qin/checkpoints").rglob("*.pt"))


def test_separate_networks_are_not_taken_for_a_shared_one(both: Path, shared: Path) -> None:
    for project, heads in ((both, "shared"), (shared, "separate")):
        text = (project / "params.yaml").read_text()
        set_params(project / "params.yaml", {"data.label_heads": heads})
        done = run_as_command("calibrate", project)
        (project / "params.yaml").write_text(text)
        assert done.returncode == 1
        assert "artifacts/validation: made with data.label_heads:" in done.stderr
        assert "Traceback" not in done.stderr
