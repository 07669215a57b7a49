"""Cost of a step on an embedding table: row-wise Adam, torch.optim.SparseAdam, dense fused AdamW.

    python -m benchmarks.row_adam --out benchmarks/results/row_adam.json

A step reads 40 fields and a history of 100 items for each row of the batch, runs the backward pass into the table, and
moves the table. Values follow Zipf's law; half of the table is the vocabulary of the items. The network between is
left out, as it costs the same in all cases. Figures are CPU seconds on one thread, medians over the steps. Peak memory
is that of a process of its own which trains QIN on a table of `--rows` rows.
"""

import sys
import time
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812
import typer

from benchmarks.machine import describe, report
from benchmarks.measure import measure_module
from benchmarks.profile import ROOT
from qin.config import load_params
from qin.model.build import network_sizes
from qin.network.embedding import FusedEmbedding
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs
from qin.runtime.paths import PARAMS
from qin.train.optimizers import Optimizers, RowWiseAdam, clip_grad_norm

DIM, NUM_FIELDS, NUM_ITEMS = 16, 40, 100
TABLE_ROWS = (30_000, 100_000, 300_000, 500_000, 700_000, 1_000_000, 3_000_000)
BATCH_SIZES = (1024, 4096)
_NUM_BATCHES = 8  # read in turn, so that rare rows are not in a cache
_LR, _WEIGHT_DECAY = 1e-3, 1e-4
_SCATTER = 2_654_435_761  # a prime, so that popular values are not neighbours in the table

Batch = tuple[torch.Tensor, torch.Tensor]  # (batch, fields) and (batch, items)
_METHODS: dict[str, tuple[bool, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]]] = {
    "row_wise_adam": (True, lambda table: RowWiseAdam(table, lr=_LR, weight_decay=_WEIGHT_DECAY)),
    "sparse_adam": (True, lambda table: torch.optim.SparseAdam(table, lr=_LR)),
    "dense_adamw": (False, lambda table: torch.optim.AdamW(table, lr=_LR, weight_decay=_WEIGHT_DECAY, fused=True)),
}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the largest table.")] = 10_000_000,
    steps: Annotated[int, typer.Option(help="Timed steps of each case; the figure is their median.")] = 15,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
    train_only: Annotated[bool, typer.Option(help="Train on a table of --rows, for its peak memory.")] = False,
) -> None:
    """Print the figures as JSON."""
    torch.set_num_threads(1)
    if train_only:
        _train(rows, steps=steps)
        return
    words = ["--train-only", "--rows", str(rows), "--steps", "5"]
    peak_bytes = measure_module("benchmarks.row_adam", *words, cwd=Path.cwd()).peak_memory_bytes
    cases = [(rows, 4096, "row_wise_adam"), (rows, 4096, "sparse_adam")]
    cases += [(1_000_000, 4096, "sparse_adam")]
    cases += [(n, size, name) for n in TABLE_ROWS for size in BATCH_SIZES for name in ("row_wise_adam", "dense_adamw")]
    timings = [_time_steps(*case, steps=steps) for case in cases]
    result = {
        "machine": describe(),
        "dim": DIM,
        "reads_per_row": NUM_FIELDS + NUM_ITEMS,
        "training": {"table_rows": rows, "batch_size": 4096, "peak_memory_bytes": peak_bytes},
        "steps": timings,
        "cheaper_from_table_rows": {size: _crossing(timings, size) for size in BATCH_SIZES},
    }
    report(result, out)


def _vocabularies(num_rows: int) -> list[int]:
    """Buckets of the items' field, then of the other fields."""
    others = num_rows // 2 // (NUM_FIELDS - 1)
    return [num_rows - (NUM_FIELDS - 1) * others, *[others] * (NUM_FIELDS - 1)]


def _draw_batches(num_rows: int, *, batch_size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(_vocabularies(num_rows))

    def draw(shape: tuple[int, int], num_buckets: torch.Tensor) -> torch.Tensor:
        num_values = num_buckets - 2
        rank = num_values ** torch.rand(shape, generator=generator, dtype=torch.float64)  # density 1 / rank
        return 2 + rank.long() * _SCATTER % num_values

    shapes = (batch_size, NUM_FIELDS), (batch_size, NUM_ITEMS)
    return [(draw(shapes[0], sizes), draw(shapes[1], sizes[:1])) for _ in range(_NUM_BATCHES)]


def _time_steps(num_rows: int, batch_size: int, method: str, *, steps: int) -> dict[str, Any]:
    sparse, make_optimizer = _METHODS[method]
    embedding = FusedEmbedding(_vocabularies(num_rows), dim=DIM, sparse=sparse)
    torch.nn.init.normal_(embedding.embedding_table, std=1e-4, generator=torch.Generator().manual_seed(0))
    optimizer = make_optimizer([embedding.embedding_table])
    batches = _draw_batches(num_rows, batch_size=batch_size)
    cotangents = [torch.randn(*x.shape, DIM, generator=torch.Generator().manual_seed(1)) for x in batches[0]]
    forward, backward, update = [], [], []
    for step in range(_NUM_BATCHES + steps):  # a round of batches to warm up
        fields, items = batches[step % _NUM_BATCHES]
        started = time.process_time()
        optimizer.zero_grad()
        outputs = _read(embedding, fields, items, method=method)
        read = time.process_time()
        torch.autograd.backward(outputs, cotangents)
        summed = time.process_time()
        optimizer.step()
        forward.append(read - started)
        backward.append(summed - read)
        update.append(time.process_time() - summed)
    totals = [sum(parts) for parts in zip(forward, backward, update, strict=True)][_NUM_BATCHES:]
    distinct = median(_num_distinct(batch, embedding) for batch in batches)
    return {
        "method": method,
        "table_rows": num_rows,
        "batch_size": batch_size,
        "cpu_seconds": median(totals),
        "lookup_cpu_seconds": median(forward[_NUM_BATCHES:]),
        "backward_cpu_seconds": median(backward[_NUM_BATCHES:]),
        "update_cpu_seconds": median(update[_NUM_BATCHES:]),
        "distinct_rows": distinct,
        "rows_per_cpu_second": distinct / median(totals),
    }


def _read(embedding: FusedEmbedding, fields: torch.Tensor, items: torch.Tensor, *, method: str) -> list[torch.Tensor]:
    if method != "sparse_adam":
        return embedding.read(fields, (items,), vocabularies=(0,))
    rows = fields + embedding.offsets, items  # PyTorch's own sparse gradient, which SparseAdam coalesces
    return [F.embedding(row, embedding.embedding_table, padding_idx=0, sparse=True) for row in rows]


def _num_distinct(batch: Batch, embedding: FusedEmbedding) -> int:
    fields, items = batch
    return len(torch.unique(torch.cat(((fields + embedding.offsets).flatten(), items.flatten()))))


def _crossing(timings: list[dict[str, Any]], batch_size: int) -> int:
    """Rows of the table from which on the row-wise step is cheaper, between the sizes measured or the least of them."""
    cost = {(t["method"], t["table_rows"]): t["cpu_seconds"] for t in timings if t["batch_size"] == batch_size}
    gain = [log(cost["dense_adamw", n] / cost["row_wise_adam", n]) for n in TABLE_ROWS]
    if min(gain) > 0:
        return TABLE_ROWS[0]
    last = max(i for i in range(len(gain)) if gain[i] <= 0)
    if last == len(gain) - 1:
        raise ValueError(f"the dense step is still the cheaper one at {TABLE_ROWS[-1]} rows")
    share = gain[last] / (gain[last] - gain[last + 1])
    return round(exp((1 - share) * log(TABLE_ROWS[last]) + share * log(TABLE_ROWS[last + 1])))


def _train(num_rows: int, *, steps: int) -> None:
    """Train QIN with all of the state in use, and a copy of the best weights, as training holds one."""
    inputs = QINInputs(
        num_buckets=tuple(_vocabularies(num_rows)), num_fields=NUM_FIELDS, sequence_vocabulary=(0,), target_fields=(0,)
    )
    normalizer = NumericNormalizer(torch.empty(0), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    params = load_params(ROOT / PARAMS).model.network.model_copy(update={"embedding_dim": DIM, "dropout": 0.0})
    sizes = network_sizes(params, is_sparse=True)
    model = QIN(inputs=inputs, sizes=sizes, fitted=FittedInputs(normalizer=normalizer), generator=generator)
    table = model.embedding.embedding_table
    rest = [parameter for parameter in model.parameters() if parameter is not table]
    rows = RowWiseAdam([table], lr=_LR, weight_decay=_WEIGHT_DECAY)
    optimizers = Optimizers(torch.optim.AdamW(rest, lr=_LR, fused=True), rows)
    batches = _draw_batches(num_rows, batch_size=4096)
    best = {}
    for step in range(steps):
        fields, items = batches[step % _NUM_BATCHES]
        optimizers.zero_grad()
        logit = model(fields, torch.empty(len(fields), 0), (items,))
        F.softplus(-logit).mean().backward()  # type: ignore[no-untyped-call]
        clip_grad_norm(model.parameters(), max_norm=10.0)
        optimizers.step()
        if step == 0:
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            for moment in (rows.state[table]["first_moment"], rows.state[table]["second_moment"]):
                moment.add_(0.0)  # untouched zeros take no memory yet
    print(f"{num_rows} rows, {steps} steps, {len(best)} tensors kept", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
