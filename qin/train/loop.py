"""The training loop: weighted steps over shuffled batches, checks several times an epoch, early stopping, resume."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from qin.config import TrainParams
from qin.runtime.errors import TrainingError
from qin.runtime.progress import Progress, log
from qin.shards.loader import Batch
from qin.train.average import moving_average
from qin.train.checkpoint import CheckpointStore
from qin.train.divided import DividedTables
from qin.train.figures import HINT_DIVERGED
from qin.train.forms import choose_form
from qin.train.imbalance import TrainingRows
from qin.train.mining import HardNegatives
from qin.train.optimizers import Optimizers, load_optimizer, set_learning_rate
from qin.train.step import TrainingStep
from qin.train.watch import Watch

_PLATEAU_FACTOR = 0.5
_MAX_WARMUP_EPOCHS = 0.25
_MAX_SAVE_SHARE = 0.02  # of the time, for checkpoints


@dataclass(frozen=True, kw_only=True)
class ValidationScores:
    """Figures of the selection half of the validation fold at a check, on the original distribution."""

    log_loss: float
    ap: float
    auc: float


@dataclass
class LoopState:
    """All that a resumed run needs besides model and optimizer; plain values, so that a checkpoint holds no code."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    checks_without_gain: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    plateau_steps: list[int] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    processes: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class LoopResult:
    """Outcome of a run; the model holds the best check's weights, or without checks the last step's.

    Attributes:
        best_step: Steps of the model's weights.
        num_steps: Steps made in all.
        history: One record per check.
        plateau_steps: Steps at which the rate was halved.
        processes: Steps from which on a number of processes computed, and that number.
    """

    best_step: int
    num_steps: int
    history: list[dict[str, float]]
    plateau_steps: tuple[int, ...]
    processes: tuple[tuple[int, int], ...] = ((0, 1),)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a run without checks ends, and where its rate falls: what another run on fewer rows has found.

    Attributes:
        num_steps: Steps to make.
        plateau_steps: Steps at which the rate is halved.
    """

    num_steps: int
    plateau_steps: tuple[int, ...] = ()


class TrainingLoop:
    """One training run: either checked several times an epoch and stopped by what it finds, or of a fixed length.

    1. An existing checkpoint is loaded; what follows is then the rest of the same run, to the byte.
    2. Each epoch's rows are drawn, shuffled and cut into batches; a step descends the weighted loss of one.
    3. `checks_per_epoch` times an epoch the model is scored on rows that it is not trained on. The best state is kept.
    4. After `patience` checks without a smaller loss, or after `epochs`, the best state is loaded.

    With a budget there are no checks, and the last state is the result.

    Args:
        model: Network to train, in place.
        optimizer: Of the model's parameters, at the rate that the schedule scales.
        rows: What each epoch trains on, in every process its part; each has a replica, the first keeps checkpoints.
        params: Section train.
        hard_negatives: Mining inside each batch, or None.
        stop: Scores the model on the rows that decide when to stop, or a budget.
        checkpoints: Where to keep the newest state; an existing one is resumed.
        watch: Who is told of steps and checks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | Optimizers,
        rows: TrainingRows,
        params: TrainParams,
        hard_negatives: HardNegatives | None,
        stop: Callable[[Any], ValidationScores] | Budget,
        checkpoints: CheckpointStore,
        watch: Watch,
    ) -> None:
        self._ranks = rows.ranks
        self._model, self._optimizer, self._rows, self._params = model, optimizer, rows, params
        self._budget = stop if isinstance(stop, Budget) else None
        self._validate = None if isinstance(stop, Budget) else stop
        self._checkpoints, self._watch = checkpoints, watch
        self._divided = DividedTables(model, rows.ranks, checkpoints)
        self._num_rows_seen, self._last_loss = 0, math.nan
        # At its full height, before a checkpoint brings the scaled one; groups differ in their decay alone.
        self._lr = self._rate = float(optimizer.param_groups[0]["lr"])
        self._state = LoopState()
        if self._budget is not None:
            self._state.plateau_steps = list(self._budget.plateau_steps)
        self._average = None if params.ema_decay is None else moving_average(model, decay=params.ema_decay)
        self._best: dict[str, torch.Tensor] = {}
        self._step = TrainingStep(
            model,
            optimizer=optimizer,
            rows=rows,
            params=params,
            hard_negatives=hard_negatives,
            average=self._average,
            form=choose_form(next(model.parameters()).device),
        )
        self._save_interval = params.checkpoint_seconds
        self._last_save, self._last_saved_step = time.monotonic(), 0

    def run(self) -> LoopResult:
        """Train to the end and load the weights to keep.

        Raises:
            TrainingError: If the loss is not finite, or at the end of a budget the weights are not.
            ArtifactError: If the checkpoint is damaged.
        """
        self._resume()
        state = self._state
        if not state.processes or state.processes[-1][1] != self._ranks.world:
            state.processes.append([state.step, self._ranks.world])
        while not self._is_over:
            self._train_epoch()
        self._read_figures()
        if self._budget is None:
            self._model.load_state_dict(self._best)
        else:
            # The best check's weights would be the average's already; the last step's are not.
            if self._average is not None:
                self._model.load_state_dict(self._evaluated.state_dict())
            self._check_weights()
        best_step = state.step if self._budget is not None else state.best_step
        processes = tuple((step, number) for step, number in state.processes)
        return LoopResult(best_step, state.step, state.history, tuple(state.plateau_steps), processes)

    def save(self) -> None:
        """Write a checkpoint now, so that a run that has ended is not made again when what follows it is killed."""
        if self._last_saved_step != self._state.step:
            self._save()

    @property
    def _is_over(self) -> bool:
        if self._budget is not None:
            return self._state.step >= self._budget.num_steps
        return self._state.epoch >= self._params.epochs or self._state.checks_without_gain >= self._params.patience

    @property
    def _evaluated(self) -> nn.Module:
        """The model that checks judge and whose best weights are kept."""
        if self._average is None:
            return self._model
        return self._average.module

    def _train_epoch(self) -> None:
        """Train from where the epoch stands to its end, or to the end of the run."""
        state = self._state
        selection = self._rows.selection(state.epoch)
        num_steps = self._rows.loader.num_batches(selection)
        if num_steps == 0:
            raise TrainingError("the train fold has no rows to train on")
        checks = self._checks(num_steps)
        label = f"epoch {state.epoch + 1}/{self._params.epochs}" if self._budget is None else "training on all rows"
        batches = self._rows.loader.epoch(state.epoch, selection, first_step=state.step_in_epoch)
        self._model.train()
        num_rows = min(self._rows.loader.batch_size, int(np.count_nonzero(selection)))  # of all processes
        with Progress(num_steps * self._rows.loader.batch_size, label=label) as progress:
            progress.advance(state.step_in_epoch * self._rows.loader.batch_size)
            for batch in batches:
                self._set_learning_rate(num_steps)
                self._train_step(batch)
                progress.advance(num_rows, note=f"loss {self._last_loss:.4f}")
                self._tell_step(num_rows)
                # Before the save, or a run that is resumed at this step would never be checked there.
                if state.step_in_epoch in checks:
                    self._check(num_steps)
                if self._is_over:
                    break
                self._save_if_due()
        # By the count, as the loop also ends where the run is over in the middle of an epoch, or begins at the end of
        # one.
        if state.step_in_epoch == num_steps:
            state.epoch, state.step_in_epoch = state.epoch + 1, 0

    def _checks(self, num_steps: int) -> set[int]:
        """Steps of an epoch after which to check; the last one always."""
        if self._validate is None:
            return set()
        per_epoch = self._params.checks_per_epoch
        # Rounded up, so that the last is the epoch's end; in an epoch of fewer steps than checks some of them coincide.
        return {-(-number * num_steps // per_epoch) for number in range(1, per_epoch + 1)}

    def _train_step(self, batch: Batch) -> None:
        self._step(batch, number=self._state.step)
        self._state.step += 1
        self._state.step_in_epoch += 1
        if self._step.is_read_due:
            self._read_figures()

    def _read_figures(self) -> None:
        """Take over the sums of the steps since the last read; what a check reports is the mean since the last one."""
        loss_sum, weight_sum, self._last_loss = self._step.read()
        self._state.loss_sum += loss_sum
        self._state.weight_sum += weight_sum

    def _tell_step(self, num_rows: int) -> None:
        self._num_rows_seen += num_rows
        # Rarely, because a GPU is waited for.
        if self._watch.is_due(self._state.step):
            self._read_figures()
            norm = {} if self._step.grad_norm is None else {"grad_norm": self._step.grad_norm.item()}
            self._watch.on_step(
                self._state.step, {"loss": self._last_loss, "lr": self._rate, "rows": self._num_rows_seen, **norm}
            )

    def _check_weights(self) -> None:
        """The last step of a run that nothing judges may have overflowed."""
        is_finite = all(bool(parameter.isfinite().all()) for parameter in self._model.parameters())
        if not all(self._ranks.all_of(is_finite)):  # of divided tables one process alone may see it
            raise TrainingError(f"the weights are not finite after step {self._state.step}; {HINT_DIVERGED}")

    def _check(self, num_steps: int) -> None:
        """Score the model, keep it if it is the best so far."""
        assert self._validate is not None
        state, model = self._state, self._evaluated
        self._read_figures()
        found = self._validate(model)  # by every process from the same logits; yet the first alone decides
        scores = self._ranks.from_first(lambda: found)
        record = {
            "step": state.step,
            "epoch": state.epoch + state.step_in_epoch / num_steps,
            "train_loss": state.loss_sum / state.weight_sum,
            "val_log_loss": scores.log_loss,
            "val_ap": scores.ap,
            "val_auc": scores.auc,
            "lr": self._rate,
        }
        log.info(
            "step %(step)d, epoch %(epoch).2f: train loss %(train_loss).5f; selection half: "
            "log loss %(val_log_loss).5f, AP %(val_ap).5f, AUC %(val_auc).5f",
            record,
        )
        state.history.append(record)
        # Strictly smaller: a model that stands still has no gain, and comes to its end.
        if scores.log_loss < state.best_loss:
            state.best_loss, state.best_step, state.checks_without_gain = scores.log_loss, state.step, 0
            self._keep_as_best(model)
        else:
            state.checks_without_gain += 1
            if self._params.schedule == "plateau":
                state.plateau_steps.append(state.step)
        state.loss_sum = state.weight_sum = 0.0
        self._model.train()  # scoring has put it in evaluation mode
        self._watch.on_check(state.history)

    def _keep_as_best(self, model: nn.Module) -> None:
        """Copy the weights in place: a second copy of a large table would not fit."""
        state = model.state_dict()
        if not self._best:
            self._best = {name: torch.empty_like(value) for name, value in state.items()}
        for name, value in state.items():
            self._best[name].copy_(value)

    def _set_learning_rate(self, num_steps: int) -> None:
        """Set the rate of the next step; only the cosine depends on the last epoch that is allowed."""
        state, params = self._state, self._params
        # Cut at 1 below: a refit's number of steps is rounded, and may pass the last epoch by one.
        done = (state.epoch + state.step_in_epoch / num_steps) / params.epochs
        scale = {
            "constant": 1.0,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
            "plateau": _PLATEAU_FACTOR ** sum(step <= state.step for step in state.plateau_steps),
        }[params.schedule]
        # An epoch may be short (few rows, most negatives left out): warming up must not be all of it.
        warmup_steps = min(params.warmup_steps, num_steps * _MAX_WARMUP_EPOCHS)
        warmup = min(1.0, (state.step + 1) / warmup_steps) if warmup_steps else 1.0
        self._rate = self._lr * scale * warmup
        set_learning_rate(self._optimizer, self._rate)

    def _save_if_due(self) -> None:
        every = self._params.checkpoint_steps
        is_due = every is not None and self._state.step - self._last_saved_step >= every
        # Steps are the same in all processes, clocks are not: what `agreed` asks is asked by all of them or by none.
        if is_due or self._divided.agreed(time.monotonic() - self._last_save >= self._save_interval):
            self._save()

    def _save(self) -> None:
        if self._ranks.rank > 0 and not self._divided.parameters:
            return
        self._read_figures()  # nothing that follows a loss which is not finite is kept
        started = time.monotonic()
        state = self._divided.whole(
            {
                "state": asdict(self._state),
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "average": None if self._average is None else self._average.state_dict(),
                "best": self._best,
            }
        )
        if self._ranks.rank == 0:
            self._checkpoints.save(state, step=self._state.step)
        self._last_save, self._last_saved_step = time.monotonic(), self._state.step
        self._save_interval = save_interval(self._params.checkpoint_seconds, self._last_save - started)

    def _resume(self) -> None:
        saved = self._divided.load()
        if saved is None:
            return
        self._state = LoopState(**saved["state"])
        # Popped, so that each part is let go as soon as it is taken over: a large table would be there twice.
        self._model.load_state_dict(saved.pop("model"))
        load_optimizer(self._optimizer, saved.pop("optimizer"))
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self._best, self._last_saved_step = saved["best"], self._state.step
        # A listener that starts anew is told what was found before the run was ended.
        self._watch.on_check(self._state.history)
        log.info("resuming at epoch %d, step %d", self._state.epoch + 1, self._state.step)


def save_interval(checkpoint_seconds: float, save_seconds: float) -> float:
    """Seconds between checkpoints: as set, but longer where a save takes so long that they would cost too much."""
    return max(checkpoint_seconds, save_seconds / _MAX_SAVE_SHARE) if checkpoint_seconds else 0.0
