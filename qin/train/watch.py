"""What a training run tells while it goes on; nothing that listens changes a byte of it."""

from collections.abc import Callable
from dataclasses import dataclass

History = list[dict[str, float]]
Figures = dict[str, float]


def _ignore_check(_: History) -> None:
    pass


def _ignore_step(_: int, __: Figures) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who is told.

    Attributes:
        on_check: Called with the history after each check.
        on_step: Called with the number of steps and the newest one's `loss`, `lr`, `grad_norm` (where gradients are
            clipped) and `rows`, those since the run began here.
        every_steps: Steps from one such call to the next; 0: never.
    """

    on_check: Callable[[History], None] = _ignore_check
    on_step: Callable[[int, Figures], None] = _ignore_step
    every_steps: int = 0

    def is_due(self, step: int) -> bool:
        """Whether a step is told."""
        return self.every_steps > 0 and step % self.every_steps == 0


SILENT = Watch()
