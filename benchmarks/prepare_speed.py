"""Prepare against a pandas loop over row groups, on the same file in the same run.

    python -m benchmarks.prepare_speed --rows 500000 --out benchmarks/results/prepare_speed.json

Both run as processes of their own, in turns; the figures are medians. Sequences are also parsed alone, on one
thread, at the 75 tokens of an average public log and at the 530 of the reference log.
"""

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.machine import describe, report
from benchmarks.measure import Cost, measure_module, measure_sample
from benchmarks.profile import ROOT
from qin.columns.schema import Field, FieldKind
from qin.prepare.sequences import encode_sequence
from qin.raw.hashing import seed_of

_MAX_LEN, _NUM_BUCKETS, _NUM_ITEMS = 100, 4096, 594
_BATCH_ROWS = 8192


def main(
    rows: Annotated[int, typer.Option(help="Rows of train.parquet.")] = 500_000,
    row_group_rows: Annotated[int, typer.Option(help="Rows of a row group, all of which the baseline holds.")] = 50_000,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print rows per CPU second and peak memory of both, and their ratio, as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_sample(folder / "data", rows=rows, row_group_rows=row_group_rows)
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        (folder / "baseline").mkdir()
        train, test = (pq.read_metadata(folder / f"data/{part}.parquet").num_rows for part in ("train", "test"))
        ours, baseline = [], []
        for _ in range(repeats):
            shutil.rmtree(folder / ".qin/prepared", ignore_errors=True)  # what the turn before has encoded
            ours.append(measure_module("stages", "prepare", cwd=folder))
            baseline.append(measure_module("benchmarks.pandas_prepare", "data/train.parquet", "baseline", cwd=folder))
    prepare, pandas = _figures(ours, train + test), _figures(baseline, train)
    result = {
        "machine": describe(),
        "rows": rows,
        "row_group_rows": row_group_rows,
        "prepare": prepare,
        "pandas_loop": pandas,
        "ratio_rows_per_cpu_second": prepare["rows_per_cpu_second"] / pandas["rows_per_cpu_second"],
        "ratio_rows_per_second": prepare["rows_per_second"] / pandas["rows_per_second"],
        "sequence_rows_per_cpu_second": {str(tokens): _sequences(tokens, repeats) for tokens in (75, 530)},
    }
    report(result, out)


def _figures(costs: list[Cost], num_rows: int) -> dict[str, Any]:
    return {
        "rows_per_second": num_rows / median(cost.seconds for cost in costs),
        "rows_per_cpu_second": num_rows / median(cost.cpu_seconds for cost in costs),
        "peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs),
    }


def _sequences(num_tokens: int, repeats: int) -> float:
    generator = np.random.default_rng(0)
    items = generator.integers(1, _NUM_ITEMS + 1, (_BATCH_ROWS, num_tokens))
    texts = pa.array([",".join(map(str, row)) for row in items.tolist()])
    field = Field("seq", FieldKind.SEQUENCE, "seq", _NUM_BUCKETS, _MAX_LEN, separator=",", tokens="number")
    out, seed, seconds = np.zeros((_BATCH_ROWS, _MAX_LEN), np.uint16), seed_of("seq", 0), []
    for _ in range(10 * repeats + 1):  # the first one compiles
        started = time.process_time()
        encode_sequence(texts, field, seed=seed, out=out)
        seconds.append(time.process_time() - started)
    return _BATCH_ROWS / median(seconds[1:])


if __name__ == "__main__":
    typer.run(main)
