"""What the intercept converges to through the real loop is the natural logit minus the known offset, with every weight.

The loop trains an intercept-only model whose optimizer records each step's gradient and stays where it is: at the logit
that the offset would bring back to the natural click rate. If the steps are unbiased their mean there is zero, and one
Newton step from it is the logit that training converges to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from qin.metrics.logits import prior_logit
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows, auto_pos_weight
from qin.train.loop import TrainingLoop, ValidationScores
from qin.train.mining import HardNegatives
from qin.train.watch import Watch
from tests.train.runs import plain_params

BATCH_SIZE, NUM_BATCHES, NUM_EPOCHS, BASE_RATE = 64, 100, 25, 0.02
REMAINDER = 37  # rows of an epoch that fill no batch
GOSS = HardNegatives(mode="goss", top_neg_frac=0.1, rest_frac=0.2, min_neg=8, warmup_steps=300, two_passes=False)
OHEM = replace(GOSS, mode="ohem", warmup_steps=0)


class Intercept(nn.Module):
    """One logit for every row."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit, dtype=torch.float64))

    def forward(
        self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: object, *, first_row: int = 0
    ) -> torch.Tensor:
        return self.logit.expand(len(categorical))


class Recorder(torch.optim.SGD):
    """Keeps each step's gradient, and steps nowhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.parameters(), lr=0.0)
        self.gradients = list[float]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (parameter,) = self.param_groups[0]["params"]
        self.gradients.append(parameter.grad.item())


@dataclass
class Shuffled:
    """Labels in a new order each epoch, cut as the loader cuts them."""

    label: npt.NDArray[np.uint8]
    batch_size: int = BATCH_SIZE

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        num_rows = int(is_selected.sum())
        return num_rows // self.batch_size or min(num_rows, 1)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        rows = np.random.default_rng((1, epoch)).permutation(np.flatnonzero(is_selected))
        for step in range(self.num_batches(is_selected)):
            own = rows[step * self.batch_size : (step + 1) * self.batch_size]
            label = torch.from_numpy(self.label[own]).float()
            yield Batch(own, torch.zeros(own.size, 1), torch.zeros(own.size, 0), (), label)


def labels(num_rows: int, *, base_rate: float = BASE_RATE) -> npt.NDArray[np.uint8]:
    return (np.arange(num_rows) < round(num_rows * base_rate)).astype(np.uint8)


def gradients_at(
    logit: float, rows: TrainingRows, folder: Path, *, mining: HardNegatives | None
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """The gradient of each step of a run whose intercept stays at `logit`, and each epoch's reported loss."""
    network = Intercept(logit)
    optimizer = Recorder(network)
    result = TrainingLoop(
        cast("Any", network),
        optimizer=optimizer,
        rows=rows,
        params=plain_params(seed=3, epochs=NUM_EPOCHS),
        hard_negatives=mining,
        stop=lambda _: ValidationScores(log_loss=0.0, ap=0.0, auc=0.0),
        checkpoints=CheckpointStore(folder, "intercept"),
        watch=Watch(),
    ).run()
    return np.array(optimizer.gradients), [record["train_loss"] for record in result.history]


@dataclass
class Converged:
    """How far the converged logit is from the natural one after the offset, and what that follows from."""

    error: float
    standard_error: float
    gradients: npt.NDArray[np.float64]
    train_loss: list[float]


def converged(rows: TrainingRows, folder: Path, *, mining: HardNegatives | None) -> Converged:
    natural = prior_logit(float(rows.label.mean()))
    offset = rows.prior.offset
    found, train_loss = gradients_at(natural - offset, rows, folder, mining=mining)
    share, probability = rows.positive_share, 1.0 / (1.0 + math.exp(-(natural - offset)))
    of_positives, of_negatives = rows.weights(torch.tensor([1.0, 0.0])).tolist()
    mean_weight = share * of_positives + (1.0 - share) * of_negatives
    curvature = mean_weight * probability * (1.0 - probability) * rows.loader.batch_size / rows.batch_weight
    standard_error = found.std() / math.sqrt(found.size) / curvature
    return Converged(-found.mean() / curvature, standard_error, found, train_loss)


CASES: dict[str, tuple[dict[str, Any], HardNegatives | None]] = {
    "auto pos_weight": ({"pos_weight": "auto"}, None),
    "pos_weight 10": ({"pos_weight": 10.0}, None),
    "downsampling, unweighted": ({"neg_ratio": 0.25, "reweighted": False}, None),
    "downsampling, weighted": ({"neg_ratio": 0.25}, None),
    "downsampling and auto": ({"neg_ratio": 0.25, "pos_weight": "auto"}, None),
    "goss after a warm-up": ({"pos_weight": "auto"}, GOSS),
    "goss in two passes": ({"pos_weight": "auto"}, replace(GOSS, two_passes=True)),
    "pps": ({"pos_weight": 10.0, "neg_ratio": 0.5, "reweighted": False}, replace(GOSS, mode="pps")),
    "pps in two passes": ({"pos_weight": "auto"}, replace(GOSS, mode="pps", two_passes=True)),
}


def training_rows(num_rows: int, changes: dict[str, Any]) -> TrainingRows:
    label = labels(num_rows)
    if changes.get("pos_weight") == "auto":
        changes = {**changes, "pos_weight": auto_pos_weight(int((label == 0).sum()), int(label.sum()))}
    prior = TrainingPrior(base_rate=float(label.mean()), **changes)
    return TrainingRows(Shuffled(label), np.ones(label.size, np.bool_), label, prior, seed=0)


@pytest.mark.parametrize("case", CASES)
def test_the_offset_recovers_the_natural_click_rate_of_the_converged_intercept(case: str, tmp_path: Path) -> None:
    changes, mining = CASES[case]
    kept = changes.get("neg_ratio", 1.0) * (1 - BASE_RATE) + BASE_RATE
    rows = training_rows(round(BATCH_SIZE * NUM_BATCHES / kept) + REMAINDER, changes)
    found = converged(rows, tmp_path, mining=mining)
    assert found.gradients.size >= NUM_EPOCHS * (NUM_BATCHES - 2)
    assert found.standard_error < 0.05, "the test would see nothing"
    assert abs(found.error) < 4 * found.standard_error


def test_what_ohem_leaves_out_is_seen(tmp_path: Path) -> None:
    """A selection that is biased fails the same test by far."""
    rows = training_rows(BATCH_SIZE * NUM_BATCHES, {"pos_weight": "auto"})
    found = converged(rows, tmp_path, mining=OHEM)
    assert abs(found.error) > 10 * found.standard_error


def test_divided_by_its_own_weight_each_step_would_miss(tmp_path: Path) -> None:
    """Which is why the denominator is a constant: at 2% and batches of 64 the intercept would be 0.42 too low."""
    rows = training_rows(BATCH_SIZE * NUM_BATCHES, {"pos_weight": "auto"})
    found = converged(rows, tmp_path, mining=None).gradients
    everything = np.ones(rows.label.size, np.bool_)
    own = [
        float(rows.weights(batch.label).sum())
        for epoch in range(NUM_EPOCHS)
        for batch in rows.loader.epoch(epoch, everything)
        if batch.label is not None
    ]
    ratio = found * rows.batch_weight / np.array(own)
    assert ratio.mean() > 10 * ratio.std() / math.sqrt(ratio.size), "the gradient pulls the intercept down"


@pytest.mark.parametrize("num_rows", [BATCH_SIZE * NUM_BATCHES, BATCH_SIZE - 14], ids=["whole batches", "one partial"])
def test_an_epoch_of_all_rows_is_exact(num_rows: int, tmp_path: Path) -> None:
    """Without a draw there is nothing to average: the sum of an epoch's gradients vanishes at the shifted logit."""
    rows = training_rows(num_rows, {"pos_weight": "auto"})
    found = converged(rows, tmp_path, mining=None)
    assert found.gradients.size == NUM_EPOCHS * max(num_rows // BATCH_SIZE, 1)
    assert abs(found.error) < 1e-6
    # The reported loss is the mean over the rows' weights: of a balanced intercept, log 2.
    assert found.train_loss == pytest.approx([math.log(2.0)] * NUM_EPOCHS, abs=1e-6)


def test_without_weights_the_loss_is_divided_by_the_rows() -> None:
    rows = training_rows(BATCH_SIZE * NUM_BATCHES, {})
    assert rows.batch_weight == BATCH_SIZE
    assert training_rows(50, {}).batch_weight == 50
