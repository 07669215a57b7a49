"""Artifacts of different runs in one workspace: every stage that reads them names the stranger and writes nothing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qin.runtime.stage import STAGES
from tests.project import copy_project, digests, set_params
from tests.stages.run import run_in_process, said

# Small batches, or the network would not have learned which way is up before it is calibrated.
LEARNS = {"train.epochs": 1, "train.batch_size": 64, "train.warmup_steps": 0, "evaluate.slices": ["gender"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Iterator[Path]:
    """A project in which every stage has run."""
    folder = copy_project(tmp_path_factory.mktemp("mixed") / "project", log=small_log)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        set_params(folder / "params.yaml", LEARNS)
        for stage in STAGES:
            run_in_process(stage)
        yield folder


@pytest.fixture
def project(finished: Path) -> Iterator[Path]:
    """The same; what a test changes is put back."""
    kept = finished.with_name("kept")
    shutil.copytree(finished, kept, ignore=shutil.ignore_patterns("qin", "stages", ".git"))
    yield finished
    for path in kept.iterdir():
        if path.is_dir():
            shutil.rmtree(finished / path.name, ignore_errors=True)
            path.rename(finished / path.name)
        else:
            path.replace(finished / path.name)
    kept.rmdir()


def change(project: Path, **changes: Any) -> None:
    set_params(project / "params.yaml", {key.replace("__", "."): value for key, value in changes.items()})


def refused(stage: str, project: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The line of a stage that must fail and leave every output as it is."""
    before = digests(project)
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_in_process(stage)
    assert caught.value.code == 1
    assert digests(project) == before
    (line,) = said(capfd.readouterr().err)
    assert line.endswith("; run `dvc repro`")
    return line.removeprefix("error: ").removesuffix("; run `dvc repro`")


def test_a_calibrator_of_the_model_before(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(project, imbalance__pos_weight=20.0)
    stranger = "artifacts/model: made with imbalance.pos_weight: null, params.yaml has 20.0"
    assert refused("predict", project, capfd) == stranger
    assert refused("evaluate", project, capfd) == stranger
    assert refused("calibrate", project, capfd) == stranger.replace("model", "validation")
    run_in_process("train")
    stranger = "artifacts/blend.json: made with imbalance.pos_weight: null, params.yaml has 20.0"
    assert refused("predict", project, capfd) == stranger
    assert refused("evaluate", project, capfd) == stranger
    for stage in ("calibrate", "evaluate", "predict"):
        run_in_process(stage)


def test_folds_of_another_seed(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(project, split__seed=1)
    stranger = "data/split: made with split.seed: 0, params.yaml has 1"
    assert refused("train", project, capfd) == stranger
    assert refused("trees", project, capfd) == stranger
    assert refused("evaluate", project, capfd) == stranger.replace("data/split", "artifacts/statistics")
    run_in_process("split")
    assert refused("trees", project, capfd) == stranger.replace("data/split", "artifacts/statistics")
    change(project, split__seed=0)  # the model's settings again, but the other folds are there
    assert refused("trees", project, capfd) == "data/split: made with split.seed: 1, params.yaml has 0"


def test_rows_encoded_with_other_settings(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(project, features__hash_seed=7)
    run_in_process("prepare")
    stranger = "artifacts/statistics: made with features.hash_seed: 0, params.yaml has 7"
    assert refused("evaluate", project, capfd) == stranger
    change(project, features__hash_seed=0)
    for stage, part in (("train", "train"), ("trees", "train"), ("evaluate", "train"), ("predict", "test")):
        assert refused(stage, project, capfd) == (
            f"data/prepared/{part}: made with features.hash_seed: 7, params.yaml has 0"
        )


def reverse_rows(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)


RAW: dict[str, tuple[str, str, list[str], Callable[[Path], None]]] = {
    "train": ("train", "data/prepared/train", ["evaluate"], reverse_rows),
    "train for the calibrator": ("train", "artifacts/validation", ["calibrate"], reverse_rows),
    "test": ("test", "data/prepared/test", ["predict"], reverse_rows),
}


@pytest.mark.parametrize("name", RAW)
def test_another_raw_file(name: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, place, stages, edit = RAW[name]
    edit(project / f"data/{file}.parquet")
    for stage in stages:
        assert refused(stage, project, capfd) == (
            f"{place}: made from another data/{file}.parquet than the one that is there"
        )


def test_rows_and_folds_of_different_logs(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reverse_rows(project / "data/train.parquet")
    run_in_process("split")
    assert refused("train", project, capfd) == (
        "data/split: made from another data/train.parquet than data/prepared/train was"
    )


def test_parts_of_a_run_with_the_same_settings_on_another_log(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Equal settings, equal shapes: only what they were made from tells them apart."""
    names = ("artifacts/model", "artifacts/validation", "data/split")
    for name in names:
        shutil.copytree(project / name, tmp_path / name)
    reverse_rows(project / "data/train.parquet")
    for stage in ("prepare", "split", "train", "trees", "calibrate"):
        run_in_process(stage)
    expected = {
        ("artifacts/model", "predict"): "artifacts/model: made from another artifacts/statistics than the one that "
        "is there",
        ("artifacts/validation", "calibrate"): "artifacts/validation: made from another data/train.parquet than the "
        "one that is there",
        ("data/split", "train"): "data/split: made from another data/train.parquet than data/prepared/train was",
    }
    for (name, stage), line in expected.items():
        shutil.move(project / name, tmp_path / "new")
        shutil.copytree(tmp_path / name, project / name)
        assert refused(stage, project, capfd) == line
        shutil.rmtree(project / name)
        shutil.move(tmp_path / "new", project / name)
    run_in_process("predict")


def test_changing_the_calibration_leaves_the_model(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(project, calibration__method="platt", evaluate__num_bins=7)
    assert refused("predict", project, capfd) == (
        'artifacts/temperature.json: made with calibration.method: "temperature", params.yaml has "platt"'
    )
    model = {name: digest for name, digest in digests(project).items() if name.startswith("artifacts/model")}
    for stage in ("calibrate", "evaluate", "predict"):
        run_in_process(stage)
    assert model.items() <= digests(project).items()


def test_where_and_how_fast_is_the_machines_matter(project: Path) -> None:
    change(project, train__num_threads=2, train__checkpoint_seconds=5.0, prepare__num_threads=1, train__device="cpu")
    before = digests(project)
    run_in_process("predict")
    assert digests(project) == before
