"""What each hand-written kernel gains over plain torch or a library, in one run of less than six minutes.

    python -m benchmarks.kernels --out benchmarks/results/kernels.json

Network kernels are measured forward and backward at the shapes of the default profile and of the published one, at
batch 1,024 and 4,096 and width 16 and 32, in the reference shape (42 fields, 70 numbers, a history of 100), in the
precision that the processor chooses; the last two lines of a case are a whole training step and scoring with all
kernels and with none. Hashing and sequences are those of `prepare`. The two sides of a line take turns; a gain is the
ratio of median wall times, `cpu_gain` of CPU times, which other work on the machine disturbs less.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F  # noqa: N812
import typer

from benchmarks.gpu_cases import REFERENCE, TINY, Shape, make_batch, make_network, make_step
from benchmarks.machine import describe, report
from qin.columns.schema import Field, FieldKind
from qin.model.scoring import score_all
from qin.network.dropout import Mask, dropout
from qin.network.embedding import FusedEmbedding
from qin.network.kernels.bf16 import has_bf16_units
from qin.network.kernels.choice import as_other_devices
from qin.network.kernels.row_gradient import from_rows, sum_by_row
from qin.network.pooling import history_mean
from qin.network.qin import QIN
from qin.network.threads import fix_threads
from qin.prepare.sequences import encode_sequence
from qin.raw.hashing import hash_values, seed_of
from qin.shards.loader import Batch
from qin.train.optimizers import RowWiseAdam, clip_grad_norm

PROFILES: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"norm": "batch", "row_dropout": 0.1, "embedding_std": 1e-4},
}
_LARGE_TABLE = 1_000_000
_TEXTS, _TOKENS, _MAX_LEN, _NUM_BUCKETS = 4000, 300, 100, 4096


@dataclass(frozen=True)
class Line:
    """A kernel and what it stands in place of; both do the same work when called.

    Attributes:
        kernel: What is measured, and the module that it is in.
        ours: With the kernel.
        plain: Without.
    """

    kernel: str
    ours: Callable[[], object]
    plain: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One network and one batch."""

    shape: Shape
    profile: str
    batch_size: int
    width: int

    def network(self, **changes: Any) -> QIN:
        """In training mode, in the processor's precision."""
        sizes = {"embedding_dim": self.width, "attention_dim": 2 * self.width, **PROFILES[self.profile], **changes}
        network = make_network(self.shape, **sizes)
        network.use_bf16 = has_bf16_units()
        return network.train()


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute with PyTorch's operations alone, its dropout included, whose masks are others."""

    def masked(x: torch.Tensor, mask: Mask, *, first_row: int = 0) -> torch.Tensor:
        del first_row
        return F.dropout(x, mask.threshold / 2**32) if mask.threshold else x

    names = ("qin.network.quadratic.masked", "qin.network.dropout.masked")
    torch.set_deterministic_debug_mode("default")
    patched = [mock.patch(name, masked) for name in names] + [
        mock.patch("qin.network.quadratic.padded_linear", F.linear)
    ]
    with as_other_devices(), patched[0], patched[1], patched[2]:
        yield
    torch.set_deterministic_debug_mode("error")


def network_lines(case: Case, batch: Batch) -> list[Line]:
    """The kernels of one case."""
    network, rows, width = case.network(), case.batch_size, case.width
    generator = torch.Generator().manual_seed(0)
    is_valid = batch.sequences[0].long() != 0
    histories = torch.randn(*is_valid.shape, width, generator=generator, requires_grad=True)
    target = torch.randn(rows, width, generator=generator, requires_grad=True)
    x = (0.1 * torch.randn(rows, network.network.dim, generator=generator)).requires_grad_()
    attention, recent = network.attentions[0], case.network(attention_bias="recency").attentions[0]
    embedding, buckets = network.embedding, (batch.categorical.long(), [batch.sequences[0].long()])
    indices = [embedding.field_index(buckets[0]) + embedding.offsets[: buckets[0].shape[1]], buckets[1][0]]

    def layers() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=network.use_bf16):
            logit: torch.Tensor = network.network(x)
            return logit

    def gathered() -> torch.Tensor:
        return torch.cat([part.flatten(1) for part in embedding._gather(indices)], dim=1)

    works = {
        "attention (kernels/attention.py)": lambda: attention(target, histories, is_valid),
        "attention with recency (kernels/attention.py)": lambda: recent(target, histories, is_valid),
        "mean of a history (kernels/pooling.py)": lambda: history_mean(histories, is_valid),
        "dropout (dropout.py)": lambda: dropout(x, 0.1, training=True),
        "embeddings read and added up (embedding.py)": gathered,
        "quadratic network (kernels/quadratic.py, products.py, norms.py)": layers,
    }
    lines = [Line(name, _both_ways(work), _plainly(_both_ways(work))) for name, work in works.items()]
    steps = [_steps(case, batch, plain=plain) for plain in (False, True)]
    return [*lines, Line("whole training step", *steps), _scoring(case, batch)]


def _both_ways(forward: Callable[[], torch.Tensor]) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: torch.autograd.backward(forward().sum())


def _plainly(work: Callable[[], object]) -> Callable[[], object]:
    def plain() -> None:
        with plain_torch():
            work()

    return plain


def _steps(case: Case, batch: Batch, *, plain: bool) -> Callable[[], object]:
    network = case.network()
    step, number = make_step(network, batch, batch_size=case.batch_size), iter(range(1 << 30))

    def work() -> None:
        step(batch, number=next(number))
        step.read()

    return _plainly(work) if plain else work


def _scoring(case: Case, batch: Batch) -> Line:
    network = case.network().eval()

    def work() -> None:
        score_all(network, batch.pieces(8192), num_rows=len(batch.rows))

    return Line("scoring (kernels/scoring.py, frozen.py)", work, _plainly(work))


def table_lines(shape: Shape, *, batch_size: int, width: int) -> list[Line]:
    """The kernels of a large table, whose gradient is sparse: sums by row, and row-wise Adam."""
    num_rows = _LARGE_TABLE if shape is REFERENCE else 1000
    generator = torch.Generator().manual_seed(0)
    num_reads = batch_size * (shape.num_fields + shape.max_len)
    row = (num_rows * torch.rand(num_reads, generator=generator) ** 3).long()
    grad = torch.randn(num_reads, width, generator=generator)
    rows, sums = sum_by_row(row, grad, table_rows=num_rows)

    def coalesced() -> None:
        torch.sparse_coo_tensor(row[None], grad, (num_rows, width), check_invariants=False).coalesce()

    table = FusedEmbedding([num_rows], dim=width, sparse=True).embedding_table
    ours, torchs = RowWiseAdam([table], lr=1e-3), torch.optim.SparseAdam([table], lr=1e-3)

    def move(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def work() -> None:
            table.grad = from_rows(rows, sums.clone(), table_rows=num_rows)
            clip_grad_norm([table], max_norm=1.0)
            optimizer.step()

        return work

    def summed() -> None:
        sum_by_row(row, grad, table_rows=num_rows)

    return [
        Line("sums by row, over coalesce (kernels/row_gradient.py)", summed, coalesced),
        Line("row-wise Adam, over torch's SparseAdam (optimizers.py)", move(ours), move(torchs)),
        Line("row-wise Adam, over itself in torch (optimizers.py)", move(ours), _plainly(move(ours))),
    ]


def prepare_lines(*, num_texts: int) -> list[Line]:
    """Hashing and sequences, on one thread as in `prepare`, over pandas' hash and Arrow's split."""
    import pandas as pd  # noqa: PLC0415 -- takes half a second, and only this needs it

    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 1 << 40, 50 * num_texts)
    ids = pa.array([f"user-{number:x}" for number in numbers])
    tokens = generator.integers(0, 594, (num_texts, _TOKENS))
    texts = pa.array([",".join(map(str, row)) for row in tokens.tolist()])
    field = Field("seq", FieldKind.SEQUENCE, vocabulary="seq", num_buckets=_NUM_BUCKETS, max_len=_MAX_LEN)
    out, seed = np.zeros((num_texts, _MAX_LEN), np.uint16), seed_of("seq", 0)
    as_objects, as_array = ids.to_numpy(zero_copy_only=False), pa.array(numbers)

    def by_arrow() -> None:
        parts = pc.split_pattern(texts, ",")
        values = parts.values.cast(pa.int64()).to_numpy()
        stop = parts.offsets.to_numpy()[1:]
        place = stop[:, None] - np.arange(_MAX_LEN, 0, -1)  # every text has more tokens than are kept
        hashed = pd.util.hash_array(values[place.ravel()]) % np.uint64(_NUM_BUCKETS - 2)
        out[:] = (hashed + np.uint64(2)).reshape(place.shape)

    def ours() -> None:
        encode_sequence(texts, field, seed=seed, out=out)

    hash_array = pd.util.hash_array
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "hash of texts, over pandas.util (raw/hashing.py)": (
            lambda: hash_values(ids, seed),
            lambda: hash_array(as_objects),
        ),
        "hash of numbers, over pandas.util (raw/hashing.py)": (
            lambda: hash_values(as_array, seed),
            lambda: hash_array(numbers),
        ),
        "sequences, over Arrow's split (prepare/sequences.py)": (ours, by_arrow),
    }
    return [Line(name, *pair) for name, pair in pairs.items()]


def measure(line: Line, *, repeats: int) -> dict[str, Any]:
    """Median seconds of both sides, which take turns, and their ratios."""
    works = {"ours": line.ours, "plain": line.plain}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            work()
            if number:  # the first one compiles
                found[name].append((time.perf_counter() - started, time.process_time() - started_cpu))
    wall, cpu = ({name: median(one[at] for one in taken) for name, taken in found.items()} for at in (0, 1))
    gains = {"gain": wall["plain"] / wall["ours"], "cpu_gain": cpu["plain"] / max(cpu["ours"], 1e-9)}
    return {"kernel": line.kernel, "seconds": wall["ours"], "plain_seconds": wall["plain"], **gains}


def main(
    threads: Annotated[int, typer.Option(help="Threads of the network's kernels.", min=1)] = 2,
    repeats: Annotated[int, typer.Option(help="Turns of each line.", min=1)] = 5,
    tiny: Annotated[bool, typer.Option(help="Tiny shapes, to see that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Measure every kernel and print the figures as JSON."""
    shape, batches = (TINY, (32,)) if tiny else (REFERENCE, (1024, 4096))
    fix_threads(threads)
    started, found = time.monotonic(), []
    for batch_size in batches:
        batch = make_batch(shape, num_rows=batch_size)
        for width in (16, 32):
            for profile in PROFILES:
                about = {"profile": profile, "batch": batch_size, "width": width}
                lines = network_lines(Case(shape, profile, batch_size, width), batch)
                found += [{**about, **measure(line, repeats=repeats)} for line in lines]
            lines = table_lines(shape, batch_size=batch_size, width=width)
            about = {"profile": "any", "batch": batch_size, "width": width}
            found += [{**about, **measure(line, repeats=repeats)} for line in lines]
    torch.set_num_threads(1)
    found += [measure(line, repeats=repeats) for line in prepare_lines(num_texts=20 if tiny else _TEXTS)]
    settings = {"threads": threads, "repeats": repeats, "bf16": has_bf16_units()}
    minutes = round((time.monotonic() - started) / 60, 1)
    report({"machine": describe(), **settings, "minutes": minutes, "lines": found}, out)


if __name__ == "__main__":
    typer.run(main)
