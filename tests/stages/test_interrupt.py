"""Ctrl-C before a stage has begun, and what tells a stage to end while it works."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.project import ROOT

# Stands for a slow import: what a stage imports first stops the process and says so.
SLOW = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(60)\n"


@pytest.mark.parametrize("arguments", [["stages", "train"], ["stages.train"]])
def test_ctrl_c_while_importing_is_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/typer.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path / "slow"), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 60.0
        while not (tmp_path / "importing").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30.0) == (b"", b"")
    assert process.returncode == -signal.SIGINT


def test_importing_the_stages_leaves_the_handlers_of_a_program() -> None:
    code = "import signal, stages.prepare; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# A stage that has begun and waits, with what it writes half written, and takes a second to end.
WAITING = """
import sys, time
from pathlib import Path
from qin.runtime.files import atomic_file
from qin.runtime.stage import run_stage
with run_stage("split"), atomic_file(Path("out.csv")) as staging:
    staging.write_text("half")
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stage_that_is_told_to_end_leaves_nothing_half_written(number: signal.Signals, tmp_path: Path) -> None:
    with _waiting(tmp_path) as process:
        process.send_signal(number)
        assert process.communicate(timeout=30.0)[1] == b"STAGE split [2/7]\n"
    assert process.returncode == 128 + number
    assert _written(tmp_path) == ["params.yaml"]


def test_a_stage_outlives_the_terminal_where_it_is_told_to(tmp_path: Path) -> None:
    """As with `nohup`."""
    with _waiting(tmp_path, hangup="SIG_IGN") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30.0)
    assert process.returncode == 128 + signal.SIGTERM
    assert _written(tmp_path) == ["params.yaml"]


def test_the_end_of_dvc_does_not_cut_short_what_the_terminals_end_began(tmp_path: Path) -> None:
    """Both are told of it: the stage by its terminal, and once more by `dvc`'s death."""
    with _waiting(tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ending\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30.0)
    assert process.returncode == 128 + signal.SIGHUP
    assert _written(tmp_path) == ["params.yaml"]


@contextmanager
def _waiting(folder: Path, *, hangup: str = "SIG_DFL") -> Iterator["subprocess.Popen[bytes]"]:
    """A stage that waits; `hangup` is what its terminal's end is to it, which the tests' own may be deaf to."""
    (folder / "params.yaml").write_text("")
    with subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.{hangup})\n{WAITING}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield process


def _written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and ".qin" not in path.parts)
