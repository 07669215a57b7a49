"""Ctrl-C before a stage has begun."""

import os
import signal
import subprocess
import sys
import time
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
