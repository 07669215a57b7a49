"""Training and scoring speed of the network, against QIN as published in the same process, and against the machine.

    python -m benchmarks.train_speed --out benchmarks/results/train_speed.json

The log is synthetic, in the reference shape. Ours is the train stage's loop, loader and scoring, with its settings; the
baseline is `benchmarks.published`. They take turns, and figures are medians over the blocks. Both have the published
dropout; ours also runs without, because then rows fold in training too, and with the variants of the profile. The
baseline computes in float32, ours in `train.precision`. Parts of a step include call overhead. Quickly:

    python -m benchmarks.train_speed --width 16 --layers 3 --rows 2 --blocks 1 --seconds 1

On a machine that does other work at the time, threads wait for each other and no wall time means anything;
`--device core` then gives figures of one core: rows per CPU second, on one thread, limits likewise.
"""

import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, repeat, zip_longest
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
import typer

from benchmarks.machine import describe, report
from benchmarks.profile import kuairand_params
from benchmarks.published import PublishedLoop, PublishedQIN, forward_flops, training_bytes
from benchmarks.reference_log import LABEL_RATE, MAX_LEN, write_log
from qin.config import Params
from qin.model.build import build_model, place, resolve_preset, resolve_sizes
from qin.model.scoring import score
from qin.network.qin import QIN
from qin.network.threads import fix_threads
from qin.runtime.host import TreeMemory
from qin.scored.prior import TrainingPrior
from qin.shards.files import ShardReader
from qin.shards.loader import Batch, BatchSource, iterate_in_order
from qin.train.build import build_loader, build_optimizer
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows
from qin.train.inputs import fit_inputs
from qin.train.loop import Budget, TrainingLoop
from qin.train.watch import Watch

DROPOUT = 0.1
_BUFFER_BATCHES = 4  # a buffer is read every few steps, so that each block pays for its share of the reading
_LOG_BATCHES, _WARM_UP_STEPS = 16, 2
_LIMIT_SIZE, _LIMIT_COPY = 4096, 1 << 26
_NATURAL = TrainingPrior(base_rate=LABEL_RATE)


@dataclass(frozen=True)
class Case:
    """One size of the network, and what it runs on."""

    folder: Path
    width: int
    num_layers: int
    num_rows: int
    batch_size: int
    clock: "Clock"


@dataclass(frozen=True)
class Clock:
    """Measures seconds once all that was given to the device is done; CPU seconds are those of one thread's work."""

    device: torch.device
    counts_cpu_time: bool = False

    @classmethod
    def of(cls, name: str) -> "Clock":
        """The clock of `cpu`, `cuda`, or `core`: one thread of the CPU, in CPU seconds."""
        return cls(torch.device("cpu"), counts_cpu_time=True) if name == "core" else cls(torch.device(name))

    def __call__(self) -> float:
        """Seconds since some moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.counts_cpu_time else time.perf_counter()


def machine_limits(clock: Clock) -> dict[str, float]:
    """The best that this machine does: large matrix products, and a large copy (bytes read plus bytes written)."""
    device = clock.device
    num_flops, limits = 2 * _LIMIT_SIZE**3, {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b, out = (torch.ones(_LIMIT_SIZE, _LIMIT_SIZE, dtype=dtype, device=device) for _ in range(3))
        seconds = _shortest(partial(torch.matmul, a, b, out=out), clock)
        limits[f"matmul_{str(dtype).removeprefix('torch.')}_flops_per_second"] = num_flops / seconds
    # matmul calls MKL, which takes half of an AMD processor's vector width; oneDNN takes all of it.
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        a, b = (torch.ones(_LIMIT_SIZE, _LIMIT_SIZE).to_mkldnn() for _ in range(2))
        limits["onednn_float32_flops_per_second"] = num_flops / _shortest(partial(F.linear, a, b), clock)
    source, target = torch.ones(2, _LIMIT_COPY, device=device)
    limits["copy_bytes_per_second"] = 2 * source.nbytes / _shortest(partial(target.copy_, source), clock)
    return limits


class Stopwatch:
    """Time between marks, summed by the name of the mark that ends it; a GPU's queue is drained at each."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: dict[str, float] = {}
        self._clock, self._last = clock, clock()

    def mark(self, name: str) -> None:
        """Count the time since the last mark to a part."""
        now = self._clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same endless batches, with a mark before and after each."""
        while True:
            self.mark("other")
            batch = next(batches)
            self.mark("loader")
            yield batch

    @contextmanager
    def attached(self, network: QIN, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Marks at the borders of the network's parts and of the optimizer's step."""
        (attention,) = network.attentions
        handles = [
            network.register_forward_pre_hook(self._hook("other")),
            attention.register_forward_pre_hook(self._hook("embedding")),
            attention.register_forward_hook(self._hook("attention")),
            network.network.register_forward_pre_hook(self._hook("numeric and concatenation")),
            network.network.register_forward_hook(self._hook("quadratic")),
            optimizer.register_step_pre_hook(self._hook("loss, backward and clipping")),
            optimizer.register_step_post_hook(self._hook("optimizer")),
        ]
        yield
        for handle in handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        return lambda *_: self.mark(name)


class Ours:
    """The train stage's loop and loader, and the library's scoring."""

    def __init__(self, case: Case, *, dropout: float | None) -> None:
        params, reader = _params(case, dropout=dropout), ShardReader(case.folder)
        self._reader, self._knobs, self._clock = reader, params.train, case.clock
        self._batch_size = case.batch_size
        self.network = place(_initial_network(params, reader), self._knobs)
        self._optimizer = build_optimizer(self.network, self._knobs, lr=self._knobs.lr)
        self._everything = np.ones(reader.num_rows, np.bool_)
        loader = build_loader(reader, self._knobs, case.clock.device, batch_size=case.batch_size)
        self._training = _endless(loader, self._everything)

    def train(self, seconds: float) -> float:
        """Train for at least so long and at least one step; return rows per second."""
        block = self._fit(self._training, seconds)
        return block.num_rows / block.seconds

    def score(self, seconds: float) -> float:
        """Score for at least so long and at least one batch; return rows per second."""
        fix_threads(self._knobs.num_threads)
        batches = _endless_in_order(self._reader, self._batch_size)
        steps = (batch.rows.size for batch, _ in score(self.network, batches))
        return _rate(steps, seconds=seconds, clock=self._clock)

    def time_parts(self, seconds: float) -> dict[str, float]:
        """Seconds per step of each part, in steps apart from those that `train` times."""
        stopwatch = Stopwatch(self._clock)
        assert isinstance(self._optimizer, torch.optim.Optimizer), "the log's tables are small"
        with stopwatch.attached(self.network, self._optimizer):
            block = self._fit(stopwatch.batches(self._training), seconds)
        num_steps = block.num_rows / block.batch_size
        return {name: total / num_steps for name, total in stopwatch.seconds.items()}

    def _fit(self, batches: Iterator[Batch], seconds: float) -> "_Block":
        fix_threads(self._knobs.num_threads)  # with deterministic kernels, as the stage has
        block = _Block(batches, batch_size=self._batch_size, seconds=seconds, clock=self._clock)
        label = np.zeros(self._everything.size, np.uint8)  # read only where negatives are downsampled
        with tempfile.TemporaryDirectory() as folder, suppress(_BlockOver):
            TrainingLoop(
                self.network,
                optimizer=self._optimizer,
                rows=TrainingRows(block, self._everything, label, _NATURAL, self._knobs.seed),
                params=self._knobs.model_copy(update={"checkpoint_seconds": math.inf}),
                hard_negatives=None,
                stop=Budget(num_steps=sys.maxsize),  # the block ends it
                checkpoints=CheckpointStore(Path(folder), "block"),
                watch=Watch(),
            ).run()
        return block


class Published:
    """The baseline, from the same initial weights."""

    def __init__(self, case: Case) -> None:
        params, reader = _params(case, dropout=DROPOUT), ShardReader(case.folder)
        self._knobs, self._clock = params.train, case.clock
        device = case.clock.device
        sizes = resolve_sizes(reader.schema, params.model.network)
        model = PublishedQIN(_initial_network(params, reader), sizes=sizes).to(device)
        loop = PublishedLoop(model, reader=reader, batch_size=case.batch_size, lr=self._knobs.lr, device=device)
        self._training, self._scoring = loop.train(), loop.score()

    def train(self, seconds: float) -> float:
        """As of `Ours`."""
        return self._run(self._training, seconds)

    def score(self, seconds: float) -> float:
        """As of `Ours`."""
        return self._run(self._scoring, seconds)

    def _run(self, steps: Iterator[int], seconds: float) -> float:
        torch.set_num_threads(self._knobs.num_threads)
        torch.set_deterministic_debug_mode("default")
        return _rate(steps, seconds=seconds, clock=self._clock)


class _BlockOver(Exception):  # noqa: N818  # nothing is wrong
    """The time of a block is over, in the middle of an epoch."""


class _Block:
    """A `BatchSource` that ends a run when the time of its block is over, and is measured."""

    def __init__(self, batches: Iterator[Batch], *, batch_size: int, seconds: float, clock: Clock) -> None:
        self.batch_size, self.num_rows, self.seconds = batch_size, 0, 0.0
        self._batches, self._limit, self._clock = batches, seconds, clock

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Of the whole log."""
        return is_selected.size // self.batch_size

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield batches until time is over: from the request of the first to the end of the last step."""
        assert (epoch, first_step, bool(is_selected.all())) == (0, 0, True), "a block is the start of a new run"
        started = self._clock()
        while not self.num_rows or self.seconds < self._limit:
            batch = next(self._batches)
            yield batch
            self.num_rows += batch.rows.size
            self.seconds = self._clock() - started
        raise _BlockOver


def _params(case: Case, *, dropout: float | None) -> Params:
    """The settings of the KuaiRand profile at the sizes of a case; the attention is twice as wide as its target.

    With a dropout, the published variants without batch norm; without one, the variants of the profile.
    """
    params = kuairand_params()
    model: dict[str, Any] = {"preset": "custom", "num_layers": case.num_layers, "num_rows": case.num_rows}
    model |= {"embedding_dim": case.width, "embedding_std": 0.01, "attention_dim": 2 * case.width}
    if dropout is not None:
        variants = resolve_preset(params.model.network.model_copy(update={"preset": "published"}))
        model = {**variants.model_dump(), **model, "norm": "none", "dropout": dropout, "row_dropout": dropout}
    train: dict[str, Any] = {"batch_size": case.batch_size, "buffer_rows": _BUFFER_BATCHES * case.batch_size}
    train |= {"device": case.clock.device.type, "ema_decay": None}
    train |= {"num_threads": 1} if case.clock.counts_cpu_time else {}
    sections = {"model": params.model.model_copy(update=model), "train": params.train.model_copy(update=train)}
    return params.model_copy(update=sections)


def _initial_network(params: Params, reader: ShardReader) -> QIN:
    sizes, seed = params.model.network, params.train.seed
    fitted = fit_inputs(reader, np.ones(reader.num_rows, np.bool_), sizes, seed=seed)
    network = build_model(reader.schema, sizes, fitted, seed=seed)
    network.set_base_rate(LABEL_RATE)
    return network


def _endless(loader: BatchSource, is_selected: npt.NDArray[np.bool_]) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch, is_selected)


def _endless_in_order(reader: ShardReader, batch_size: int) -> Iterator[Batch]:
    while True:
        yield from iterate_in_order(reader, is_selected=None, batch_size=batch_size)


def _rate(steps: Iterator[int], *, seconds: float, clock: Clock) -> float:
    """Rows per second of steps that do their work when asked for, and tell their rows."""
    started, num_rows, elapsed = clock(), 0, 0.0
    while not num_rows or elapsed < seconds:
        num_rows += next(steps)
        elapsed = clock() - started
    return num_rows / elapsed


def _shortest(work: Callable[[], object], clock: Clock) -> float:
    seconds = []
    for _ in range(5):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)


def peak_memory(case: Case, name: str) -> dict[str, int]:
    """Largest memory of this process while it trains one variant, `ours` or `published`.

    It is sampled: what the system itself keeps as a process's peak begins with what its parent held.
    """
    with TreeMemory(os.getpid()) as memory:
        variant = Ours(case, dropout=DROPOUT) if name == "ours" else Published(case)
        for _ in range(_WARM_UP_STEPS):
            variant.train(0.0)
    peak_device_bytes = torch.cuda.max_memory_allocated() if case.clock.device.type == "cuda" else 0
    return {"peak_memory_bytes": memory.peak_bytes, "peak_device_bytes": peak_device_bytes}


def _peaks(case: Case) -> dict[str, dict[str, int]]:
    """The peak memory of each variant in a process of its own; at once, because speed does not matter here."""
    names = ("ours", "published")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        return dict(zip(names, processes.map(peak_memory, repeat(case), names), strict=True))


def measure_case(case: Case, *, blocks: int, seconds: float, limits: dict[str, float]) -> dict[str, Any]:
    """All figures of one size of the network."""
    ours, no_dropout, published = Ours(case, dropout=DROPOUT), Ours(case, dropout=0.0), Published(case)
    profile = Ours(case, dropout=None)
    variants: dict[str, Ours | Published] = {"ours": ours, "ours_no_dropout": no_dropout, "profile": profile}
    variants["published"] = published
    training = _in_turns({name: one.train for name, one in variants.items()}, blocks=blocks, seconds=seconds)
    scoring = _in_turns({name: one.score for name, one in variants.items()}, blocks=blocks, seconds=seconds)
    network = ours.network
    return {
        "width": case.width,
        "layers": case.num_layers,
        "rows": case.num_rows,
        "dim": network.network.dim,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training_rows_per_second": training,
        "training_ratio": {name: rate / training["published"] for name, rate in training.items()},
        "scoring_rows_per_second": scoring,
        "scoring_ratio": {name: rate / scoring["published"] for name, rate in scoring.items()},
        "seconds_per_step": {"ours": ours.time_parts(seconds), "ours_no_dropout": no_dropout.time_parts(seconds)},
        "achieved": {
            "ours": _achieved(case, network, training["ours"], is_folded=False, limits=limits),
            "ours_no_dropout": _achieved(case, network, training["ours_no_dropout"], is_folded=True, limits=limits),
        },
        "memory": _peaks(case),
    }


def _in_turns(runs: Mapping[str, Callable[[float], float]], *, blocks: int, seconds: float) -> dict[str, float]:
    """Median rate of each over blocks that take turns, after a warm-up."""
    for run in runs.values():
        for _ in range(_WARM_UP_STEPS):
            run(0.0)
    rates = [{name: run(seconds) for name, run in runs.items()} for _ in range(blocks)]
    return {name: median(rate[name] for rate in rates) for name in runs}


def _achieved(case: Case, network: QIN, rate: float, *, is_folded: bool, limits: dict[str, float]) -> dict[str, float]:
    """Counted work per second of training at `rate` rows per second, and its share of the machine's limits."""
    batch, steps = case.batch_size, rate / case.batch_size
    flops = 3 * steps * forward_flops(network, batch=batch, seq=MAX_LEN, is_folded=is_folded)
    num_bytes = steps * training_bytes(network, batch=batch, seq=MAX_LEN, is_folded=is_folded)
    return {
        "flops_per_second": flops,
        "share_of_float32": flops / max(rate for name, rate in limits.items() if "_float32_" in name),
        "bytes_per_second": num_bytes,
        "share_of_copy": num_bytes / limits["copy_bytes_per_second"],
    }


def main(
    width: Annotated[list[int] | None, typer.Option(help="Embedding widths; 16 and 32 by default.")] = None,
    layers: Annotated[list[int] | None, typer.Option(help="Quadratic layers; 3 and 4 by default.")] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of each --layers; 2 and 4 by default.")] = None,
    batch: Annotated[int, typer.Option(help="Rows per batch.", min=2)] = 4096,
    blocks: Annotated[int, typer.Option(help="Timed blocks of each variant.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Least duration of a block.")] = 3.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or core.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Measure every size and print the figures as JSON."""
    depths = list(zip_longest(layers or [3, 4], rows or [2, 4]))
    if any(None in depth for depth in depths):
        raise typer.BadParameter(f"each --layers needs its --rows, got {layers} and {rows}")
    clock = Clock.of(device)
    torch.set_num_threads(1 if clock.counts_cpu_time else kuairand_params().train.num_threads)
    limits = machine_limits(clock)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "log"
        write_log(folder, num_rows=_LOG_BATCHES * batch, seed=0)
        cases = [Case(folder, one, *depth, batch, clock) for one in width or [16, 32] for depth in depths]
        figures = [measure_case(case, blocks=blocks, seconds=seconds, limits=limits) for case in cases]
    settings = {"batch": batch, "blocks": blocks, "seconds": seconds, "device": device}
    report({"machine": describe(), "limits": limits, **settings, "cases": figures}, out)


if __name__ == "__main__":
    typer.run(main)
