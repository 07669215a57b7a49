"""An input that is edited while a stage runs: one line that names it, status 1, and no output is published."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime.edits import InputWatch
from qin.runtime.stage import STAGES
from tests.project import ROOT, committed_project, copy_project, digests, dvc, dvc_command, set_params
from tests.stages.run import run_in_process

READS = {
    "prepare": ("data/train.parquet", "data/test.parquet"),
    "split": ("data/train.parquet",),
    "train": ("data/prepared/train/manifest.json", "data/split/manifest.json"),
    "trees": (
        *("data/prepared/train/manifest.json", "data/split/manifest.json", "artifacts/statistics/manifest.json"),
    ),
    "calibrate": (*("data/train.parquet", "artifacts/validation/facts.json", "artifacts/trees_validation/facts.json"),),
    "evaluate": (
        *("data/train.parquet", "data/prepared/train/manifest.json", "artifacts/statistics/manifest.json"),
        *("artifacts/model/model.json", "artifacts/trees/trees.json", "artifacts/validation/facts.json"),
        *("artifacts/blend.json", "artifacts/scored/facts.json", "artifacts/temperature.json"),
    ),
    "predict": (
        *("data/test.parquet", "data/sample_submission.csv", "data/prepared/test/manifest.json"),
        *("artifacts/model/model.json", "artifacts/trees/trees.json", "artifacts/blend.json"),
        *("artifacts/statistics/manifest.json", "artifacts/temperature.json"),
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Iterator[Path]:
    """A project in which every stage has run; tests put back what they edit."""
    folder = copy_project(tmp_path_factory.mktemp("edited") / "project", log=small_log)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        set_params(folder / "params.yaml", {"train.epochs": 1})
        for stage in STAGES:
            run_in_process(stage)
        yield folder


@pytest.mark.parametrize("stage", STAGES)
def test_every_input_of_every_stage_is_watched(
    stage: str, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Edited when all is computed and nothing is published, one after the other in one run."""
    named: list[str] = []

    def check(self: InputWatch, name: str) -> None:
        """Edit each input in turn, then leave the last one edited."""
        for file in ("params.yaml", *READS[stage]):
            path = Path(file)
            content, found = path.read_bytes(), path.stat()
            original(self, name)
            path.write_bytes(content + b"\n")
            try:
                original(self, name)
            except Exception as error:
                named.append(str(error).split(": ")[0])
                if file == READS[stage][-1]:
                    raise
            finally:
                path.write_bytes(content)
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    original = InputWatch.check
    before = digests(project)
    with monkeypatch.context() as patched:
        patched.setattr(InputWatch, "check", check)
        with pytest.raises(SystemExit) as caught:
            run_in_process(stage)
    assert caught.value.code == 1
    assert named == ["params.yaml", *READS[stage]]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {READS[stage][-1]}: edited while stage {stage} ran, so that its outputs would not")
    assert digests(project) == before


@pytest.mark.parametrize("module", [["stages", "prepare"], ["stages.prepare"]], ids=["by name", "as a module"])
def test_a_source_that_is_edited_during_a_run_is_named(module: list[str], small_log: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", log=small_log)
    set_params(project / "params.yaml", {"prepare.batch_rows": 64})
    source = project / "qin/prepare/encode.py"
    with subprocess.Popen([sys.executable, "-m", *module], cwd=project, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("STAGE prepare")
        source.write_text(source.read_text() + "# edited\n")
        lines = run.stderr.read().splitlines()
    assert run.returncode == 1
    assert lines[-1].startswith("error: qin/prepare/encode.py: edited while stage prepare ran")
    assert not (project / "data/prepared").exists()
    assert ROOT not in source.parents


@pytest.mark.slow
def test_dvc_does_not_record_what_was_edited_meanwhile(tmp_path: Path, small_log: Path) -> None:
    project = committed_project(tmp_path / "project", log=small_log, run=True)
    params, lock = project / "params.yaml", (project / "dvc.lock").read_bytes()
    command, environment = dvc_command("repro", "-f", "-s", "train")
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("step "):  # the first check of several
                break
        before = params.read_bytes()
        set_params(params, {"train.lr": 0.5})
        rest = run.stdout.read()
    assert run.returncode != 0
    assert "error: params.yaml: edited while stage train ran" in rest
    assert (project / "dvc.lock").read_bytes() == lock
    params.write_bytes(before)
    assert dvc(project, "repro").returncode == 0
    assert (project / "dvc.lock").read_bytes() == lock
