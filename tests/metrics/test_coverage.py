"""What a standard error promises: its 95% interval holds the truth in 95% of samples, of rows or of users."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qin.metrics.estimate import Estimate
from qin.metrics.gauc import grouped_auc
from qin.metrics.logits import sigmoid
from qin.metrics.standard_errors import standard_error
from tests.metrics.figures import log_loss_estimate, ranking_estimates, wll_estimate

Array = NDArray[Any]

NUM_DRAWS = 1_000
ROWS_PER_USER = 10
NORMAL_975 = 1.959963984540054
NUM_USERS = {0.02: 2_000, 0.3: 1_000}
INTERCEPT = {0.02: -5.18, 0.3: -1.28}  # gives these click rates


def draw(rng: np.random.Generator, *, num_users: int, base_rate: float, clustered: bool) -> dict[str, Array]:
    """Two models' logits and clicks of users; without clusters every row has a user of its own, for equal marginals."""
    user = np.repeat(np.arange(num_users), ROWS_PER_USER)
    own, noise = rng.normal(size=(2, user.size))
    # one trait that the models see and one that they do not: scores and clicks of a user's rows both depend
    seen, hidden = rng.normal(size=(2, num_users))[:, user] if clustered else rng.normal(size=(2, user.size))
    intercept = INTERCEPT[base_rate]
    label = rng.random(user.size) < sigmoid(intercept + 0.7 * seen + 1.4 * hidden + 0.7 * own)
    first = intercept + 0.6 + 0.6 * seen + 0.6 * own
    second = intercept + 0.6 + 0.3 * seen + 0.7 * own + 0.2 * noise
    return {"first": first, "second": second, "label": label, "user": user}


def estimates(sample: dict[str, Array], *, with_gauc: bool) -> dict[str, Estimate]:
    """The first model's metrics, and under `name, paired` their differences."""
    found: dict[str, Estimate] = {}
    of_model: list[dict[str, Estimate]] = []
    for logit in (sample["first"], sample["second"]):
        metrics = ranking_estimates(logit, sample["label"])
        metrics |= {"log_loss": log_loss_estimate(logit, sample["label"]), "wll": wll_estimate(logit, sample["label"])}
        grouped = grouped_auc(logit, sample["label"], sample["user"]) if with_gauc else None
        of_model.append(metrics if grouped is None else metrics | {"gauc": grouped.estimate})
    for name, first in of_model[0].items():
        second = of_model[1][name]
        found[name] = first
        found[f"{name}, paired"] = Estimate(second.value - first.value, second.influence - first.influence)
    return found


def coverage(
    rng: np.random.Generator, truth: dict[str, float], *, base_rate: float, clustered: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of samples whose interval holds the truth, by metric: with errors by rows, and by users."""
    num_covered = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(NUM_DRAWS):
        sample = draw(rng, num_users=NUM_USERS[base_rate], base_rate=base_rate, clustered=clustered)
        for name, estimate in estimates(sample, with_gauc=clustered).items():
            for covered, cluster in zip(num_covered, (None, sample["user"]), strict=True):
                error = standard_error(estimate.influence, sample["label"], cluster=cluster)
                assert error is not None
                covered[name] += abs(estimate.value - truth[name]) < NORMAL_975 * error
    by_row, by_user = ({name: count / NUM_DRAWS for name, count in covered.items()} for covered in num_covered)
    return by_row, by_user


def outside_the_band(shares: dict[str, float]) -> dict[str, float]:
    """Those that 95% intervals over this many samples do not give: the band is three standard deviations wide."""
    return {name: share for name, share in shares.items() if not 0.93 <= share <= 0.97}


@pytest.mark.slow
@pytest.mark.parametrize("base_rate", [0.02, 0.3])
def test_intervals_hold_the_truth_in_95_percent_of_samples(base_rate: float) -> None:
    rng = np.random.default_rng(0)
    # one large sample is the truth of both designs, whose rows have the same distribution
    large = draw(rng, num_users=300_000, base_rate=base_rate, clustered=True)
    assert large["label"].mean() == pytest.approx(base_rate, rel=0.05)
    truth = {name: estimate.value for name, estimate in estimates(large, with_gauc=True).items()}

    of_rows = {name: value for name, value in truth.items() if "gauc" not in name}  # it is of users
    by_row, _ = coverage(rng, of_rows, base_rate=base_rate, clustered=False)
    assert outside_the_band(by_row) == {}

    by_row, by_user = coverage(rng, truth, base_rate=base_rate, clustered=True)
    assert outside_the_band(by_user) == {}
    assert outside_the_band(by_row) == by_row
    assert max(by_row.values()) < 0.93
