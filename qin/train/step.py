"""One training step: loss, gradients of all processes, clipping, the optimizer, the moving average."""

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from qin.config import TrainParams
from qin.network.embedding import sparse_tables
from qin.network.kernels.choice import has_kernels
from qin.network.qin import QIN
from qin.network.sharded import divided_parameters
from qin.network.threads import one_thread
from qin.runtime.seeds import Stream
from qin.shards.loader import Batch
from qin.train.exchange import GradientSum
from qin.train.figures import StepFigures
from qin.train.forms import EAGER, Form, compile_parts
from qin.train.imbalance import TrainingRows
from qin.train.losses import forward_ensemble, weighted_logistic_loss
from qin.train.mining import HardNegatives, mined_loss, selection_generator
from qin.train.optimizers import Optimizers, clip_grad_norm
from qin.train.recorded import RecordedStep, Step, record_on_gpu

_READ_EVERY = 50  # steps, on a GPU


class TrainingStep:
    """Moves the weights by one batch.

    On a CPU the loss is known before the optimizer moves anything. A GPU is given step after step without waiting for
    one: its losses are read every 50 steps, and a run that has become infinite meanwhile ends then. Several processes
    wait in each step, and so does the selection of hard negatives, whose number depends on the batch.

    Args:
        model: Network to train, in place.
        optimizer: Of its parameters.
        rows: What the batches' rows weigh, and the processes that share them.
        params: Section train.
        hard_negatives: Mining inside each batch, or None.
        average: Follows the model, or None.
        form: See `choose_form`. A step is recorded only where none of its shapes depends on the rows and nothing in it
            waits: in one process, without hard negatives, on a table whose gradient is dense.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | Optimizers,
        rows: TrainingRows,
        params: TrainParams,
        hard_negatives: HardNegatives | None,
        average: AveragedModel | None = None,
        form: Form = EAGER,
    ) -> None:
        self._model, self._optimizer, self._rows, self._params = model, optimizer, rows, params
        self._hard_negatives, self._average, self._ranks = hard_negatives, average, rows.ranks
        self._sum_gradients = GradientSum(model, rows.ranks)
        self._divided = divided_parameters(model)
        self._device = next(model.parameters()).device
        self._figures = StepFigures(self._device)
        self._found: tuple[float, float, float] | None = None
        self._number = 0
        self.grad_norm: torch.Tensor | None = None
        self._move = self._in_form(form)

    def __call__(self, batch: Batch, *, number: int) -> None:
        """Make a step.

        Args:
            batch: With labels.
            number: Of the step, over all epochs.

        Raises:
            TrainingError: On a CPU, if the loss is not finite; nothing has been moved then.
        """
        self._number = number
        # Here, as a step that is replayed runs no Python below.
        self._figures.count(number)
        # Dropout depends on the step, so that there is no state to save; the CPU's generator gives all keys.
        torch.default_generator.manual_seed(step_seed(self._params.seed, number))
        self._move(batch)
        if self._average is not None:
            with one_thread():  # vector registers round otherwise than the rest of a thread's share
                self._average.update_parameters(self._model)

    @property
    def is_read_due(self) -> bool:
        """Whether so many steps were made that their figures should be read."""
        return self._reads_each_step or self._figures.num_steps >= _READ_EVERY

    def read(self) -> tuple[float, float, float]:
        """Sums of losses and weights of the steps since the last read, and the last loss; see `StepFigures.read`."""
        found = self._found or self._figures.read()
        self._found = None
        return found

    @property
    def _reads_each_step(self) -> bool:
        return has_kernels(next(self._model.parameters()))

    def _in_form(self, form: Form) -> Step:
        if form == EAGER:
            return self._plain
        if form.compiled:
            for network in (module for module in self._model.modules() if isinstance(module, QIN)):
                compile_parts(network)
        tables, _ = sparse_tables(self._model)
        can_be_recorded = self._ranks.world == 1 and self._hard_negatives is None and not tables
        if not form.compiled and not (form.recorded and can_be_recorded):
            return self._plain
        record = record_on_gpu if form.recorded and can_be_recorded else None
        return RecordedStep(self._plain, self._device, record=record)

    def _plain(self, batch: Batch) -> None:
        assert batch.label is not None
        weight = self._rows.weights(batch.label)
        loss = self._loss(batch, weight)
        # Not to zero: the optimizer leaves alone what has no gradient, where a zero would let momentum move it.
        self._optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # or this process has none of a short batch's rows
            loss.backward()  # type: ignore[no-untyped-call]
        with one_thread():
            figures = torch.stack((loss.detach(), weight.sum().to(loss.dtype)))
        value, total_weight = self._sum_gradients(figures)
        self._figures.add(value, total_weight, batch_weight=self._rows.batch_weight)
        if self._reads_each_step:
            self._found = self._figures.read()  # of the sum over processes, so that all stop
        if self._params.gradient_clip is not None:
            # After the sum over processes: the norm is that of the whole batch, however it was divided.
            self.grad_norm = clip_grad_norm(
                self._model.parameters(),
                max_norm=self._params.gradient_clip,
                divided=self._divided,
                ranks=self._ranks,
            )
        self._optimizer.step()

    def _loss(self, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        mining, denominator = self._hard_negatives, self._rows.batch_weight
        if mining is not None and self._number >= mining.warmup_steps:
            return mined_loss(
                self._model,
                batch,
                sample_weight=weight,
                denominator=denominator,
                hard_negatives=mining,
                self_ensemble=self._params.self_ensemble,
                generator=selection_generator(self._params.seed, step=self._number),
                ranks=self._ranks,
            )
        assert batch.label is not None
        logit, extra = forward_ensemble(self._model, batch, strength=self._params.self_ensemble)
        return weighted_logistic_loss(
            logit, batch.label, sample_weight=weight, denominator=denominator, extra_loss=extra
        )


def step_seed(seed: int, step: int) -> int:
    """Seed of the dropout of a step."""
    # 63 bits, which mean the same to whoever reads a seed with a sign.
    return int(np.random.SeedSequence((seed, step, Stream.STEP)).generate_state(1, np.uint64)[0] >> 1)
