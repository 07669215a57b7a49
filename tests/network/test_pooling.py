"""The mean of a history against a plain loop, forward and backward."""

import pytest
import torch

from qin.network.pooling import history_mean

BATCH, SEQ, DIM = 300, 7, 5  # more than one tile


def make_history(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randn(BATCH, SEQ, DIM, generator=generator).to(dtype)
    is_valid = torch.rand(BATCH, SEQ, generator=generator) < 0.6
    is_valid[0], is_valid[-1] = False, True
    return sequence, is_valid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_plain_loop(dtype: torch.dtype) -> None:
    sequence, is_valid = make_history(dtype)
    above = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1)).to(dtype)
    leaf = sequence.clone().requires_grad_()
    found = history_mean(leaf, is_valid)
    found.backward(above)  # type: ignore[no-untyped-call]

    mean, grad = torch.zeros(BATCH, DIM, dtype=torch.float64), torch.zeros(BATCH, SEQ, DIM, dtype=torch.float64)
    for i in range(BATCH):
        items = is_valid[i].nonzero().flatten().tolist()
        for position in items:
            mean[i] += sequence[i, position].double() / len(items)
            grad[i, position] = above[i].double() / len(items)
    torch.testing.assert_close(found.double(), mean, rtol=1e-6, atol=1e-6)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), grad, rtol=1e-6, atol=1e-7)
    assert not found[0].any()
    assert not leaf.grad[~is_valid].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_stands_in_padding_is_not_read(dtype: torch.dtype) -> None:
    sequence, is_valid = make_history(dtype)
    expected = history_mean(sequence, is_valid)
    sequence[~is_valid] = torch.nan
    leaf = sequence.requires_grad_()
    found = history_mean(leaf, is_valid)
    assert torch.equal(found, expected)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_an_expanded_gradient_is_read_as_it_is() -> None:
    """A sum's gradient is one number with strides of zero."""
    sequence, is_valid = make_history(torch.float32)
    leaf = sequence.requires_grad_()
    history_mean(leaf, is_valid).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.sum(dim=1), is_valid.any(dim=1, keepdim=True).float().expand(-1, DIM))


def test_no_rows_and_no_items() -> None:
    assert history_mean(torch.empty(0, 4, DIM), torch.empty(0, 4, dtype=torch.bool)).shape == (0, DIM)
    assert not history_mean(torch.empty(3, 0, DIM), torch.empty(3, 0, dtype=torch.bool)).any()
