"""Selections are unbiased: exactly, over every possible draw of a small batch, and statistically on large ones."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.train.imbalance import auto_pos_weight, neg_downsample, positive_weights
from qin.train.losses import logistic_loss
from qin.train.selection import (
    MiningMode,
    goss_weights,
    inclusion_probabilities,
    mine_hard_negatives,
    ohem_weights,
    pps_weights,
)

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make_problem(num_rows: int, *, seed: int, base_rate: float) -> Problem:
    """Label, loss and gradient per row, ``(rows, 4)``, of a logistic regression at a random point."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, 4, dtype=torch.float64, generator=generator)
    logit = x @ torch.randn(4, dtype=torch.float64, generator=generator) - 1.0
    label = (torch.rand(num_rows, generator=generator) < base_rate).long()
    return label, logistic_loss(logit, label), (torch.sigmoid(logit) - label).unsqueeze(1) * x


def sums(weight: torch.Tensor, loss: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The weighted sums whose expectation must be the full batch's, ``(1 + features,)``."""
    return torch.cat(((weight * loss).sum().unsqueeze(0), weight.double() @ grad))


@pytest.mark.parametrize(("num_top", "num_drawn"), [(0, 1), (0, 4), (2, 3), (3, 1), (5, 5), (9, 1), (10, 0)])
def test_goss_is_exactly_unbiased(num_top: int, num_drawn: int) -> None:
    _, loss, grad = make_problem(10, seed=0, base_rate=0.0)
    draws = list(combinations(range(10 - num_top), num_drawn))
    weights = [goss_weights(loss, num_top=num_top, drawn=torch.tensor(d, dtype=torch.int64)) for d in draws]
    mean = torch.stack([sums(weight, loss, grad) for weight in weights]).mean(0)
    assert (mean - sums(torch.ones(10), loss, grad)).abs().max() < 1e-12


@pytest.mark.parametrize("num_kept", [1, 2, 5, 9, 10])
def test_pps_is_exactly_unbiased(num_kept: int) -> None:
    """Between two neighbouring breakpoints the draw is the same for every start, so the mean is a finite sum."""
    _, loss, grad = make_problem(10, seed=1, base_rate=0.0)
    inclusion = inclusion_probabilities(loss, num_kept=num_kept)
    ends = inclusion.masked_fill(inclusion >= 1.0, 0.0).cumsum(0)
    breakpoints = sorted({0.0, 1.0, *(ends % 1.0).tolist()})
    mean = torch.zeros(5, dtype=torch.float64)
    for low, high in pairwise(breakpoints):
        weight = pps_weights(loss, num_kept=num_kept, start=(low + high) / 2)
        assert abs(int((weight > 0).sum()) - num_kept) <= (1 if high - low < 1e-9 else 0)
        mean += (high - low) * sums(weight, loss, grad)
    assert (mean - sums(torch.ones(10), loss, grad)).abs().max() < 1e-12


def test_ohem_is_biased() -> None:
    _, loss, grad = make_problem(10, seed=0, base_rate=0.0)
    error = sums(ohem_weights(loss, num_kept=5), loss, grad) - sums(torch.ones(10), loss, grad)
    assert error[0] < -0.05 * loss.sum()
    assert error[1:].abs().max() > 0.05


def z_scores(mode: MiningMode) -> torch.Tensor:
    """Mean error of loss and gradient sums over fresh batches, in standard errors, ``(5,)``."""
    generator = torch.Generator().manual_seed(7)
    errors = []
    for seed in range(400):
        label, loss, grad = make_problem(256, seed=seed, base_rate=0.05)
        # The same coefficients in every batch would do as well; fixed signs keep the bias from averaging out.
        grad = grad * grad.sum(0).sign()
        weight = mine_hard_negatives(
            loss, label, mode=mode, top_neg_frac=0.1, rest_frac=0.1, min_neg=4, generator=generator
        )
        errors.append(sums(weight, loss, grad) - sums(torch.ones(256), loss, grad))
    stacked = torch.stack(errors)
    return stacked.mean(0) / (stacked.std(0) / math.sqrt(len(stacked)))


@pytest.mark.parametrize("mode", ["goss", "pps"])
def test_unbiased_modes_pass_the_z_test(mode: MiningMode) -> None:
    assert z_scores(mode).abs().max() < 4.0


def test_naive_top_k_fails_the_z_test() -> None:
    assert z_scores("ohem").abs().min() > 10.0


@settings(max_examples=80, deadline=None)
@given(
    num_rows=st.integers(1, 40),
    base_rate=st.sampled_from([0.0, 0.3, 1.0]),
    top=st.sampled_from([0.0, 0.05, 0.07, 0.5, 1.0]),
    rest=st.sampled_from([0.01, 0.3, 1.0]),
    min_neg=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_counts_and_weights(num_rows: int, base_rate: float, top: float, rest: float, min_neg: int, seed: int) -> None:
    label, loss, _ = make_problem(num_rows, seed=seed, base_rate=base_rate)
    negatives = int((label == 0).sum())
    num_top = math.ceil(round(top * negatives, 6))
    num_kept = min(max(num_top + math.ceil(round(rest * negatives, 6)), min_neg), negatives)
    for mode in ("goss", "pps"):
        generator = torch.Generator().manual_seed(seed)
        weight = mine_hard_negatives(
            loss, label, mode=mode, top_neg_frac=top, rest_frac=rest, min_neg=min_neg, generator=generator
        )
        assert (weight[label == 1] == 1.0).all()
        kept = weight[label == 0] > 0
        assert int(kept.sum()) == num_kept
        assert (weight[weight > 0] >= 1.0 - 1e-12).all()
        if mode == "goss":
            hardest = loss[label == 0].topk(num_top).indices
            assert (weight[label == 0][hardest] == 1.0).all()
            assert weight.sum().item() == pytest.approx(num_rows)


def test_ohem_keeps_the_hardest() -> None:
    label, loss = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([0.3, 0.1, 0.9, 0.2, 0.5])
    generator = torch.Generator().manual_seed(0)
    for top, min_neg, expected in [(0.5, 0, [0, 1, 1, 0, 1]), (0.25, 3, [1, 1, 1, 0, 1]), (0.25, 9, [1, 1, 1, 1, 1])]:
        weight = mine_hard_negatives(
            loss, label, mode="ohem", top_neg_frac=top, rest_frac=0.0, min_neg=min_neg, generator=generator
        )
        assert weight.tolist() == expected


def test_selection_depends_on_the_generator_alone() -> None:
    label, loss, _ = make_problem(100, seed=0, base_rate=0.1)
    for mode in ("goss", "pps"):
        draws = [
            mine_hard_negatives(
                loss.requires_grad_(),
                label,
                mode=mode,
                top_neg_frac=0.1,
                rest_frac=0.1,
                min_neg=0,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in (3, 3, 4)
        ]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
        assert not draws[0].requires_grad


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-9, 0.01, 0.5, 0.5, 3.0, 40.0]), min_size=1, max_size=30), st.data())
def test_inclusion_probabilities_are_proportional_up_to_the_cap(losses: list[float], data: st.DataObject) -> None:
    num_kept = data.draw(st.integers(1, len(losses)))
    loss = torch.tensor(losses, dtype=torch.float64)
    inclusion = inclusion_probabilities(loss, num_kept=num_kept)
    assert inclusion.sum().item() == pytest.approx(num_kept, rel=1e-12)
    assert ((inclusion > 0) & (inclusion <= 1)).all()
    free = inclusion < 1
    if loss.any() and free.any():
        ratio = inclusion / loss.clamp_min(0.1 * loss.mean())
        torch.testing.assert_close(ratio[free], ratio.max().expand_as(ratio[free]), rtol=1e-9, atol=0)


def test_bad_arguments_are_refused() -> None:
    generator = np.random.default_rng(0)
    for ratio in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\]"):
            neg_downsample(np.zeros(3, np.uint8), ratio=ratio, generator=generator)
    with pytest.raises(ValueError, match=r"values \[0 2\]"):
        neg_downsample(np.array([0, 2], np.uint8), ratio=0.5, generator=generator)
    with pytest.raises(ValueError, match="num_positives=0"):
        auto_pos_weight(5, 0)
    with pytest.raises(ValueError, match="pos_weight=0"):
        positive_weights(torch.zeros(2), pos_weight=0)


@pytest.mark.parametrize(
    ("mode", "top", "rest", "min_neg", "message"),
    [
        ("hard", 0.1, 0.1, 0, "mode must be goss, pps or ohem, got 'hard'"),
        ("goss", 1.1, 0.1, 0, r"top_neg_frac must be in \[0, 1\], got 1.1"),
        ("goss", 0.1, 0.0, 0, r"rest_frac must be in \(0, 1\]"),
        ("pps", 0.1, 1.5, 0, r"rest_frac must be in \(0, 1\]"),
        ("pps", 0.1, 0.5, -1, "min_neg must not be negative, got -1"),
        ("ohem", 0.0, 0.5, 0, "would keep no negative"),
    ],
)
def test_bad_mining_settings_are_refused(mode: MiningMode, top: float, rest: float, min_neg: int, message: str) -> None:
    loss, label = torch.ones(3), torch.zeros(3)
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(
            loss, label, mode=mode, top_neg_frac=top, rest_frac=rest, min_neg=min_neg, generator=torch.Generator()
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_losses_that_are_no_losses_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        mine_hard_negatives(
            torch.tensor([1.0, bad]),
            torch.zeros(2),
            mode="goss",
            top_neg_frac=0.1,
            rest_frac=0.1,
            min_neg=0,
            generator=torch.Generator(),
        )
