"""Stage train as several processes, which DVC starts as one: killed anywhere it goes on, and one speaks for all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from qin.distributed.launch import loopback_interface
from qin.model.artifact import load_model
from qin.runtime.host import LOOPBACK, is_alive, process_tree
from tests.project import ROOT, copy_project, dvc_command, git_project, processes_in, set_params
from tests.stages.run import run_as_command, run_in_process
from tests.stages.test_resume import checkpoints, outputs

# Long enough to be killed within, with checkpoints to go on from.
LONG: dict[str, Any] = {
    "train.num_processes": 3,
    "train.precision": "fp32",
    "train.batch_size": 64,
    "train.epochs": 3,
    "train.patience": 100,
    "train.checkpoint_steps": 10,
    "train.checkpoint_seconds": 1e9,
    "train.refit": "none",
    "model.dropout": 0.1,
}
PATIENCE_SECONDS = 300.0


@pytest.fixture
def project(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_project(tmp_path / "project", log=small_log)
    monkeypatch.chdir(folder)
    run_in_process("prepare")
    run_in_process("split")
    set_params(folder / "params.yaml", LONG)
    return folder


def started(project: Path) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "stages", "train"]
    return subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks_of(agent: int) -> list[psutil.Process]:
    """The processes that train, by their number."""
    found = [process for process in process_tree(agent)[1:] if "RANK" in process.environ()]
    return sorted(found, key=lambda process: int(process.environ()["RANK"]))


def ended(processes: list[psutil.Process]) -> bool:
    """Whether they end within a time that no work takes."""
    deadline = time.monotonic() + 60.0
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_alive, processes))


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error") or "Traceback" in line or "Error" in line]


def test_a_bad_setting_is_told_once(project: Path) -> None:
    """By whichever process meets it; the launcher adds nothing, and does not try again."""
    set_params(project / "params.yaml", {"train.num_processes": 2, "model.norm": "batch"})
    done = run_as_command("train", project)
    assert done.returncode == 1
    (line,) = error_lines(done.stderr)
    assert line.startswith("error: params.yaml: model.norm: batch (")
    assert not (project / "artifacts").exists()


@pytest.mark.slow
def test_a_fault_in_training_is_told_once(project: Path) -> None:
    set_params(project / "params.yaml", {"train.lr": 1e30, "train.warmup_steps": 0, "train.gradient_clip": None})
    done = run_as_command("train", project)
    assert done.returncode == 1
    (line,) = error_lines(done.stderr)
    assert "lower train.lr or train.gradient_clip" in line
    assert done.stderr.count("STAGE train") == 1


@pytest.mark.slow
def test_after_a_kill_the_run_ends_in_the_same_bytes(project: Path) -> None:
    """Of a process that trains, of the one that started them, and of both kinds again in one run."""
    done = run_as_command("train", project)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("STAGE train done") == 1
    whole = outputs(project)

    with started(project) as agent:
        wait_until(lambda: checkpoints(project), agent)
        ranks_of(agent.pid)[1].kill()
        _, text = agent.communicate(timeout=PATIENCE_SECONDS)
    assert agent.returncode == 0, text
    assert "process 1 of 3 was ended by SIGKILL; all start again from the newest checkpoint (1 of 3)" in text
    assert "resuming at epoch" in text
    assert outputs(project) == whole

    with started(project) as agent:
        wait_until(lambda: checkpoints(project), agent)
        ranks = ranks_of(agent.pid)
        assert len(ranks) == 3
        agent.kill()
        assert ended(ranks)
    assert checkpoints(project)
    done = run_as_command("train", project)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch" in done.stderr
    assert outputs(project) == whole
    assert not list((project / ".qin/ranks").rglob("*.*"))


@pytest.mark.slow
def test_divided_tables_are_written_whole_after_a_kill_too(project: Path) -> None:
    """A process that holds a third of the tables is killed; what follows reads a model of one piece."""
    set_params(project / "params.yaml", {"train.shard_tables": True, "train.epochs": 1})
    done = run_as_command("train", project)
    assert done.returncode == 0, done.stderr
    whole = outputs(project)
    with started(project) as agent:
        wait_until(lambda: checkpoints(project), agent)
        ranks_of(agent.pid)[2].kill()
        _, text = agent.communicate(timeout=PATIENCE_SECONDS)
    assert agent.returncode == 0, text
    assert "resuming at epoch" in text
    assert outputs(project) == whole
    (network,) = load_model(project / "artifacts/model").networks
    assert len(network.embedding.embedding_table) == int(network.embedding.num_buckets.sum())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_all_end_in_order(project: Path, number: signal.Signals) -> None:
    with started(project) as agent:
        wait_until(lambda: checkpoints(project), agent)
        ranks = ranks_of(agent.pid)
        agent.send_signal(number)
        _, text = agent.communicate(timeout=60.0)
    assert agent.returncode == 128 + number
    assert not any(map(is_alive, ranks))
    assert error_lines(text) == []
    assert not (project / "artifacts/model").exists()
    assert len(checkpoints(project)) == 1


@pytest.mark.slow
def test_restarts_are_bounded(project: Path) -> None:
    set_params(project / "params.yaml", {"train.max_restarts": 1, "train.checkpoint_steps": None})
    with started(project) as agent:
        for _ in range(2):
            wait_until(lambda: len(ranks_of(agent.pid)) == 3, agent)
            ranks = ranks_of(agent.pid)
            ranks[2].kill()
            assert ended(ranks)
        _, text = agent.communicate(timeout=PATIENCE_SECONDS)
    assert agent.returncode == 128 + signal.SIGKILL
    assert "error: process 2 of 3 was ended by SIGKILL, after 1 restarts (train.max_restarts)" in text


@pytest.mark.slow
def test_agents_of_two_machines_train_what_one_trains(project: Path) -> None:
    """With the prepared data on a disk of each; the first machine's folder has the outputs."""
    set_params(project / "params.yaml", {"train.num_processes": 2, "train.epochs": 1})
    other = shutil.copytree(project, project.parent / "other machine")
    assert run_as_command("train", project).returncode == 0
    whole = outputs(project)
    shutil.rmtree(project / "artifacts")
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=0"]
    command += [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={LOOPBACK}:{port}",
        "--rdzv-id=run",
        f"--local-addr={LOOPBACK}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": loopback_interface()}
    agents = [
        subprocess.Popen(
            [*command, "-m", "stages", "train"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        for folder in (project, other)
    ]
    texts = [agent.communicate(timeout=PATIENCE_SECONDS)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], texts
    (written,) = [folder for folder in (project, other) if (folder / "artifacts").exists()]  # whichever came first
    found = outputs(written)
    assert {path.removeprefix(str(written)): text for path, text in found.items()} == {
        path.removeprefix(str(project)): text for path, text in whole.items()
    }
    assert "".join(texts).count("STAGE train done") == 1


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray, which has 250 MB")
def test_on_ray_a_killed_process_is_started_again_and_the_bytes_are_those_of_one_machine(project: Path) -> None:
    """A cluster of this machine alone; killed is a process that trains, then the program that has started Ray."""
    set_params(project / "params.yaml", {"train.num_processes": 2, "train.epochs": 2})
    assert run_as_command("train", project).returncode == 0
    whole = outputs(project)
    set_params(project / "params.yaml", {"train.launcher": "ray"})
    with started(project) as driver:
        wait_until(lambda: checkpoints(project), driver)
        processes_of(project)[1].kill()
        _, text = driver.communicate(timeout=PATIENCE_SECONDS)
    assert driver.returncode == 0, text
    assert "process 1 of 2 was ended by SIGKILL; all start again from the newest checkpoint (1 of 3)" in text
    assert outputs(project) == whole
    # Without an end: Ray's processes notice after a second or two that their driver is gone, and no speed of a machine
    # may let them finish before.
    set_params(project / "params.yaml", {"train.epochs": 10**6, "train.patience": 10**6})
    with started(project) as driver:
        wait_until(lambda: checkpoints(project), driver)
        processes = processes_of(project)
        driver.kill()
        assert ended(processes)
    assert checkpoints(project)


def processes_of(project: Path) -> list[psutil.Process]:
    """The processes that train in a folder, by their number, whoever has started them."""
    found = [psutil.Process(number) for number in processes_in(project, "stages train")]
    return sorted(
        (process for process in found if "RANK" in process.environ()), key=lambda one: int(one.environ()["RANK"])
    )


@pytest.mark.slow
def test_when_dvc_is_killed_all_end_and_the_next_one_goes_on(tmp_path: Path, small_log: Path) -> None:
    project = git_project(tmp_path / "project", log=small_log)
    set_params(project / "params.yaml", LONG)
    command, environment = dvc_command("repro", "train")
    whole = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    expected = outputs(project)
    again = [*command, "--force", "--single-item"]
    with subprocess.Popen(again, cwd=project, env=environment, stderr=subprocess.PIPE, text=True) as dvc:
        wait_until(lambda: checkpoints(project), dvc)
        family = process_tree(dvc.pid)
        dvc.kill()
        assert ended(family)
    done = subprocess.run(again, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch" in done.stderr
    assert outputs(project) == expected
