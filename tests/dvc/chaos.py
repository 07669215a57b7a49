"""Kill a run at random moments, run it again, and compare what it leaves with an uninterrupted run.

    python -m tests.dvc.chaos --kills 20 --seed 0 --out benchmarks/results/chaos.json

Each kill starts from a copy of the project as it was before one of the stages, so that nothing of the later stages
is in DVC's cache. `dvc repro` is killed with SIGKILL at a random moment of that stage: the stage alone, `dvc` alone, or
both. Then a plain `dvc repro` must end with the bytes of the uninterrupted run, and leave no temporary file behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import typer

from benchmarks.machine import describe, report
from qin.runtime.host import command_line, is_alive, process_tree
from qin.runtime.stage import STAGES
from qin.sample import sample_size, write_sample
from tests.project import digests, dvc, dvc_command, git_project, set_params

Victim = Literal["stage", "dvc", "both"]
VICTIMS: tuple[Victim, ...] = ("stage", "dvc", "both")

# Who gets one kill more where their number is no multiple of that of the stages: those that work longest.
_FIRST = ("train", "prepare", "trees", "evaluate", "predict", "split", "calibrate")

# A stage whose parent died gets SIGTERM; what it may take to end.
_PATIENCE_SECONDS = 30.0

# Training takes several times as long as the start of its process, and a checkpoint is never old.
SETTINGS = {"train.epochs": 12, "train.patience": 12, "train.batch_size": 64, "train.checkpoint_steps": 20}


@dataclass(frozen=True)
class Kill:
    """One planned kill.

    Attributes:
        stage: Stage during which it happens.
        fraction: Moment, as a share of the time that the stage takes, with DVC's own work for it.
        victim: Who is killed; `dvc` where the stage's process is not alive at that moment.
    """

    stage: str
    fraction: float
    victim: Victim


def plan(num_kills: int, *, seed: int) -> list[Kill]:
    """Kills spread over all stages as evenly as their number allows, and in each over its time."""
    generator = np.random.default_rng(seed)
    rounds, rest = divmod(num_kills, len(STAGES))
    per_stage = {stage: rounds + (stage in _FIRST[:rest]) for stage in STAGES}
    moments = [(stage, (i + generator.random()) / n) for stage, n in per_stage.items() for i in range(n)]
    victims = generator.permutation([VICTIMS[i % len(VICTIMS)] for i in range(num_kills)]).tolist()
    return [Kill(stage, float(moment), victim) for (stage, moment), victim in zip(moments, victims, strict=True)]


class Chaos:
    """Runs of one project that are killed and started again.

    Args:
        project: A project that no stage has run in.
        scratch: Empty folder for copies of it.
    """

    def __init__(self, project: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._seconds: dict[str, float] = {}
        for stage in STAGES:
            shutil.copytree(project, scratch / stage, symlinks=True)
            with started(project, stage) as run:
                began = time.monotonic()
                run.wait()
                self._seconds[stage] = time.monotonic() - began
            if run.returncode:
                raise subprocess.CalledProcessError(run.returncode, run.args)
        self._whole = digests(project)

    def kill(self, kill: Kill) -> dict[str, Any]:
        """Kill a run as planned, run it again, and describe what happened as JSON values."""
        folder = self._scratch / "killed"
        shutil.copytree(self._scratch / kill.stage, folder, symlinks=True)
        after, victim = kill.fraction * self._seconds[kill.stage], kill.victim
        with started(folder, kill.stage) as run:
            time.sleep(after)
            stage = _stage_process(run.pid)
            if stage is None:
                victim = "dvc"
            _kill([stage and stage.pid] * (victim != "dvc") + [run.pid] * (victim != "stage"))
            ended = wait_until(lambda: stage is None or not is_alive(stage), seconds=_PATIENCE_SECONDS)
            run.wait()
        left = _left_behind(folder)
        again = dvc(folder, "repro")
        now = digests(folder)
        different = sorted(name for name in now.keys() | self._whole.keys() if now.get(name) != self._whole.get(name))
        remains = _left_behind(folder)
        shutil.rmtree(folder)
        return {
            **asdict(kill),
            "killed": victim,
            "seconds_into_stage": round(after, 3),
            "orphan_seconds": ended,
            "left": left,
            "resumed": [line for line in again.stderr.splitlines() if line.startswith("resuming")],
            "status": again.returncode,
            "error": again.stderr if again.returncode else None,
            "different": different,
            "litter": remains,
            "equal": again.returncode == 0 and ended is not None and not different and not remains,
        }


@contextmanager
def started(project: Path, stage: str) -> Iterator["subprocess.Popen[str]"]:
    """A `dvc repro` up to a stage, at the moment when DVC announces the stage."""
    command, environment = dvc_command("repro", stage)
    with (
        (project / ".log").open("w") as log,
        subprocess.Popen(command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=log) as run,
    ):
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith(f"Running stage '{stage}'"):
                break
        yield run
        run.stdout.close()
    (project / ".log").unlink()


def _stage_process(dvc_process: int) -> psutil.Process | None:
    """The stage that a `dvc` has started."""
    return next((process for process in process_tree(dvc_process)[1:] if "stages" in command_line(process)), None)


def _kill(processes: list[int | None]) -> None:
    for process in processes:
        assert process is not None
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            continue


def wait_until(condition: Callable[[], bool], *, seconds: float) -> float | None:
    """Seconds until a condition holds, or None if it does not in time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.01)
    return round(time.monotonic() - began, 3)


def _left_behind(project: Path) -> list[str]:
    """Unfinished files and checkpoints, by their path in the project."""
    found = [*project.glob("*/.*.tmp"), *(project / ".qin/checkpoints").rglob("*")]
    return sorted(path.relative_to(project).as_posix() for path in found)


def run_chaos(project: Path, scratch: Path, *, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill a project's run as often as asked; the result holds the plan, what happened, and whether all were equal."""
    chaos = Chaos(project, scratch)
    kills = []
    for kill in plan(num_kills, seed=seed):
        kills.append(chaos.kill(kill))
        summary = {key: value for key, value in kills[-1].items() if value not in (None, [])}
        print(f"[{len(kills)}/{num_kills}] {summary}", file=sys.stderr, flush=True)
    counts = {
        "num_kills": num_kills,
        "num_equal": sum(kill["equal"] for kill in kills),
        "num_resumed": sum(bool(kill["resumed"]) for kill in kills),
    }
    return {"seed": seed, **counts, "kills": kills}


def main(
    kills: Annotated[int, typer.Option(help="How many times to kill.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of moments and victims.")] = 0,
    rows: Annotated[int, typer.Option(help="Rows of the sample log.")] = 8000,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Kill and compare; exit status 1 if any run did not end with the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample(folder / "log", size=sample_size(rows, test_rows=400), seed=1)
        project = git_project(folder / "project", log=folder / "log")
        set_params(project / "params.yaml", SETTINGS)
        (folder / "scratch").mkdir()
        result = run_chaos(project, folder / "scratch", num_kills=kills, seed=seed)
    report({"machine": describe(), **result}, out)
    raise typer.Exit(result["num_equal"] != result["num_kills"])


if __name__ == "__main__":
    typer.run(main)
