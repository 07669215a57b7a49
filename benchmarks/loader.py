"""Batches per second from prepared shards, on one thread, as training and scoring read them.

    python -m benchmarks.loader data/prepared/train

The first pass may read from disk; the figures are medians of the passes after it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.machine import describe, report
from qin.shards.files import ShardReader, read_labels
from qin.shards.loader import Batch, ShuffledLoader, iterate_in_order
from qin.train.imbalance import neg_downsample

_BATCH_SIZE, _BUFFER_ROWS = 8192, 131072
_NEG_RATIO = 0.1


def main(
    prepared: Annotated[Path, typer.Argument(help="Folder of a prepared train file.")],
    passes: Annotated[int, typer.Option(help="Timed passes over the file.")] = 3,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print rows per CPU second of each way of reading, as JSON."""
    torch.set_num_threads(1)
    reader = ShardReader(prepared)
    loader = ShuffledLoader(reader, batch_size=_BATCH_SIZE, buffer_rows=_BUFFER_ROWS, seed=0)
    everything = np.ones(reader.num_rows, np.bool_)
    generator = np.random.default_rng(0)
    kept, _ = neg_downsample(read_labels(reader), ratio=_NEG_RATIO, generator=generator)
    figures: dict[str, list[float]] = {"shuffled": [], "downsampled": [], "in_order": []}
    for number in range(passes + 1):
        rates = {
            "shuffled": _rate(loader.epoch(number, everything)),
            "downsampled": _rate(loader.epoch(number, kept)) * reader.num_rows / kept.sum(),
            "in_order": _rate(iterate_in_order(reader, is_selected=None, batch_size=_BATCH_SIZE)),
        }
        if number:
            for name, rate in rates.items():
                figures[name].append(rate)
    result = {
        "machine": describe(),
        "rows": reader.num_rows,
        "rows_read": 3 * (passes + 1) * reader.num_rows,
        "row_bytes": sum(group.row_bytes for group in reader.groups),
        "batch_size": _BATCH_SIZE,
        "neg_ratio": _NEG_RATIO,
        "rows_per_cpu_second": {name: median(rates) for name, rates in figures.items()},
    }
    report(result, out)


def _rate(batches: Iterator[Batch]) -> float:
    started, num_rows = time.process_time(), 0
    for batch in batches:
        num_rows += batch.rows.size
    return num_rows / (time.process_time() - started)


if __name__ == "__main__":
    typer.run(main)
