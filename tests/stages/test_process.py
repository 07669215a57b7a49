"""Stages as processes: how they are started, by whom and where, and that an import is none of it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT, copy_project

# A number that no user has, with the right to read alone, because the interpreter may live in the home of root.
USER = 31_234
AS_UNKNOWN_USER = [
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-dac_override"),
]

# Imports every module of ours and prints what is different from before.
IMPORTS = """
import importlib, logging, os, pkgutil, signal, sys, threading, warnings
import dvc.repo, numba, numpy, pyarrow, pydantic, safetensors.torch, sklearn.compose, sklearn.ensemble, torch, typer
def state():
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    loggers = [logging.getLogger(name) for name in (None, "qin")]
    logs = [(one.level, list(one.handlers), one.disabled, one.propagate) for one in loggers]
    settings = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_default_dtype()
    kept = {name: value for name, value in vars(numba.config).items() if name.isupper()}
    threads = sorted(thread.name for thread in threading.enumerate())
    generators = torch.random.get_rng_state().tolist(), str(numpy.random.get_state())
    others = os.getcwd(), os.umask(0o022), sys.path[:], sys.excepthook, numpy.geterr(), list(warnings.filters)
    return dict(os.environ), signals, logs, settings, kept, threads, generators, others
os.umask(0o022)
before = state()
import qin, stages
for package in (qin, stages):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print([(a, b) for a, b in zip(before, state()) if a != b])
"""


def run(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(small_log: Path) -> Iterator[Path]:
    """A project that other users can reach, unlike pytest's folders, in a path with blanks and letters."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield copy_project(Path(folder) / "Ordner für alle, 폴더", log=small_log)


def test_an_import_changes_nothing_in_the_program(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    done = run(tmp_path, sys.executable, "-W", "ignore", "-c", IMPORTS, NUMBA_CACHE_DIR=str(kernels))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[]\n"
    assert not kernels.exists()  # nothing was compiled


@pytest.mark.parametrize("words", [["stages", "prepare"], ["stages.prepare"]])
def test_both_commands_run_a_stage(project: Path, words: list[str]) -> None:
    done = run(project, sys.executable, "-m", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("STAGE prepare [1/7]\n")
    assert (project / "metrics/prepare.json").is_file()


@pytest.mark.parametrize("words", [[], ["prapare"], ["paths"]])
def test_another_name_is_answered_with_the_names_of_stages(tmp_path: Path, words: list[str]) -> None:
    done = run(tmp_path, sys.executable, "-m", "stages", *words)
    assert done.returncode == 1
    assert done.stderr == "usage: python -m stages {prepare,split,train,trees,calibrate,evaluate,predict}\n"


@pytest.mark.slow
def test_code_that_cannot_be_written_runs_for_a_user_without_name_and_home(project: Path) -> None:
    """A container image as many clusters run it."""
    probe = [*AS_UNKNOWN_USER, sys.executable, "-c", "import os; os.listdir(); os.getuid() == 0 and exit(1)"]
    if shutil.which("setpriv") is None or subprocess.run(probe, cwd=project.parent, check=False).returncode:
        pytest.skip("needs the right to become another user")
    for path in (project, *project.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    for name in ("qin", "stages"):  # the code, root's and read-only; nothing compiled is there
        shutil.rmtree(project / name)
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (project / name, *(project / name).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    unset = [f"--unset={name}" for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")]
    command = [*AS_UNKNOWN_USER, "env", *unset, sys.executable, "-m", "stages", "prepare"]
    done = run(project, *command, PYTHONPATH=str(project))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "kernels are compiled at every start: none of " in done.stderr
    assert not list((project / "qin").rglob("*.nbc"))
