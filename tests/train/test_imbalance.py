"""Downsampling, class weights and mining multiply without bias, and the offset undoes what they do to the prior."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qin.config import ImbalanceParams, load_params
from qin.metrics.logits import prior_logit
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.imbalance import (
    TrainingRows,
    auto_pos_weight,
    neg_downsample,
    num_drawn_rows,
    positive_weights,
    training_prior,
)
from qin.train.losses import logistic_loss
from qin.train.selection import (
    MiningMode,
    mine_hard_negatives,
)
from tests.project import ROOT, copy_project, set_params
from tests.stages.run import run_in_process

POS_WEIGHT = 3.0


class NoBatches:
    """The rows of an epoch are looked at, never read."""

    batch_size = 1

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        raise NotImplementedError

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        raise NotImplementedError


def training_rows(label: npt.NDArray[np.uint8], *, neg_ratio: float, reweighted: bool, seed: int = 0) -> TrainingRows:
    prior = TrainingPrior(
        base_rate=float(label.mean()), pos_weight=POS_WEIGHT, neg_ratio=neg_ratio, reweighted=reweighted
    )
    return TrainingRows(NoBatches(), np.ones(label.size, np.bool_), label, prior, seed)


def simulated(num_rows: int, *, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], torch.Tensor]:
    """Inputs with a constant `(rows, 3)`, labels, and the coefficients that they were drawn with."""
    generator = np.random.default_rng(seed)
    truth = np.array([-3.5, 0.8, -0.5])
    x = np.column_stack((np.ones(num_rows), generator.normal(size=(num_rows, 2))))
    label = generator.random(num_rows) < 1.0 / (1.0 + np.exp(-x @ truth))
    return x, label.astype(np.uint8), torch.from_numpy(truth)


@pytest.mark.parametrize("mode", ["goss", "pps", "ohem"])
def test_downsampling_class_weights_and_mining_compose(mode: MiningMode) -> None:
    """The mean over draws of both is the loss and gradient with class weights alone; top-k's is not."""
    x, label, truth = simulated(400, seed=0)
    inputs = torch.from_numpy(x)
    logit = inputs @ (0.5 * truth)  # not the optimum, where the gradient is nothing but noise

    def sums(rows: npt.NDArray[np.intp], weight: torch.Tensor) -> torch.Tensor:
        y = torch.from_numpy(label[rows])
        grad = (torch.sigmoid(logit[rows]) - y).unsqueeze(1) * inputs[rows]
        return torch.cat(((weight * logistic_loss(logit[rows], y)).sum().view(1), weight @ grad))

    everything = training_rows(label, neg_ratio=1.0, reweighted=True)
    full = sums(np.arange(400), everything.weights(torch.from_numpy(label)).double())
    rows = training_rows(label, neg_ratio=0.5, reweighted=True)
    draws = []
    for epoch in range(250):
        kept = np.flatnonzero(rows.selection(epoch))
        y = torch.from_numpy(label[kept])
        generator = torch.Generator().manual_seed(epoch)
        selected = mine_hard_negatives(
            logistic_loss(logit[kept], y),
            y,
            mode=mode,
            top_neg_frac=0.1,
            rest_frac=0.2,
            min_neg=8,
            generator=generator,
        )
        draws.append(sums(kept, rows.weights(y).double() * selected))
    stacked = torch.stack(draws)
    z = (stacked.mean(0) - full) / (stacked.std(0) / math.sqrt(len(draws)))
    if mode == "ohem":
        assert z[:2].abs().min() > 100.0, "the loss and the intercept's gradient"
    else:
        assert z.abs().max() < 4.0


def fitted(x: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients of a weighted logistic regression, and their sandwich standard errors, by Newton's method."""
    coefficients = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(25):
        probability = torch.sigmoid(x @ coefficients)
        scores = (weight * (label - probability)).unsqueeze(1) * x
        inverse = torch.linalg.inv((x * (weight * probability * (1 - probability)).unsqueeze(1)).T @ x)
        coefficients = coefficients + inverse @ scores.sum(0)
    return coefficients, (inverse @ (scores.T @ scores) @ inverse).diagonal().sqrt()


@pytest.mark.parametrize("reweighted", [True, False])
def test_the_offset_recovers_natural_logits(reweighted: bool) -> None:
    """A logistic regression on downsampled, weighted rows finds the slopes, and after the offset the intercept."""
    x, label, truth = simulated(100_000, seed=1)
    rows = training_rows(label, neg_ratio=0.1, reweighted=reweighted)
    kept = rows.selection(0)
    y = torch.from_numpy(label[kept])
    found, error = fitted(torch.from_numpy(x[kept]), y, rows.weights(y).double())
    offset = rows.prior.offset
    shifted = found + torch.tensor([offset, 0.0, 0.0], dtype=torch.float64)
    assert ((shifted - truth).abs() < 4 * error).all()
    assert abs(found[0] - truth[0]) > 20 * error[0]
    assert abs(offset) == pytest.approx(math.log(POS_WEIGHT) - (0.0 if reweighted else math.log(0.1)))


def test_weights_and_share_of_positives_of_an_epoch() -> None:
    label = np.array([1] * 10 + [0] * 90, np.uint8)
    y = torch.tensor([1, 0])
    rows = training_rows(label, neg_ratio=0.25, reweighted=True)
    assert rows.weights(y).tolist() == [POS_WEIGHT, 4.0]
    unweighted = replace(rows, prior=replace(rows.prior, reweighted=False))
    assert unweighted.weights(y).tolist() == [POS_WEIGHT, 1.0]
    assert rows.positive_share == pytest.approx(10 / (10 + 0.25 * 90))
    assert np.array_equal(unweighted.selection(3), rows.selection(3))


def test_expected_rows_of_an_epoch() -> None:
    label = np.array([1] * 10 + [0] * 90, np.uint8)
    rows = training_rows(label, neg_ratio=0.25, reweighted=True)
    assert num_drawn_rows(label, rows.prior) == 10 + 0.25 * 90
    drawn = [int(rows.selection(epoch).sum()) for epoch in range(400)]
    assert np.mean(drawn) == pytest.approx(32.5, abs=4 * math.sqrt(90 * 0.25 * 0.75 / 400))
    assert len(set(drawn)) > 1, "each epoch draws anew"


def imbalance(**changes: Any) -> ImbalanceParams:
    return load_params(ROOT / "params.yaml").imbalance.model_copy(update=changes)


def test_the_prior_is_what_the_settings_make_of_the_labels() -> None:
    label = np.array([1] * 10 + [0] * 90, np.uint8)
    assert training_prior(imbalance(), label) == TrainingPrior(base_rate=0.1)
    found = training_prior(
        imbalance(pos_weight="auto", use_neg_downsampling=True, neg_downsample_ratio=0.5, reweight_negatives=False),
        label,
    )
    assert found == TrainingPrior(base_rate=0.1, pos_weight=9.0, neg_ratio=0.5, reweighted=False)
    assert found.offset == pytest.approx(math.log(0.5) - math.log(9.0))
    assert training_prior(imbalance(pos_weight=4.0, neg_downsample_ratio=0.5), label) == TrainingPrior(
        base_rate=0.1, pos_weight=4.0
    ), "the ratio counts only where downsampling is on"


def test_stages_undo_the_shift_of_unweighted_downsampling(
    tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network starts at the shifted base rate, and both validation and the calibrator undo the shift."""
    project = copy_project(tmp_path / "project", log=small_log)
    changes = {"use_neg_downsampling": True, "neg_downsample_ratio": 0.25, "reweight_negatives": False}
    set_params(project / "params.yaml", {f"imbalance.{name}": value for name, value in changes.items()})
    settings = {"imbalance.pos_weight": "auto", "train.lr": 1e-12, "train.epochs": 1}
    set_params(project / "params.yaml", {**settings, "model.embedding_std": 1e-6, "model.members": ["network"]})
    monkeypatch.chdir(project)
    for stage in ("prepare", "split", "train", "calibrate"):
        run_in_process(stage)

    figures = json.loads((project / "metrics/train.json").read_text())
    base_rate, auto = figures["base_rate"], figures["pos_weight"]
    assert auto == pytest.approx((1 - base_rate) / base_rate, rel=1e-5)
    assert (figures["neg_ratio"], figures["reweighted"]) == (0.25, False)
    shift = math.log(auto) - math.log(0.25)
    logit = np.load(project / "artifacts/validation/logit.npy")
    assert logit == pytest.approx(prior_logit(base_rate) + shift, abs=1e-4)
    assert json.loads((project / "artifacts/temperature.json").read_text())["offset"] == pytest.approx(-shift)
    is_selection = np.load(project / "artifacts/validation/is_report.npy") == 0
    label = np.load(project / "artifacts/validation/label.npy")[is_selection]
    expected = logistic_loss(torch.full((label.size,), prior_logit(base_rate)), torch.from_numpy(label)).mean()
    assert figures["val_log_loss"] == pytest.approx(expected.item(), rel=1e-4)
    facts = json.loads((project / "artifacts/validation/facts.json").read_text())
    provenance = json.loads((project / "artifacts/model/model.json").read_text())["provenance"]
    prior = facts["prior"]
    assert {name: provenance[name] for name in prior} == prior
    assert prior == pytest.approx(
        {"base_rate": base_rate, "pos_weight": auto, "neg_ratio": 0.25, "reweighted": False}, rel=1e-5
    )


def test_downsampling_keeps_positives_and_is_unbiased() -> None:
    label = (np.random.default_rng(0).random(200_000) < 0.05).astype(np.uint8)
    keep, weight = neg_downsample(label, ratio=0.2, generator=np.random.default_rng(1))
    num_neg = int((label == 0).sum())
    assert keep[label == 1].all()
    assert (weight[label == 1] == 1.0).all()
    assert set(np.unique(weight[label == 0])) == {np.float32(0.0), np.float32(5.0)}
    assert np.array_equal(weight > 0, keep)
    # A kept negative has weight 5, so the total's standard deviation is 5 sqrt(n q (1 - q)) = 2 sqrt(n).
    assert abs(weight[label == 0].sum(dtype=np.float64) - num_neg) < 4 * 2 * math.sqrt(num_neg)


def test_downsampling_draws_the_same_whatever_the_labels() -> None:
    """One more positive must not reshuffle every later negative."""
    label = np.zeros(1000, np.uint8)
    changed = label.copy()
    changed[0] = 1
    first, _ = neg_downsample(label, ratio=0.5, generator=np.random.default_rng(2))
    second, _ = neg_downsample(changed, ratio=0.5, generator=np.random.default_rng(2))
    assert np.array_equal(first[1:], second[1:])


def test_ratio_one_keeps_everything() -> None:
    keep, weight = neg_downsample(np.array([0, 1, 0], np.uint8), ratio=1.0, generator=np.random.default_rng(0))
    assert keep.all()
    assert (weight == 1.0).all()


def test_positive_weights_balance_the_classes() -> None:
    label = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0])
    weight = positive_weights(label, pos_weight=auto_pos_weight(6, 2))
    assert weight.tolist() == [1, 1, 3, 1, 1, 1, 3, 1]
    assert weight[label == 1].sum() == weight[label == 0].sum()
