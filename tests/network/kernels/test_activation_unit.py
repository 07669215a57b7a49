"""Sums of an activation unit's scores in one pass against the same sums by whole batches, gradients included."""

from typing import Any

import pytest
import torch

from qin.network.kernels.activation_unit import unit_sums
from tests.network.kernels.test_attention import NUM_ROWS, SEQ, WIDTH, make, make_inputs, results

VARIANTS: dict[str, dict[str, Any]] = {
    "alone": {},
    "constant": {"bias": "constant", "norm": "sqrt_length"},
    "everything": {"bias": "recency", "norm": "length", "scale": 0.7, "target_values": True},
}


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_and_gradients_are_those_of_whole_batches(name: str, separate: bool) -> None:
    """Sums of two layers, so a little further apart than those of a product; a wrong term would be a thousand times."""
    attention = make(score="mlp", **VARIANTS[name])
    found = results(attention, torch.float32, separate=separate)
    expected = results(attention.double(), torch.float64, separate=separate)
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b).norm()) < 5e-6 * float(b.norm())


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_gets_no_gradient_and_gives_none(name: str) -> None:
    parts, is_valid = make_inputs()
    target, history = parts[0], parts[1]
    attention = make(score="mlp", **VARIANTS[name])
    clean = attention(target, history, is_valid)
    history[~is_valid] = float("nan")
    history.requires_grad_()
    output = attention(target, history, is_valid)
    assert torch.equal(output, clean)
    grads = torch.autograd.grad(output.sum(), [history, *attention.parameters()])
    assert not grads[0][~is_valid].any()
    assert all(grad.isfinite().all() for grad in grads)
    assert torch.equal(output[3], target[3])


def test_what_is_not_a_number_stays_visible() -> None:
    parts, is_valid = make_inputs()
    target, history = parts[0], parts[1]
    history[0, is_valid[0].nonzero()[0]] = float("nan")
    history.requires_grad_()
    output = make(score="mlp")(target, history, is_valid)
    assert output[0].isnan().all()
    assert output[1:].isfinite().all()
    (grad,) = torch.autograd.grad(output.sum(), history)
    assert grad[0].isnan().any()


def test_the_bytes_do_not_depend_on_the_number_of_threads(num_threads: None) -> None:
    found, units = [], 5
    (_, history, _, keys), is_valid = make_inputs()
    matrix, offset = history[:, :units].mT.contiguous(), history[:, units, :units].contiguous()
    weight, bias = torch.linspace(-1.0, 1.0, units), torch.ones(3, 1)
    assert matrix.shape == (NUM_ROWS, WIDTH, units)
    sources = [tensor.requires_grad_() for tensor in (history, keys, matrix, offset, weight, bias)]
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums = unit_sums(history, keys, (matrix, offset, weight), is_valid, bias, torch.arange(SEQ) // 10)
        parts = [sums.detach(), *torch.autograd.grad(sums.tanh().sum(), sources)]
        found.append(b"".join(part.numpy().tobytes() for part in parts))
    assert len(set(found)) == 1
