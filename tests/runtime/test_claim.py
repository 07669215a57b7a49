"""One process at a time for a stage."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qin.runtime.claim import claimed
from qin.runtime.errors import ArtifactError

HOLDER = """
import sys
from pathlib import Path
from qin.runtime.claim import claimed
with claimed("prepare", folder=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_is_at_work_until_the_first_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        message = rf"prepare\.lock: another stage prepare is at work in this folder \(process {holder.pid}\); wait"
        with pytest.raises(ArtifactError, match=message), claimed("prepare", folder=tmp_path):
            pass
        with claimed("split", folder=tmp_path):  # another stage's outputs are others
            pass
        holder.kill()
        holder.wait()
        with claimed("prepare", folder=tmp_path):
            pass


def test_whoever_waits_gets_it_when_the_holder_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        threading.Timer(0.3, holder.stdin.close).start()
        with claimed("prepare", folder=tmp_path, waits=True):
            assert holder.wait() == 0


def test_it_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="failed"), claimed("prepare", folder=tmp_path):
        raise ValueError("failed")
    with claimed("prepare", folder=tmp_path):
        pass
