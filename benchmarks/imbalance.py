"""Ways to deal with rare clicks: cost of a step, noise and bias of its gradient, and models trained for the same time.

    python -m qin.sample --rows 100000 --seed 0 --out folder
    python -m benchmarks.imbalance --data folder --out benchmarks/results/imbalance.json

The model is that of the profile after one epoch on all rows. Time is CPU time on one thread, which other work on the
machine disturbs least; steps of the variants take turns, and figures are medians. The loader's share is an epoch of
reading over its steps. Gradients are those of a copy without dropout, around the gradient of the train fold's loss:
`variance` is the trace of their covariance, `bias` the distance of their mean in lengths of the full gradient, and
`bias_resolution` the distance that so many draws without bias have. Averaged over a given time, an estimate has a
variance proportional to `variance * seconds_per_step`; both are given relative to all rows. Trained models get as many
epochs as fit into the time of the profile's on all rows, and keep the best state of the validation fold's selection
half; their figures are those of the report half. Batch size and rate are those that the profile has for all rows.
"""

import copy
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.fitting import PreparedLog, fit_network, open_log
from benchmarks.machine import describe, report
from benchmarks.profile import changed, prepare
from qin.config import Params, load_params
from qin.model.build import build_model, unfitted
from qin.network.qin import QIN
from qin.network.threads import fix_threads
from qin.shards.files import RowReader, read_labels
from qin.shards.folds import TRAIN, Folds
from qin.shards.loader import Batch, iterate_in_order
from qin.train.build import build_hard_negatives, build_loader, build_optimizer
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows, num_drawn_rows, training_prior
from qin.train.loop import Budget, TrainingLoop
from qin.train.losses import weighted_logistic_loss
from qin.train.mining import HardNegatives, mined_loss, selection_generator
from qin.train.pace import Pace, choose_pace
from qin.train.watch import Watch

ALL_ROWS, UNWEIGHTED = "all rows", "downsampling 0.1, weight 1"
_DOWNSAMPLING = {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 0.1}

VARIANTS: dict[str, dict[str, Any]] = {
    ALL_ROWS: {},
    "downsampling 0.1": _DOWNSAMPLING,
    UNWEIGHTED: {**_DOWNSAMPLING, "imbalance.reweight_negatives": False},
    "goss, one pass": {"hnm.enable": True, "hnm.mode": "goss", "hnm.forward": "one_pass"},
    "goss, two passes": {"hnm.enable": True, "hnm.mode": "goss", "hnm.forward": "two_pass"},
    "pps, one pass": {"hnm.enable": True, "hnm.mode": "pps", "hnm.forward": "one_pass"},
    "pps, two passes": {"hnm.enable": True, "hnm.mode": "pps", "hnm.forward": "two_pass"},
    "ohem, two passes": {"hnm.enable": True, "hnm.mode": "ohem", "hnm.forward": "two_pass"},
}
_DROPOUTS = ("dropout", "row_dropout", "embedding_dropout", "field_dropout")


class Variant:
    """One way to train, ready for single steps.

    Args:
        params: Its settings.
        reader: Prepared train file.
        fold: Fold of each row.
        network: Trained, on the CPU; not changed.
    """

    def __init__(self, params: Params, reader: RowReader, fold: Folds, network: QIN) -> None:
        knobs, label, is_train = params.train, read_labels(reader), fold == TRAIN
        prior, pace = training_prior(params.imbalance, label[is_train]), pace_of(params, reader, fold)
        loader = build_loader(reader, knobs, torch.device("cpu"), batch_size=pace.batch_size)
        self.rows = TrainingRows(loader, is_train, label, prior, knobs.seed)
        self.hard_negatives: HardNegatives | None = build_hard_negatives(
            params.hnm, network, batch_size=pace.batch_size, positive_share=self.rows.positive_share
        )
        self._network, self._knobs = copy.deepcopy(network), knobs
        self._optimizer = build_optimizer(self._network, knobs, lr=pace.lr)

    def time_steps(self, num_steps: int) -> list[float]:
        """CPU seconds of so many steps of the training loop, after one that allocates; the loader's left out."""
        num_made = num_steps + 2  # the last one's end is not seen by the source of its batch
        turn = _Turn(self.rows, num_made)
        TrainingLoop(
            self._network,
            optimizer=self._optimizer,
            rows=replace(self.rows, loader=turn),
            params=self._knobs.model_copy(update={"checkpoint_seconds": math.inf}),
            hard_negatives=self.hard_negatives,
            stop=Budget(num_steps=num_made),
            checkpoints=CheckpointStore(Path("none"), "none"),  # no step is due
            watch=Watch(),
        ).run()
        return turn.seconds[1:]

    @property
    def num_steps(self) -> int:
        """Steps of the first epoch."""
        return self.rows.loader.num_batches(self.rows.selection(0))

    def loader_seconds(self) -> float:
        """CPU seconds per step of an epoch that is only read."""
        selection = self.rows.selection(0)
        started = time.process_time()
        num_steps = sum(1 for _ in self.rows.loader.epoch(0, selection))
        return (time.process_time() - started) / num_steps

    def gradient(self, network: QIN, draw: int) -> torch.Tensor:
        """The gradient of a step on the first batch of an epoch, `(num_parameters,)`."""
        batch = next(self.rows.loader.epoch(draw, self.rows.selection(draw)))
        assert batch.label is not None
        weight = self.rows.weights(batch.label)
        if self.hard_negatives is None:
            return _gradient(network, _loss(network, batch, weight, self.rows.batch_weight))
        generator = selection_generator(self._knobs.seed, step=draw)
        loss = mined_loss(
            network,
            batch,
            sample_weight=weight,
            denominator=self.rows.batch_weight,
            hard_negatives=self.hard_negatives,
            generator=generator,
        )
        return _gradient(network, loss)


class _Turn:
    """A `BatchSource` of one short epoch that times what is done with each batch."""

    def __init__(self, rows: TrainingRows, num_steps: int) -> None:
        self.batch_size, self.seconds = rows.loader.batch_size, list[float]()
        self._rows, self._num_steps = rows, num_steps

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Steps of the turn."""
        return min(self._num_steps, is_selected.size)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches."""
        assert (epoch, first_step, bool(is_selected.any())) == (0, 0, True), "a turn is the start of a new run"
        for batch in islice(_endless(self._rows), self._num_steps):
            started = time.process_time()
            yield batch
            self.seconds.append(time.process_time() - started)


class Moments:
    """Mean and variance of vectors around a known center, without keeping them.

    Args:
        center: What the vectors should be on average, `(n,)`.
    """

    def __init__(self, center: torch.Tensor) -> None:
        self._center, self._sum = center, torch.zeros_like(center, dtype=torch.float64)
        self._squares, self._count = 0.0, 0

    def add(self, vector: torch.Tensor) -> None:
        """Count one more vector, `(n,)`."""
        difference = (vector - self._center).double()
        self._sum += difference
        self._squares += float(difference.square().sum())
        self._count += 1

    @property
    def variance(self) -> float:
        """Trace of the covariance."""
        return (self._squares - float(self._sum.square().sum()) / self._count) / (self._count - 1)

    @property
    def squared_bias(self) -> float:
        """Squared distance of the mean from the center, unbiased; it may be negative."""
        return float((self._sum / self._count).square().sum()) - self.variance / self._count


def gradient_figures(variants: Mapping[str, Variant], network: QIN, full: torch.Tensor, *, draws: int) -> Any:
    """Variance and bias of each variant's gradient around the full one; bias relative to its length.

    Args:
        variants: What to measure.
        network: Without dropout.
        full: Gradient of the train fold's loss, `(num_parameters,)`.
        draws: Batches of each variant.
    """
    network.train()
    moments = {name: Moments(full) for name in variants}
    for draw in range(draws):
        for name, variant in variants.items():
            moments[name].add(variant.gradient(network, draw))
    length = float(full.double().norm())
    return {
        name: {
            "variance": one.variance,
            "bias": math.sqrt(max(one.squared_bias, 0.0)) / length,
            "bias_resolution": math.sqrt(one.variance / draws) / length,
        }
        for name, one in moments.items()
    }


def full_gradient(network: QIN, reader: RowReader, fold: Folds, *, batch_size: int) -> torch.Tensor:
    """The gradient of the train fold's mean loss, `(num_parameters,)`."""
    is_train = fold == TRAIN
    total = torch.zeros(sum(parameter.numel() for parameter in network.parameters()), dtype=torch.float64)
    for batch in iterate_in_order(reader, is_selected=is_train, batch_size=batch_size):
        total += _gradient(network, _loss(network, batch, torch.ones(batch.rows.size), float(is_train.sum())))
    return total.float()


def time_figures(variants: Mapping[str, Variant], *, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Median CPU seconds of a step and of its share of the loader, the variants taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    loader: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name] += variant.time_steps(steps)
            loader[name].append(variant.loader_seconds())
    return {
        name: {
            "seconds_per_step": median(seconds[name]) + median(loader[name]),
            "loader_seconds_per_step": median(loader[name]),
        }
        for name in variants
    }


def _relative(figures: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """The figures with their variance relative to that of all rows, whose own come first."""
    variance = figures["variance"] / reference.get("variance", figures["variance"])
    seconds = figures["seconds_per_step"] / reference["seconds_per_step"]
    return {**figures, "relative_variance": variance, "relative_variance_at_equal_time": variance * seconds}


def _gradient(network: QIN, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(network.parameters()))])


def _loss(network: QIN, batch: Batch, weight: torch.Tensor, denominator: float) -> torch.Tensor:
    assert batch.label is not None
    logit = network(batch.categorical, batch.numeric, batch.sequences)
    return weighted_logistic_loss(logit, batch.label, sample_weight=weight, denominator=denominator)


def _endless(rows: TrainingRows) -> Iterator[Batch]:
    for epoch in count():
        yield from rows.loader.epoch(epoch, rows.selection(epoch))


def _without_dropout(network: QIN, params: Params, reader: RowReader) -> QIN:
    """A copy whose gradient is no random number."""
    sizes = params.model.network.model_copy(update=dict.fromkeys(_DROPOUTS, 0.0))
    silent = build_model(reader.schema, sizes, unfitted(reader.schema, sizes), seed=0)
    silent.load_state_dict(network.state_dict())
    return silent


def pace_of(params: Params, reader: RowReader, fold: Folds) -> Pace:
    """Batch size and rate of a run on the train fold."""
    label = read_labels(reader)[fold == TRAIN]
    return choose_pace(params.train, num_rows=num_drawn_rows(label, training_prior(params.imbalance, label)))


def trained_figures(
    settings: Mapping[str, Params], cost: Mapping[str, float], log: PreparedLog, folder: Path
) -> dict[str, Any]:
    """Figures of each variant, trained for as many epochs as all rows' time allows.

    Args:
        settings: Of each variant.
        cost: Seconds per epoch of each.
        log: The log.
        folder: For checkpoints.
    """
    results = {}
    for name, params in settings.items():
        epochs = max(1, round(params.train.epochs * cost[ALL_ROWS] / cost[name]))
        patience = epochs * params.train.checks_per_epoch  # the time is the same for all, whatever the checks find
        one = changed(params, {"train.epochs": epochs, "train.patience": patience}, params.train.seed)
        started = time.process_time()
        figures = fit_network(one, log, folder)[1]
        results[name] = {**figures, "num_epochs": epochs, "cpu_seconds": time.process_time() - started}
        typer.echo(f"{name}: {results[name]}", err=True)
    return results


def main(
    data: Annotated[Path, typer.Option(help="Folder with the three files.")],
    params: Annotated[Path, typer.Option(help="Profile.")] = Path("params.yaml"),
    draws: Annotated[int, typer.Option(help="Gradients of each variant.", min=2)] = 100,
    rounds: Annotated[int, typer.Option(help="Turns of each variant.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Timed steps of a turn.", min=1)] = 4,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Measure every variant and print the figures as JSON."""
    base = load_params(params)
    base = changed(base, {"train.device": "cpu", "train.num_threads": 1}, base.train.seed)
    fix_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, params, data)
        log = open_log(folder, base)
        rows, fold = log.rows, log.fold
        pace = pace_of(base, rows, fold)
        base = changed(base, {"train.batch_size": pace.batch_size}, base.train.seed)
        settings = {name: changed(base, changes, base.train.seed) for name, changes in VARIANTS.items()}
        network = fit_network(changed(base, {"train.epochs": 1}, base.train.seed), log, folder)[0]
        variants = {name: Variant(one, rows, fold, network) for name, one in settings.items()}
        figures = time_figures(variants, rounds=rounds, steps=steps)
        cost = {name: figures[name]["seconds_per_step"] * variants[name].num_steps for name in variants}
        silent = _without_dropout(network, base, rows)
        full = full_gradient(silent, rows, fold, batch_size=pace.batch_size)
        compared = {name: one for name, one in variants.items() if name != UNWEIGHTED}  # it has another loss
        for name, values in gradient_figures(compared, silent, full, draws=draws).items():
            figures[name] |= _relative(figures[name] | values, figures[ALL_ROWS])
        chosen = {name: one for name, one in settings.items() if "one pass" not in name}
        trained = trained_figures(chosen, cost, log, folder)
    knobs = {"draws": draws, "rounds": rounds, "steps": steps, "batch_size": pace.batch_size}
    report({"machine": describe(), **knobs, "variants": figures, "trained": trained}, out)


if __name__ == "__main__":
    typer.run(main)
