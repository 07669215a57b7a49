"""Clipping against torch's on dense gradients, and two optimizers driven as one."""

import io

import pytest
import torch
from torch import nn

from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs
from qin.train.optimizers import Optimizers, RowWiseAdam, clip_grad_norm
from tests.network.sizes import make_sizes


def make_model(*, sparse: bool, embedding_std: float = 0.3) -> QIN:
    sizes = make_sizes(
        embedding_dim=4, attention_dim=4, num_layers=1, embedding_std=embedding_std, sparse_embedding_grad=sparse
    )
    inputs = QINInputs(num_buckets=(30, 5), num_fields=2, sequence_vocabulary=(0, 0), target_fields=(0,))
    normalizer = NumericNormalizer(torch.zeros(1), torch.ones(1))
    return QIN(
        inputs=inputs,
        sizes=sizes,
        fitted=FittedInputs(normalizer=normalizer),
        generator=torch.Generator().manual_seed(0),
    )


def backward(model: QIN, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.stack([torch.randint(n, (64,), generator=generator) for n in (30, 5)], dim=1)
    history = torch.randint(0, 20, (64, 10), generator=generator)
    logit = model(buckets, torch.randn(64, 1, generator=generator), (history, history.flip(0)))
    (logit * torch.randn(64, generator=generator)).sum().backward()


def make_optimizers(model: QIN) -> Optimizers:
    table = model.embedding.embedding_table
    rest = [parameter for parameter in model.parameters() if parameter is not table]
    return Optimizers(torch.optim.AdamW(rest, lr=0.01), RowWiseAdam([table], lr=0.01))


def train(model: QIN, optimizers: Optimizers, *, first: int, last: int) -> None:
    for step in range(first, last):
        for group in optimizers.param_groups:
            group["lr"] = 0.01 / (step + 1)
        optimizers.zero_grad()
        backward(model, seed=step)
        clip_grad_norm(model.parameters(), max_norm=1.0)
        optimizers.step()


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_sparse_gradients_are_clipped_like_dense_ones(max_norm: float) -> None:
    sparse, dense = make_model(sparse=True), make_model(sparse=False)
    for model in (sparse, dense):
        backward(model, seed=0)
    expected = nn.utils.clip_grad_norm_(dense.parameters(), max_norm)
    assert 0.5 < float(expected) < 1e6
    torch.testing.assert_close(clip_grad_norm(sparse.parameters(), max_norm=max_norm), expected)
    for one, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.to_dense(), other.grad)


def test_reads_of_a_row_are_added_before_the_norm() -> None:
    table = nn.Parameter(torch.zeros(5, 2))
    read = nn.functional.embedding(torch.tensor([3, 3, 3, 3]), table, sparse=True)
    torch.autograd.backward(read, torch.ones(4, 2))
    assert float(clip_grad_norm([table], max_norm=1.0)) == pytest.approx(4 * 2**0.5)
    assert table.grad is not None
    torch.testing.assert_close(table.grad.to_dense()[3], torch.full((2,), 0.5**0.5))


def test_dense_gradients_are_clipped_to_the_same_bytes_as_by_torch() -> None:
    one, other = make_model(sparse=False), make_model(sparse=False)
    for model in (one, other):
        backward(model, seed=0)
    assert torch.equal(
        clip_grad_norm(one.parameters(), max_norm=0.5), nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    )
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad, its.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_hidden(value: float) -> None:
    whole, broken = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    whole.grad, broken.grad = torch.full((2,), 0.1), torch.tensor([value, 0.1])
    norm = clip_grad_norm([whole, broken], max_norm=10.0)
    assert not norm.isfinite()
    assert broken.grad[0].isnan()


def test_driven_as_one_they_do_what_each_does_alone() -> None:
    together, apart = make_model(sparse=True), make_model(sparse=True)
    optimizers = make_optimizers(together)
    train(together, optimizers, first=0, last=3)
    table = apart.embedding.embedding_table
    dense = torch.optim.AdamW([p for p in apart.parameters() if p is not table], lr=0.01)
    sparse = RowWiseAdam([table], lr=0.01)
    for step in range(3):
        dense.param_groups[0]["lr"] = sparse.param_groups[0]["lr"] = 0.01 / (step + 1)
        apart.zero_grad()
        backward(apart, seed=step)
        clip_grad_norm(apart.parameters(), max_norm=1.0)
        dense.step()
        sparse.step()
    for mine, its in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert [group["lr"] for group in optimizers.param_groups] == [0.01 / 3, 0.01 / 3]


def test_a_saved_state_continues_exactly() -> None:
    model = make_model(sparse=True)
    optimizers = make_optimizers(model)
    train(model, optimizers, first=0, last=4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizers.state_dict()}, file)
    train(model, optimizers, first=4, last=7)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = make_model(sparse=True, embedding_std=0.5)
    resumed.load_state_dict(saved["model"])
    optimizers = make_optimizers(resumed)
    optimizers.load_state_dict(saved["optimizer"])
    train(resumed, optimizers, first=4, last=7)
    for mine, its in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_bad_arguments_are_refused() -> None:
    model = make_model(sparse=True)
    parts = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(ValueError, match="one in two"):
        Optimizers(*parts)
    with pytest.raises(ValueError, match="got none"):
        Optimizers()
    with pytest.raises(ValueError, match="must have 1 parts, got 2"):
        Optimizers(parts[0]).load_state_dict({"parts": [part.state_dict() for part in parts]})
