"""What it costs to be able to go on: writing and reading checkpoints, and checking the prepared shards.

    python -m benchmarks.checkpoint_cost --out benchmarks/results/checkpoint_cost.json

A checkpoint holds the weights, the optimizer's state and the best epoch's weights; the embedding table is nearly all of
it. `share` is the part of the training time that checkpoints take at `train.checkpoint_seconds: 60`, from the median
save. Large states are written less often, so that they take at most 2%.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from benchmarks.machine import describe, report
from benchmarks.reference_log import write_log
from qin.model.build import SPARSE_TABLE_ROWS
from qin.network.embedding import FusedEmbedding
from qin.shards.files import ShardReader
from qin.train.checkpoint import CheckpointStore
from qin.train.loop import save_interval
from qin.train.optimizers import RowWiseAdam

DIM, SECONDS = 16, 60.0
DEFAULT_ROWS = 200_704  # of the default profile: 22 fields of 4,096 buckets, 2 of 16,384 and the sequence's


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Rows of the embedding table; repeatable.")] = None,
    saves: Annotated[int, typer.Option(help="Saves of each size.")] = 5,
    log_rows: Annotated[int, typer.Option(help="Rows of the log whose shards are checked.")] = 200_000,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print the figures as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        cases = [_measure(Path(folder), size, saves=saves) for size in rows or [DEFAULT_ROWS, 10_000_000]]
        write_log(Path(folder) / "log", num_rows=log_rows, seed=0)
        reader = ShardReader(Path(folder) / "log")
        seconds = _seconds(reader.verify)
        num_bytes = sum(path.stat().st_size for path in reader.folder.iterdir())
    checked = {"rows": log_rows, "bytes": num_bytes, "seconds": seconds, "rows_per_second": log_rows / seconds}
    report({"machine": describe(), "checkpoint_seconds": SECONDS, "checkpoints": cases, "shards_checked": checked}, out)


def _measure(folder: Path, rows: int, *, saves: int) -> dict[str, Any]:
    store = CheckpointStore(folder, "run")
    state = _state(rows)
    times = [_seconds(partial(store.save, state, step=step)) for step in range(saves)]
    assert store.path is not None
    num_bytes, load_seconds = store.path.stat().st_size, _seconds(store.load)
    store.remove()
    save_seconds = median(times)
    interval = save_interval(SECONDS, save_seconds)
    return {
        "table_rows": rows,
        "bytes": num_bytes,
        "save_seconds": save_seconds,
        "load_seconds": load_seconds,
        "interval_seconds": interval,
        "share": save_seconds / (interval + save_seconds),
        "share_without_limit": save_seconds / (SECONDS + save_seconds),
    }


def _state(rows: int) -> dict[str, Any]:
    """As the training loop saves it, with a table of so many rows."""
    is_sparse = rows >= SPARSE_TABLE_ROWS
    table = FusedEmbedding([rows], dim=DIM, sparse=is_sparse)
    torch.nn.init.normal_(table.embedding_table, generator=torch.Generator().manual_seed(0))
    parameters = list(table.parameters())
    optimizer = RowWiseAdam(parameters, lr=1e-3) if is_sparse else torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    table(torch.arange(1000)[:, None]).sum().backward()
    optimizer.step()
    weights = table.state_dict()
    best = {name: value.clone() for name, value in weights.items()}
    return {"model": weights, "optimizer": optimizer.state_dict(), "best": best}


def _seconds(function: Callable[[], object]) -> float:
    started = time.monotonic()
    function()
    return time.monotonic() - started


if __name__ == "__main__":
    typer.run(main)
