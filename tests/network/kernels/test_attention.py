"""The attention's sums in one pass against the same sums by whole batches, gradients included."""

from typing import Any

import pytest
import torch
from torch import nn

from qin.network.attention import AttentionOptions, TargetAttention
from qin.network.kernels.attention import attended_sums
from qin.network.threads import TILE_ROWS

NUM_ROWS, SEQ, TARGET, WIDTH = TILE_ROWS + 30, 21, 12, 6
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "constant": {"bias": "constant", "norm": "sqrt_length"},
    "recency": {"bias": "recency", "norm": "length"},
    "heads": {"num_heads": 3, "bias": "recency", "target_values": True},
}


def make(**variant: Any) -> TargetAttention:
    attention = TargetAttention(TARGET, sequence_dim=WIDTH, attention_dim=24, options=AttentionOptions(**variant))
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return attention


def make_inputs() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Target, history, query and keys, and which items are valid: holes anywhere, one history empty."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((NUM_ROWS, TARGET), (NUM_ROWS, SEQ, WIDTH), (NUM_ROWS, TARGET), (NUM_ROWS, SEQ, WIDTH))
    is_valid = torch.rand(NUM_ROWS, SEQ, generator=generator) < 0.6
    is_valid[3] = False
    return [torch.randn(size, generator=generator) for size in sizes], is_valid


def results(attention: TargetAttention, dtype: torch.dtype, *, separate: bool) -> list[torch.Tensor]:
    parts, is_valid = make_inputs()
    target, history, query, keys = (part.to(dtype).requires_grad_() for part in parts)
    others = {"query": query, "keys": keys} if separate else {}
    output = attention(target, history, is_valid, **others)
    inputs = [target, history, *others.values(), *attention.parameters()]
    return [output.detach(), *torch.autograd.grad(output.tanh().sum(), inputs)]


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_and_gradients_are_those_of_whole_batches(name: str, separate: bool) -> None:
    """Whole batches in float64 are what the authors' fixtures check; what is left is the rounding of float32."""
    attention = make(**VARIANTS[name])
    found = results(attention, torch.float32, separate=separate)
    expected = results(attention.double(), torch.float64, separate=separate)
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b).norm()) < 2e-6 * float(b.norm())


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_gets_no_gradient_and_gives_none(name: str) -> None:
    parts, is_valid = make_inputs()
    target, history = parts[0], parts[1]
    attention = make(**VARIANTS[name])
    clean = attention(target, history, is_valid)
    history[~is_valid] = float("nan")
    history.requires_grad_()
    output = attention(target, history, is_valid)
    assert torch.equal(output, clean)
    (grad,) = torch.autograd.grad(output.sum(), history)
    assert not grad[~is_valid].any()
    assert torch.equal(output[3], target[3])


def test_the_bytes_do_not_depend_on_the_number_of_threads(num_threads: None) -> None:
    found = []
    (_, history, _, keys), is_valid = make_inputs()
    direction, bias = history[:, :2].contiguous(), torch.ones(3, 2)
    history, keys, direction, bias = (tensor.requires_grad_() for tensor in (history, keys, direction, bias))
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums = attended_sums(history, keys, direction, is_valid, bias, torch.arange(SEQ) // 10)
        parts = [sums.detach(), *torch.autograd.grad(sums.tanh().sum(), [history, keys, direction, bias])]
        found.append(b"".join(part.numpy().tobytes() for part in parts))
    assert len(set(found)) == 1
