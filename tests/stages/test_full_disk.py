"""A disk that is full while any file is written: one line that names stage and file, status 1, old outputs stay."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime.stage import STAGES
from tests.project import ROOT, copy_project, digests, set_params
from tests.stages.run import run_in_process


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Iterator[Path]:
    """A project in which every stage has run, with the checkout's code, whose compiled kernels need no more room."""
    folder = copy_project(tmp_path_factory.mktemp("full") / "project", log=small_log)
    for name in ("qin", "stages"):
        shutil.rmtree(folder / name)
    set_params(
        folder / "params.yaml", {"features.statistics.enable": False, "train.refit": "none"}
    )  # larger files that come before the weights
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for stage in STAGES:
            run_in_process(stage)
        yield folder


def run_limited(stage: str, folder: Path, *, largest_file: int) -> subprocess.CompletedProcess[str]:
    """Run a stage whose files may have so many bytes, which fails as a full disk does, but without one."""
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )


CASES = {
    "shard": ("prepare", 10_000, "data/prepared/test/00000.bin"),
    "folds": ("split", 4000, "data/split/fold.npy"),
    "weights": ("train", 100_000, "artifacts/model/weights.safetensors"),
    "statistics": ("train", 10, "artifacts/statistics/manifest.json"),
    "calibrator": ("calibrate", 1000, "artifacts/scored/row.npy"),
    "plot": ("evaluate", 200, "plots/pr.csv"),
    "submission": ("predict", 2000, "outputs/submission.csv"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_and_the_stage_are_named(name: str, project: Path) -> None:
    stage, largest_file, file = CASES[name]
    shutil.rmtree(project / ".qin/prepared", ignore_errors=True)  # encoded files that need no room
    whole = digests(project)
    done = run_limited(stage, project, largest_file=largest_file)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: stage {stage}: {file}: {os.strerror(errno.EFBIG)}"], done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    changed = {name for name, digest in digests(project).items() if whole.get(name) != digest}
    assert changed <= {"plots/train.csv"}  # shows the epochs of the run that failed
    assert [path for path in project.rglob(".*") if path.name.endswith((".tmp", ".old"))] == []


def test_a_checkpoint_is_named(project: Path) -> None:
    params = project / "params.yaml"
    before = params.read_bytes()
    set_params(params, {"train.checkpoint_seconds": 0.0})
    done = run_limited("train", project, largest_file=100_000)
    params.write_bytes(before)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: stage train: .qin/checkpoints/")
    assert line.endswith(os.strerror(errno.EFBIG))
    assert "Traceback" not in done.stderr
