"""Losses against high-precision arithmetic, scikit-learn and automatic differentiation of the plain formula."""

import functools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from sklearn.metrics import log_loss

from qin.train.losses import logistic_loss, self_ensemble, weighted_logistic_loss


def exact_loss(logit: float, label: int) -> float:
    with localcontext() as context:
        context.prec = 60
        margin = Decimal(logit) if label else -Decimal(logit)
        return float((1 + (-margin).exp()).ln())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_relative_precision_at_every_scale(dtype: torch.dtype) -> None:
    values = [-60.0, -30.0, -20.5, -1.25, -1e-6, 0.0, 0.5, 19.75, 30.0, 60.0]
    logit = torch.tensor([*values, *values], dtype=dtype)
    label = torch.tensor([0] * len(values) + [1] * len(values))
    expected = [exact_loss(z, y) for z, y in zip(logit.tolist(), label.tolist(), strict=True)]
    rtol = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(logistic_loss(logit, label), torch.tensor(expected, dtype=dtype), rtol=rtol, atol=0)


def test_equals_scikit_learn_for_weighted_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(200, dtype=torch.float64, generator=generator) * 3
    label = (torch.rand(200, generator=generator) < 0.2).to(torch.uint8)
    weight = torch.rand(200, dtype=torch.float64, generator=generator)
    loss = weighted_logistic_loss(logit, label, sample_weight=weight, denominator=float(weight.sum()))
    assert loss.item() == pytest.approx(log_loss(label, torch.sigmoid(logit), sample_weight=weight), rel=1e-12)


def test_gradient_is_weight_times_probability_minus_label() -> None:
    logit = torch.tensor([-40.0, -1.0, 0.0, 2.0, 40.0, 3.0], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1, 0, 1, 0, 1, 0])
    weight = torch.tensor([1.0, 10.0, 0.5, 2.0, 3.0, 0.0], dtype=torch.float64)
    loss = weighted_logistic_loss(logit, label, sample_weight=weight, denominator=torch.tensor(7.0))
    (grad,) = torch.autograd.grad(loss, logit)
    torch.testing.assert_close(grad, weight * (torch.sigmoid(logit.detach()) - label) / 7.0)


def test_the_denominator_stays_when_rows_are_dropped() -> None:
    logit, label = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1, 0, 0])
    weight = torch.tensor([1.0, 0.0, 0.0])
    loss = weighted_logistic_loss(logit, label, sample_weight=weight, denominator=3.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.0)) / 3.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened(dtype: torch.dtype) -> None:
    logit, label = torch.tensor([-7.5, 3.0], dtype=dtype), torch.tensor([0, 1])
    loss = logistic_loss(logit, label)
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([exact_loss(-7.5, 0), exact_loss(3.0, 1)], rel=1e-6)


def test_self_ensemble_is_the_published_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, dtype=torch.float64, generator=generator, requires_grad=True)
    label = (torch.rand(50, generator=generator) < 0.3).double()
    ensemble, divergence = self_ensemble(logits[0], logits[1])
    loss = (logistic_loss(ensemble, label) + divergence).sum()

    probability = logits.sigmoid()
    mean = probability.mean(0)
    bce = functools.partial(torch.nn.functional.binary_cross_entropy, reduction="sum")
    published = bce(mean, label) + bce(probability[0], mean.detach()) + bce(probability[1], mean.detach())
    entropy = bce(mean, mean)
    torch.testing.assert_close(loss, published - 2 * entropy, rtol=1e-12, atol=0)
    (found,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(published, logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_passes_are_their_own_ensemble_at_every_scale(dtype: torch.dtype) -> None:
    logit = torch.tensor([-60.0, -20.5, -1e-6, 0.5, 60.0], dtype=dtype, requires_grad=True)
    ensemble, divergence = self_ensemble(logit, logit.detach())
    rtol, atol = (1e-6, 1e-6) if dtype == torch.float32 else (1e-14, 1e-14)
    torch.testing.assert_close(ensemble, logit, rtol=rtol, atol=atol)
    torch.testing.assert_close(divergence, torch.zeros_like(divergence), rtol=0, atol=atol)
    (grad,) = torch.autograd.grad(divergence.sum(), logit)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=atol)


def test_bad_inputs_are_refused() -> None:
    logit, label, weight = torch.zeros(4), torch.zeros(4, dtype=torch.int64), torch.ones(4)
    with pytest.raises(ValueError, match=r"label must have the shape of logit, \(4,\), got \(4, 1\)"):
        logistic_loss(logit, label[:, None])
    with pytest.raises(ValueError, match=r"floating-point of shape \(batch,\), got torch.float32 \(4, 1\)"):
        logistic_loss(logit[:, None], label[:, None])
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        logistic_loss(label, label)
    with pytest.raises(ValueError, match="sample_weight must have the shape"):
        weighted_logistic_loss(logit, label, sample_weight=weight[:3], denominator=4.0)
    with pytest.raises(ValueError, match=r"second must have the shape of logit, \(4,\), got \(3,\)"):
        self_ensemble(logit, logit[:3])
    with pytest.raises(ValueError, match="extra_loss must have the shape"):
        weighted_logistic_loss(logit, label, sample_weight=weight, denominator=4.0, extra_loss=weight[:3])
    for denominator in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="denominator must be positive and finite"):
            weighted_logistic_loss(logit, label, sample_weight=weight, denominator=denominator)
    with pytest.raises(ValueError, match="must be a scalar"):
        weighted_logistic_loss(logit, label, sample_weight=weight, denominator=torch.ones(4))
