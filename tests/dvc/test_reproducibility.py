"""The same bytes every time and everywhere, however a run is ended, and no process left behind."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime.stage import STAGES
from tests.dvc.chaos import plan, run_chaos, wait_until
from tests.project import digests, dvc, dvc_command, git_project, processes_in, set_params

pytestmark = pytest.mark.slow

NOBODY = 65534

# With the right to read what belongs to others, because the interpreter may live in the home of root.
_RIGHTS = "+dac_override,+dac_read_search"
AS_NOBODY = [
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *(f"--inh-caps={_RIGHTS}", f"--ambient-caps={_RIGHTS}"),
]

# The clock of every process, 116 days ahead.
LATER = "import time\nnow = time.time\ntime.time = lambda: now() + 1e7\n"


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A project that has run up to the split."""
    project = git_project(tmp_path_factory.mktemp("split") / "project", log=small_log)
    set_params(project / "params.yaml", {"train.epochs": 4, "train.patience": 4, "train.checkpoint_steps": 1})
    for stage in ("prepare", "split"):  # dvc.lock keeps the order in which stages ran; two targets have none
        done = dvc(project, "repro", stage)
        assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, split: Path) -> dict[str, str]:
    """What an uninterrupted run leaves, and runs again with every stage forced."""
    project = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(split, project, symlinks=True)
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stderr
    first = digests(project)
    done = dvc(project, "repro", "-f")
    assert done.returncode == 0, done.stderr
    assert digests(project) == first
    return first


def may_become_nobody(folder: Path) -> bool:
    """Whether this process may become another user who can run this Python in a folder."""
    if shutil.which(AS_NOBODY[0]) is None or os.getuid() != 0:
        return False
    folder.chmod(0o755)
    probe = [*AS_NOBODY, "bash", "-c", "python -c 'import os, torch; os.listdir()'"]
    return subprocess.run(probe, cwd=folder, env=dvc_command()[1], capture_output=True, check=False).returncode == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_same_bytes_elsewhere(folder: Path, small_log: Path, split: Path, whole: dict[str, str]) -> None:
    """Another folder, user, home, locale, time zone, clock, hash seed, and what never shows in an output."""
    project = git_project(folder / "ein anderer Ordner, 다른 폴더", log=small_log)
    shutil.copy(split / "params.yaml", project / "params.yaml")
    set_params(
        project / "params.yaml",
        {
            "prepare.batch_rows": 777,
            "prepare.num_threads": 3,
            "train.checkpoint_seconds": 0.0,
            "train.checkpoint_steps": 7,
        },
    )
    home = folder / "home"
    home.mkdir()
    (home / "sitecustomize.py").write_text(LATER)
    command, environment = dvc_command("repro")
    environment |= {
        "HOME": str(home),
        "USER": "someone",
        "LOGNAME": "someone",
        "LC_ALL": "C",
        "TZ": "Asia/Kathmandu",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(home),
        "QIN_CHECKPOINTS": str(home / "checkpoints"),
    }
    if may_become_nobody(folder):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        command = [*AS_NOBODY, *command]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(project) == whole


@pytest.mark.parametrize(
    ("number", "shell"), [(signal.SIGKILL, "/bin/bash"), (signal.SIGTERM, "/bin/sh"), (signal.SIGINT, "/bin/sh")]
)
def test_ended_dvc_leaves_no_training_and_the_next_run_goes_on(
    tmp_path: Path, split: Path, whole: dict[str, str], number: signal.Signals, shell: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(split, project, symlinks=True)
    command, environment = dvc_command("repro")
    environment["SHELL"] = shell
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=project, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as run,
    ):
        checkpoints = project / ".qin/checkpoints"
        assert wait_until(lambda: any(checkpoints.rglob("*.pt")), seconds=60) is not None
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            run.send_signal(number)
    assert wait_until(lambda: not processes_in(project, "stages"), seconds=60) is not None
    assert any(checkpoints.rglob("*.pt"))
    assert "Traceback" not in log.read_text()
    again = dvc(project, "repro")
    assert again.returncode == 0, again.stderr
    assert "resuming at epoch" in again.stderr
    assert digests(project) == whole
    assert not any(checkpoints.iterdir())


def test_chaos(tmp_path: Path, small_log: Path) -> None:
    """A short form of `python -m tests.dvc.chaos`."""
    project = git_project(tmp_path / "project", log=small_log)
    set_params(project / "params.yaml", {"train.batch_size": 64, "train.checkpoint_steps": 20})
    (tmp_path / "scratch").mkdir()
    result = run_chaos(project, tmp_path / "scratch", num_kills=4, seed=1)
    assert [kill for kill in result["kills"] if not kill["equal"]] == []
    assert result["num_equal"] == 4


def test_kills_are_spread_over_stages_and_victims() -> None:
    kills = plan(20, seed=0)
    counts = {stage: sum(kill.stage == stage for kill in kills) for stage in STAGES}
    assert sorted(counts.values()) == [2] + [3] * 6
    assert counts["train"] == counts["prepare"] == 3
    assert sorted(sum(kill.victim == victim for kill in kills) for victim in ("stage", "dvc", "both")) == [6, 7, 7]
    assert plan(20, seed=0) == kills != plan(20, seed=1)
