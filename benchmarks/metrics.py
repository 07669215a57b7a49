"""CPU seconds of every standard error on a log of scored rows, on one thread.

python -m benchmarks.metrics --rows 1000000
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import describe, report
from qin.metrics.definitions import AP, Rows, estimates, probability_metrics, ranking_metrics
from qin.metrics.gauc import grouped_auc
from qin.metrics.logits import sigmoid
from qin.metrics.paired import compare_logits
from qin.metrics.standard_errors import standard_error

_ROWS_PER_USER = 5
_PASSES = 3


def main(
    rows: Annotated[int, typer.Option(help="Rows to score.")] = 1_000_000,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print the median of three passes for each group of metrics, as JSON."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-3.5, 1.0, rows).astype(np.float32)
    other = logit + rng.normal(0.0, 0.1, rows).astype(np.float32)
    label, user = rng.random(rows) < sigmoid(logit.astype(np.float64)), rng.integers(0, rows // _ROWS_PER_USER, rows)
    influence = AP.estimate(Rows(logit, label)).influence
    work: dict[str, Callable[[], object]] = {
        "ap, auc": lambda: estimates(ranking_metrics(), Rows(logit, label)),
        "log_loss, ne, wll, calibration_ratio": lambda: estimates(
            probability_metrics(), Rows(logit, label, base_rate=0.03)
        ),
        "gauc": lambda: grouped_auc(logit, label, user),
        "one standard error, clustered": lambda: standard_error(influence, label, cluster=user),
        "paired comparison, clustered": lambda: compare_logits(logit, other, label, cluster=user),
    }
    seconds = {name: median(_seconds(call) for _ in range(_PASSES)) for name, call in work.items()}
    report({"machine": describe(), "rows": rows, "positives": int(label.sum()), "cpu_seconds": seconds}, out)


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    typer.run(main)
