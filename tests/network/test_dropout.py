"""Dropout keeps the mean, drops the share asked for, independently, and is seeded."""

import math

import pytest
import torch

from qin.network.dropout import dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.999])
def test_the_share_asked_for_is_dropped_and_the_mean_kept(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(999, 1001)  # not a multiple of the elements that a word decides
    y = dropout(x, probability, training=True)
    share, std = float((y == 0).double().mean()), math.sqrt(probability * (1 - probability) / x.numel())
    assert abs(share - probability) < 5 * std + 1 / (1 << 16)
    assert abs(float(y.double().mean()) - 1) < 5 * std / (1 - probability)
    assert torch.unique(y).tolist() == [
        0.0,
        pytest.approx(1 / (1 - probability), rel=1e-2 if probability > 0.9 else 1e-4),
    ]


def test_elements_are_dropped_independently() -> None:
    """Of pairs up to five apart, which covers those of one word, both are dropped as often as chance has it."""
    torch.manual_seed(1)
    is_dropped = dropout(torch.ones(1 << 20), 0.3, training=True) == 0
    for distance in range(1, 6):
        both = float((is_dropped[distance:] & is_dropped[:-distance]).double().mean())
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / (1 << 20)) + 1e-4


def test_gradients_pass_where_values_do() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(2)
        x = torch.linspace(1, 2, 60, dtype=dtype).view(6, 10).requires_grad_()
        y = dropout(x, 0.5, training=True)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert y.dtype == dtype
        assert torch.equal(grad, torch.where(y == 0, 0.0, 2.0).to(dtype))
        torch.manual_seed(2)
        assert torch.equal(dropout(x, 0.5, training=True), y)


def test_nothing_is_dropped_outside_training_or_without_a_probability() -> None:
    x, state = torch.ones(8), torch.random.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(torch.random.get_rng_state(), state)
