"""The fused table against one plain table per vocabulary, and the numeric block against a plain loop."""

import pytest
import torch
from torch import nn

from qin.network.embedding import FusedEmbedding
from tests.network.lookup import lookup

NUM_BUCKETS = (4, 2, 7)


def make(*, sparse: bool = False) -> FusedEmbedding:
    embedding = FusedEmbedding(NUM_BUCKETS, dim=3, sparse=sparse)
    nn.init.normal_(embedding.embedding_table, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding.embedding_table[embedding.offsets] = 0.0
    return embedding


def separate_tables(embedding: FusedEmbedding) -> list[torch.Tensor]:
    tables = torch.split(embedding.embedding_table.detach(), list(NUM_BUCKETS))
    return [table.clone().requires_grad_() for table in tables]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint16, torch.uint8])
def test_equals_one_table_per_vocabulary(dtype: torch.dtype, sparse: bool) -> None:
    embedding = make(sparse=sparse)
    tables = separate_tables(embedding)
    buckets = torch.tensor([[0, 1, 6], [3, 0, 2], [3, 1, 6], [1, 1, 0]])
    history = torch.tensor([[2, 6, 6, 0], [3, 0, 0, 0], [0, 0, 0, 0], [5, 4, 0, 0]])
    expected = torch.stack([nn.functional.embedding(buckets[:, f], t, padding_idx=0) for f, t in enumerate(tables)], 1)
    expected_history = nn.functional.embedding(history, tables[2], padding_idx=0)

    output, looked_up = embedding(buckets.to(dtype)), lookup(embedding, history.to(dtype), field=2)
    assert torch.equal(output, expected)
    assert torch.equal(looked_up, expected_history)

    weights = torch.arange(1.0, output.numel() + 1).view_as(output)
    ((output * weights).sum() + looked_up.square().sum()).backward()
    torch.autograd.backward((expected * weights).sum() + expected_history.square().sum())
    grad = embedding.embedding_table.grad
    assert grad is not None
    assert grad.is_sparse == sparse
    torch.testing.assert_close(grad.to_dense(), torch.cat([t.grad for t in tables if t.grad is not None]))


def test_null_is_read_in_place_of_rare_values() -> None:
    """By fields and histories, forward and backward; padding, null and frequent values stay."""
    plain = make()
    is_rare = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0], dtype=torch.bool)
    embedding = FusedEmbedding(NUM_BUCKETS, dim=3, is_rare=is_rare)
    embedding.load_state_dict({**plain.state_dict(), "is_rare": is_rare})
    buckets, history = torch.tensor([[0, 1, 5], [3, 0, 6], [2, 1, 2]]), torch.tensor([[2, 5, 0], [6, 2, 3]])
    known, known_history = torch.tensor([[0, 1, 1], [1, 0, 6], [2, 1, 1]]), torch.tensor([[1, 1, 0], [6, 1, 3]])
    weights = torch.arange(1.0, 28.0).view(3, 3, 3)
    for one, fields, items in ((embedding, buckets, history), (plain, known, known_history)):
        ((one(fields) * weights).sum() + lookup(one, items, field=2).square().sum()).backward()
    assert torch.equal(embedding(buckets), plain(known))
    assert torch.equal(lookup(embedding, history, field=2), lookup(plain, known_history, field=2))
    assert embedding.embedding_table.grad is not None
    assert plain.embedding_table.grad is not None
    assert torch.equal(embedding.embedding_table.grad, plain.embedding_table.grad)
    assert not embedding.embedding_table.grad[is_rare].any()
    assert torch.equal(embedding.field_index(buckets), known)
    assert torch.equal(embedding.sequence_index(history, field=2), known_history)


def test_which_values_are_rare_is_said_of_every_row() -> None:
    for is_rare in (torch.zeros(12, dtype=torch.bool), torch.zeros(13)):
        with pytest.raises(ValueError, match=r"is_rare must be bool, \(13,\), got"):
            FusedEmbedding(NUM_BUCKETS, dim=3, is_rare=is_rare)


def test_leading_vocabularies_may_be_read_alone() -> None:
    embedding = make()
    buckets = torch.tensor([[2, 1], [3, 0]])
    assert torch.equal(embedding(buckets), embedding(torch.tensor([[2, 1, 0], [3, 0, 0]]))[:, :2])


@pytest.mark.parametrize("optimizer_type", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_padding_stays_zero_through_training(optimizer_type: type[torch.optim.Optimizer]) -> None:
    embedding = make()
    optimizer = optimizer_type(embedding.parameters(), lr=0.1, weight_decay=0.1)  # type: ignore[call-arg]
    buckets, history = torch.tensor([[0, 0, 0], [3, 1, 2]]), torch.tensor([[2, 0], [0, 0]])
    before = embedding.embedding_table.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        (embedding(buckets).sum() + lookup(embedding, history, field=2).sum()).backward()
        optimizer.step()
    assert not torch.equal(embedding.embedding_table, before)
    assert torch.equal(embedding(buckets)[0], torch.zeros(3, 3))
    assert torch.equal(lookup(embedding, history, field=2)[:, 1], torch.zeros(2, 3))


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_do_not_depend_on_the_number_of_threads(sparse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(0, 7, (2500, 40), generator=generator)
    cotangent = torch.randn(2500, 40, 3, generator=generator)
    grads = []
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            embedding = make(sparse=sparse)
            torch.autograd.backward(lookup(embedding, history, field=2), cotangent)
            grad = embedding.embedding_table.grad
            assert grad is not None
            grads.append(grad.to_dense())
    finally:
        torch.set_num_threads(num_threads)
    assert grads[0].abs().sum() > 0
    assert all(torch.equal(grads[0], grad) for grad in grads)


def test_a_sparse_gradient_has_the_bytes_of_the_dense_one_and_each_row_once() -> None:
    generator = torch.Generator().manual_seed(0)
    buckets = torch.stack([torch.randint(0, n, (200,), generator=generator) for n in NUM_BUCKETS], dim=1)
    histories = [torch.randint(0, 7, (200, 5), generator=generator) for _ in range(2)]
    grads = []
    for sparse in (False, True):
        embedding = make(sparse=sparse)
        outputs = [embedding(buckets), *(lookup(embedding, history, field=2) for history in histories)]
        generator.manual_seed(1)
        torch.autograd.backward(outputs, [torch.randn(x.shape, generator=generator) for x in outputs])
        grad = embedding.embedding_table.grad
        assert grad is not None
        grads.append(grad)
    dense, sparse_grad = grads
    rows = sparse_grad._indices()[0]
    assert (rows[1:] > rows[:-1]).all()
    assert set(rows.tolist()).isdisjoint(make().offsets.tolist())  # no padding
    assert torch.equal(sparse_grad.to_dense(), dense)


def test_a_bucket_never_reads_another_vocabulary() -> None:
    embedding = make()
    with pytest.raises(ValueError, match=r"must be in \[0, 2\) here, got 2 at row 1, column 1"):
        embedding(torch.tensor([[3, 1, 6], [3, 2, 6]]))
    with pytest.raises(ValueError, match=r"must be in \[0, 4\) here, got -1 at row 0, column 2"):
        lookup(embedding, torch.tensor([[1, 2, -1]]), field=0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2 buckets, got \[4, 1\]"):
        FusedEmbedding([4, 1], dim=2)
    with pytest.raises(ValueError, match=r"at least 2 buckets, got \[\]"):
        FusedEmbedding([], dim=2)
    with pytest.raises(ValueError, match="dim=0"):
        FusedEmbedding([4], dim=0)
    embedding = make()
    with pytest.raises(ValueError, match=r"integers, got torch.float32"):
        embedding(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"at most 3 fields, got \(2, 4\)"):
        embedding(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="field=3"):
        lookup(embedding, torch.zeros(2, 4, dtype=torch.int64), field=3)
