"""A training that is killed after some steps, in this process."""

from typing import Any

import pytest

from qin.train.loop import TrainingLoop
from tests.stages.run import run_in_process


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs."""


def steps_taken(monkeypatch: pytest.MonkeyPatch, *, kill_at: int | None = None) -> list[int]:
    """Numbers the steps of trainings from here on; the one after `kill_at` steps is the last of its process."""
    taken: list[int] = []
    step = TrainingLoop._train_step

    def counting(self: TrainingLoop, batch: Any) -> None:
        if len(taken) == kill_at:
            raise KilledError
        taken.append(len(taken))
        step(self, batch)

    monkeypatch.setattr(TrainingLoop, "_train_step", counting)
    return taken


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the train stage and stop it after a number of steps."""
    with monkeypatch.context() as patched:
        steps_taken(patched, kill_at=steps)
        with pytest.raises(KilledError):
            run_in_process("train")
