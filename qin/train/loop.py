"""The training loop: weighted steps over shuffled batches, validation after each epoch, early stopping, resume."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qin.errors import TrainingError
from qin.network.qin import QIN
from qin.network.threads import one_thread
from qin.runtime.progress import Progress, log
from qin.runtime.seeds import Stream
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows
from qin.train.losses import forward_ensemble, weighted_logistic_loss
from qin.train.mining import HardNegatives, mined_loss, selection_generator
from qin.train.optimizers import Optimizers, clip_grad_norm

_PLATEAU_FACTOR = 0.5
_MAX_SAVE_SHARE = 0.02  # of the time, for checkpoints


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How `fit` trains; see params.yaml's `train` section."""

    seed: int
    epochs: int
    patience: int
    lr: float
    schedule: Literal["constant", "cosine", "plateau"]
    warmup_steps: int
    gradient_clip: float | None
    ema_decay: float | None
    self_ensemble: float
    checkpoint_seconds: float
    checkpoint_steps: int | None


@dataclass(frozen=True, kw_only=True)
class ValidationScores:
    """Figures of the validation fold after an epoch, on the original distribution."""

    log_loss: float
    ap: float
    auc: float


@dataclass
class FitState:
    """All that a resumed run needs besides model and optimizer; plain values, so that a checkpoint holds no code."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    plateau_scale: float = 1.0
    best_epoch: int = -1
    best_ap: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """Outcome of `fit`; the model holds the best epoch's weights."""

    best_epoch: int
    num_steps: int
    history: list[dict[str, float]]


class Fit:
    """One training run.

    Args:
        model: Network to train, in place.
        optimizer: Of the model's parameters.
        rows: What each epoch trains on.
        settings: How.
        hard_negatives: Mining inside each batch, or None.
        validate: Scores the model on the validation fold.
        checkpoints: Where to keep the newest state; an existing one is resumed.
        on_epoch: Called with the history after each epoch.
    """

    def __init__(
        self,
        model: QIN,
        *,
        optimizer: torch.optim.Optimizer | Optimizers,
        rows: TrainingRows,
        settings: FitSettings,
        hard_negatives: HardNegatives | None,
        validate: Callable[[QIN], ValidationScores],
        checkpoints: CheckpointStore,
        on_epoch: Callable[[list[dict[str, float]]], None],
    ) -> None:
        self._model, self._optimizer, self._rows, self._settings = model, optimizer, rows, settings
        self._hard_negatives, self._validate = hard_negatives, validate
        self._checkpoints, self._on_epoch = checkpoints, on_epoch
        self._state = FitState()
        self._average = None if settings.ema_decay is None else moving_average(model, decay=settings.ema_decay)
        self._best: dict[str, torch.Tensor] = {}
        self._save_interval = settings.checkpoint_seconds
        self._last_save, self._last_saved_step = time.monotonic(), 0

    def run(self) -> FitResult:
        """Train to the end or to early stopping and load the best weights.

        Raises:
            TrainingError: If the loss is not finite.
            ArtifactError: If the checkpoint is damaged.
        """
        self._resume()
        state, settings = self._state, self._settings
        while state.epoch < settings.epochs and state.epoch - 1 - state.best_epoch < settings.patience:
            self._train_epoch()
            self._end_epoch()
        self._model.load_state_dict(self._best)
        return FitResult(state.best_epoch, state.step, state.history)

    @property
    def _evaluated(self) -> QIN:
        """The model that validation judges and whose best weights are kept."""
        if self._average is None:
            return self._model
        assert isinstance(self._average.module, QIN)
        return self._average.module

    def _train_epoch(self) -> None:
        state = self._state
        selection = self._rows.selection(state.epoch)
        num_steps = self._rows.loader.num_batches(selection)
        if num_steps == 0:
            raise TrainingError("the train fold has no rows to train on")
        label = f"epoch {state.epoch + 1}/{self._settings.epochs}"
        batches = self._rows.loader.epoch(state.epoch, selection, first_step=state.step_in_epoch)
        self._model.train()
        with Progress(num_steps * self._rows.loader.batch_size, label=label) as progress:
            progress.advance(state.step_in_epoch * self._rows.loader.batch_size)
            for batch in batches:
                self._set_learning_rate(num_steps)
                loss = self._train_step(batch)
                progress.advance(batch.rows.size, note=f"loss {loss:.4f}")
                self._save_if_due()

    def _train_step(self, batch: Batch) -> float:
        state = self._state
        torch.manual_seed(_step_seed(self._settings.seed, state.step))  # dropout depends on the step: nothing to save
        assert batch.label is not None
        weight = self._rows.weights(batch.label)
        loss = self._loss(batch, weight)
        value = loss.item()
        self._check_finite(value)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._settings.gradient_clip is not None:
            clip_grad_norm(self._model.parameters(), max_norm=self._settings.gradient_clip)
        self._optimizer.step()
        if self._average is not None:
            with one_thread():  # vector registers round otherwise than the rest of a thread's share
                self._average.update_parameters(self._model)
        # What is reported is the mean loss of the epoch's rows, over the weight that they turned out to have.
        state.loss_sum += value * self._rows.batch_weight
        with one_thread():
            state.weight_sum += float(weight.sum())
        state.step += 1
        state.step_in_epoch += 1
        return value

    def _loss(self, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        mining, step, denominator = self._hard_negatives, self._state.step, self._rows.batch_weight
        if mining is not None and step >= mining.warmup_steps:
            return mined_loss(
                self._model,
                batch,
                sample_weight=weight,
                denominator=denominator,
                hard_negatives=mining,
                self_ensemble=self._settings.self_ensemble,
                generator=selection_generator(self._settings.seed, step=step, rank=0),
            )
        assert batch.label is not None
        logit, extra = forward_ensemble(self._model, batch, strength=self._settings.self_ensemble)
        return weighted_logistic_loss(
            logit, batch.label, sample_weight=weight, denominator=denominator, extra_loss=extra
        )

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {self._state.step}; lower train.lr or train.gradient_clip")

    def _end_epoch(self) -> None:
        state = self._state
        model = self._evaluated
        scores = self._validate(model)
        record = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / state.weight_sum,
            "val_log_loss": scores.log_loss,
            "val_ap": scores.ap,
            "val_auc": scores.auc,
            "lr": self._optimizer.param_groups[0]["lr"],
        }
        log.info(
            "epoch %(epoch)d: train loss %(train_loss).5f, validation log loss %(val_log_loss).5f, "
            "AP %(val_ap).5f, AUC %(val_auc).5f",
            record,
        )
        state.history.append(record)
        if scores.ap > state.best_ap:
            state.best_ap, state.best_epoch = scores.ap, state.epoch
            self._keep_as_best(model)
        elif self._settings.schedule == "plateau":
            state.plateau_scale *= _PLATEAU_FACTOR
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        state.loss_sum = state.weight_sum = 0.0
        self._on_epoch(state.history)
        self._save_if_due()

    def _keep_as_best(self, model: QIN) -> None:
        """Copy the weights in place: a second copy of a large table would not fit."""
        state = model.state_dict()
        if not self._best:
            self._best = {name: torch.empty_like(value) for name, value in state.items()}
        for name, value in state.items():
            self._best[name].copy_(value)

    def _set_learning_rate(self, num_steps: int) -> None:
        state, settings = self._state, self._settings
        done = (state.epoch + state.step_in_epoch / num_steps) / settings.epochs
        scale = {
            "constant": 1.0,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
            "plateau": state.plateau_scale,
        }[settings.schedule]
        warmup = min(1.0, (state.step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = settings.lr * scale * warmup

    def _save_if_due(self) -> None:
        every = self._settings.checkpoint_steps
        is_due = every is not None and self._state.step - self._last_saved_step >= every
        if is_due or time.monotonic() - self._last_save >= self._save_interval:
            self._save()

    def _save(self) -> None:
        started = time.monotonic()
        self._checkpoints.save(
            {
                "state": asdict(self._state),
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "average": None if self._average is None else self._average.state_dict(),
                "best": self._best,
            },
            step=self._state.step,
        )
        self._last_save, self._last_saved_step = time.monotonic(), self._state.step
        self._save_interval = save_interval(self._settings.checkpoint_seconds, self._last_save - started)

    def _resume(self) -> None:
        saved = self._checkpoints.load()
        if saved is None:
            return
        self._state = FitState(**saved["state"])
        self._model.load_state_dict(saved.pop("model"))
        self._optimizer.load_state_dict(saved.pop("optimizer"))
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self._best, self._last_saved_step = saved["best"], self._state.step
        self._on_epoch(self._state.history)
        log.info("resuming at epoch %d, step %d", self._state.epoch + 1, self._state.step)


def save_interval(checkpoint_seconds: float, save_seconds: float) -> float:
    """Seconds between checkpoints: as set, but longer where a save takes so long that they would cost too much."""
    return max(checkpoint_seconds, save_seconds / _MAX_SAVE_SHARE) if checkpoint_seconds else 0.0


def moving_average(model: QIN, *, decay: float) -> AveragedModel:
    """A copy of the model that follows it as an exponential moving average of weights and buffers.

    Source: Polyak and Juditsky (1992); exponential form as in PyTorch's `swa_utils`. Every step passes over all
    weights, tables included.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step, Stream.STEP)).generate_state(1, np.uint64)[0] >> 1)
