"""Size and coverage of average precision's intervals at few clicks, resampled against 1.96 standard errors.

python -m benchmarks.few_clicks --out benchmarks/results/few_clicks.json

Two weak models rank rows at a 2% click rate. Alone: how often the 95% interval of the first one's AP holds the truth.
Null: both models are as good, and |z| > 1.96 should come in 5% of comparisons. True: one is better, and the interval of
the difference should hold the truth in 95%. In clustered designs a user has 40 rows, of which scores and clicks depend.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.machine import describe, report
from qin.metrics.definitions import AP, Rows
from qin.metrics.intervals import NORMAL_975
from qin.metrics.logits import sigmoid
from qin.metrics.paired import compare_logits
from qin.metrics.standard_errors import confidence, standard_error

Array = NDArray[Any]

CLICK_RATE, INTERCEPT = 0.02, -5.28
ROWS_PER_USER = 40
NUM_TRUTH_ROWS, NUM_TRUTH_SAMPLES = 1_000_000, 8
EQUAL, UNEQUAL = (1.0, 1.0), (1.6, 0.6)  # the models' noise


@dataclass(frozen=True)
class Sample:
    """Labels, users, and the models' scores by their noise."""

    label: Array
    user: Array
    scores: dict[tuple[float, float], tuple[Array, Array]]


def draw(rng: np.random.Generator, num_rows: int, *, clustered: bool) -> Sample:
    """Draw rows of users with `ROWS_PER_USER` rows each; without clusters nothing ties a user's rows."""
    user = np.arange(num_rows) // ROWS_PER_USER
    seen, hidden = rng.normal(size=(2, user[-1] + 1))[:, user] if clustered else rng.normal(size=(2, num_rows))
    own, *noise = rng.normal(size=(3, num_rows))
    label = rng.random(num_rows) < sigmoid(INTERCEPT + 0.5 * seen + 1.4 * hidden + 0.9 * own)
    known = 0.4 * seen + 0.7 * own
    scores = {scales: (known + scales[0] * noise[0], known + scales[1] * noise[1]) for scales in (EQUAL, UNEQUAL)}
    return Sample(label, user, scores)


def truth() -> dict[str, float]:
    """AP of the first of two equal models, and the difference of two unequal ones; the same with clusters."""
    rng, found = np.random.default_rng(1), []
    for _ in range(NUM_TRUTH_SAMPLES):
        sample = draw(rng, NUM_TRUTH_ROWS, clustered=False)
        equal, unequal = (
            [AP.statistic(Rows(score, sample.label)) for score in sample.scores[scales]] for scales in (EQUAL, UNEQUAL)
        )
        found.append((sum(equal) / 2.0, unequal[1] - unequal[0]))
    alone, difference = np.mean(found, axis=0)
    return {"alone": float(alone), "difference": float(difference)}


def is_inside(value: float, error: float, true: float) -> bool:
    """Whether 1.96 standard errors hold the truth."""
    return abs(value - true) < NORMAL_975 * error


def judge(sample: Sample, true: dict[str, float], *, clustered: bool) -> dict[str, bool]:
    """What each kind of interval says of one sample: whether it holds the truth, or finds a difference in the null."""
    cluster = sample.user if clustered else None
    alone = AP.estimate(Rows(sample.scores[EQUAL][0], sample.label))
    error = standard_error(alone.influence, sample.label, cluster=cluster)
    found = confidence(alone, sample.label, standard_error=error, cluster=cluster)
    null, unequal = (
        compare_logits(*sample.scores[scales], sample.label, cluster=cluster, metrics=(AP,))["ap"]
        for scales in (EQUAL, UNEQUAL)
    )
    assert error is not None
    assert found is not None
    assert null.standard_error is not None
    assert null.z is not None
    assert unequal.standard_error is not None
    assert unequal.lower is not None
    assert unequal.upper is not None
    return {
        "alone_normal": is_inside(alone.value, error, true["alone"]),
        "alone": found.lower <= true["alone"] <= found.upper,
        "null_normal": not is_inside(null.difference, null.standard_error, 0.0),
        "null": abs(null.z) > NORMAL_975,
        "true_normal": is_inside(unequal.difference, unequal.standard_error, true["difference"]),
        "true": unequal.lower <= true["difference"] <= unequal.upper,
        "found_normal": not is_inside(unequal.difference, unequal.standard_error, 0.0),
        "found": unequal.z is not None and abs(unequal.z) > NORMAL_975,
    }


def main(
    clicks: Annotated[str, typer.Option(help="Expected clicks of a sample, several with commas.")] = "20,200,400,4000",
    draws: Annotated[int, typer.Option(help="Samples of each design.")] = 1_000,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print shares of samples for each number of clicks, without and with clusters, as JSON."""
    true, designs = truth(), []
    for num_clicks in map(int, clicks.split(",")):
        for clustered in (False, True):
            rng = np.random.default_rng((num_clicks, clustered))
            num_rows = round(num_clicks / CLICK_RATE)
            results: list[dict[str, bool]] = []
            while len(results) < draws:
                sample = draw(rng, num_rows, clustered=clustered)
                if np.unique(sample.user[sample.label]).size >= 2:  # less has no standard error
                    results.append(judge(sample, true, clustered=clustered))
            shares = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
            designs.append({"clicks": num_clicks, "rows": num_rows, "clustered": clustered, "draws": draws, **shares})
    report({"machine": describe(), "truth": true, "designs": designs}, out)


if __name__ == "__main__":
    typer.run(main)
