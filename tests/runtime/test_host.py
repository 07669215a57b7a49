"""What the system says of processes, against what the test knows of its own."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from qin.runtime import host

HOLD = "import time; x = bytearray(b'x') * {size}; print('ready', flush=True); time.sleep(60)"
SIZE = 100 << 20


def test_the_memory_of_a_tree_counts_processes_below_it() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD.format(size=SIZE)!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "ready\n"
        with host.TreeMemory(outer.pid, interval_seconds=0.01) as memory:
            time.sleep(0.1)
        tree = host.process_tree(outer.pid)
        for process in reversed(tree):
            process.kill()
        psutil.wait_procs(tree, timeout=10)
    assert len(tree) == 2
    assert SIZE < memory.peak_bytes < SIZE + (100 << 20)
    assert not any(map(host.is_alive, tree))
    assert host.process_tree(outer.pid) == []
    assert host.command_line(tree[0]) == []
    assert host.resident_bytes(tree[0]) == 0


def test_the_largest_size_is_in_bytes_and_only_grows() -> None:
    before = host.largest_resident_bytes()
    assert before > psutil.Process().memory_info().rss // 4
    size = 2 * before
    block = np.ones(size, np.uint8)
    del block
    assert host.largest_resident_bytes() >= size


def test_a_process_that_waits_to_be_noticed_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process = psutil.Process(ended.pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert process.is_running()
        assert not host.is_alive(process)
    assert not host.is_alive(process)


def test_cores_and_memory_are_those_of_the_machine() -> None:
    assert 1 <= host.num_cores() <= (psutil.cpu_count() or 1)
    assert host.total_memory_bytes() > host.largest_resident_bytes()
    assert host.ancestors()[0].pid == psutil.Process().ppid()


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_how_threads_wait_is_left_to_who_has_set_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    host.set_waiting_of_threads()
    assert dict(os.environ) == before
    monkeypatch.delenv(name)
    host.set_waiting_of_threads()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.delenv("GOMP_SPINCOUNT")


def test_the_memory_of_a_gpu_is_told_by_who_has_used_one(monkeypatch: pytest.MonkeyPatch) -> None:
    used = SimpleNamespace(is_initialized=lambda: True, max_memory_allocated=lambda: 5 << 30)
    idle = SimpleNamespace(is_initialized=lambda: False)
    for cuda, expected in ((used, 5 << 30), (idle, 0)):
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        assert host.peak_gpu_bytes() == expected
    monkeypatch.delitem(sys.modules, "torch")
    assert host.peak_gpu_bytes() == 0
    assert "torch" not in sys.modules
