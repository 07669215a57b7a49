"""Loss and weight of the steps of a run, added up where they are computed and read once in a while."""

import math

import torch

from qin.runtime.errors import TrainingError

HINT_DIVERGED = "lower train.lr or train.gradient_clip"


class StepFigures:
    """Sums over the steps since they were last read, on the device that computes.

    To read a number is to wait for the device, which on a GPU leaves it without work. So whether a loss is finite is
    told there, too: from the first one that is not, nothing more is added up, and a read says which it was.

    Args:
        device: That computes.

    Attributes:
        num_steps: Added since the last read.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)  # of losses, of weights; last loss, good steps
        self._is_good = torch.ones((), dtype=torch.bool, device=device)
        self._first_step = self.num_steps = 0

    @torch.no_grad()
    def add(self, loss: torch.Tensor, weight: torch.Tensor, *, batch_weight: float) -> None:
        """Add a step's loss and the weight of its rows, scalars; only on the device, so that it may be recorded.

        Args:
            loss: Divided by `batch_weight`.
            weight: Of the batch's rows.
            batch_weight: What the loss was divided by.
        """
        loss, was_good = loss.double(), self._is_good.clone()
        self._is_good &= loss.isfinite()
        total, weights, last, num_good = self._sums.unbind()
        added = torch.stack((total + loss * batch_weight, weights + weight, loss, num_good + self._is_good))
        # Chosen where it is computed: a branch in Python would wait for the device.
        self._sums.copy_(torch.where(was_good, added, torch.stack((total, weights, last, num_good))))

    def count(self, step: int) -> None:
        """Say that a step, of this number, has been added."""
        if self.num_steps == 0:
            self._first_step = step
        self.num_steps += 1

    def read(self) -> tuple[float, float, float]:
        """Sums of the losses and of the weights, and the last loss; the sums start again. Waits for the device.

        Raises:
            TrainingError: If a loss was not finite.
        """
        total, weights, last, num_good = self._sums.tolist()
        if num_good < self.num_steps:
            assert not math.isfinite(last)
            raise TrainingError(f"the loss is {last} at step {self._first_step + int(num_good)}; {HINT_DIVERGED}")
        # The last loss stays, as a progress bar shows it until there is another.
        self._sums[:2] = 0.0
        self._sums[3] = 0.0
        self.num_steps = 0
        return total, weights, last
