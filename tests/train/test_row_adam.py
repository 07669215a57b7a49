"""Row-wise Adam against a loop over rows in float64, and against torch's own optimizers where they agree."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.embedding import FusedEmbedding
from qin.network.threads import even_cuts
from qin.train import optimizers
from qin.train.optimizers import RowWiseAdam
from tests.network.lookup import lookup

NUM_ROWS, DIM = 40, 6


def make_table(*, num_rows: int = NUM_ROWS, dim: int = DIM) -> nn.Parameter:
    table = nn.Parameter(torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        table[0] = 0.0
    return table


def batches(count: int, *, reads: int = 30, num_rows: int = NUM_ROWS) -> list[torch.Tensor]:
    """Rows with duplicates and padding; only the lower three quarters of the table are read."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, num_rows * 3 // 4, (reads,), generator=generator) for _ in range(count)]


def cotangent(row: torch.Tensor, dim: int, *, seed: int) -> torch.Tensor:
    return torch.randn(len(row), dim, generator=torch.Generator().manual_seed(seed))


def train(table: nn.Parameter, optimizer: torch.optim.Optimizer, rows: list[torch.Tensor], *, first: int = 0) -> None:
    for seed, row in enumerate(rows[first:], first):
        optimizer.zero_grad()
        read = F.embedding(row, table, padding_idx=0, sparse=True)
        torch.autograd.backward(read, cotangent(row, table.shape[1], seed=seed))
        optimizer.step()


def reference(
    table: npt.NDArray[np.float64], rows: list[torch.Tensor], *, lr: float, weight_decay: float
) -> npt.NDArray[np.float64]:
    """The published update, one row at a time."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    w, m, v = table.copy(), np.zeros_like(table), np.zeros(len(table))
    for step, row in enumerate(rows, 1):
        gradients: dict[int, npt.NDArray[np.float64]] = {}
        for index, g in zip(row.tolist(), cotangent(row, w.shape[1], seed=step - 1).double().numpy(), strict=True):
            if index != 0:
                gradients[index] = gradients.get(index, np.zeros(w.shape[1])) + g
        for index, g in gradients.items():
            m[index] = beta1 * m[index] + (1 - beta1) * g
            v[index] = beta2 * v[index] + (1 - beta2) * (g @ g) / len(g)
            w[index] *= 1 - lr * weight_decay
            w[index] -= lr * m[index] / (1 - beta1**step) / (math.sqrt(v[index] / (1 - beta2**step)) + eps)
    return w


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_equals_a_loop_over_rows(weight_decay: float) -> None:
    table, rows = make_table(), batches(12)
    before = table.detach().clone()
    train(table, RowWiseAdam([table], lr=0.05, weight_decay=weight_decay), rows)
    expected = reference(before.double().numpy(), rows, lr=0.05, weight_decay=weight_decay)
    np.testing.assert_allclose(table.detach().numpy(), expected, rtol=2e-6, atol=2e-6)
    assert np.abs(expected - before.numpy()).max() > 0.1
    assert torch.equal(table[NUM_ROWS * 3 // 4 :], before[NUM_ROWS * 3 // 4 :])
    assert torch.equal(table[0], torch.zeros(DIM))


def test_equals_sparse_adam_where_a_row_is_one_weight() -> None:
    table, other, rows = make_table(dim=1), make_table(dim=1), batches(20, reads=8)
    train(table, RowWiseAdam([table], lr=0.05), rows)
    train(other, torch.optim.SparseAdam([other], lr=0.05), rows)
    torch.testing.assert_close(table, other, rtol=2e-6, atol=2e-6)


def test_equals_adamw_where_a_row_is_one_weight_and_every_row_is_read() -> None:
    table, other = make_table(dim=1), make_table(dim=1)
    optimizer = RowWiseAdam([table], lr=0.05, weight_decay=0.3)
    expected = torch.optim.AdamW([other], lr=0.05, weight_decay=0.3)
    everything = torch.arange(NUM_ROWS)
    for seed in range(20):
        for parameter, sparse in ((table, True), (other, False)):
            parameter.grad = None
            read = F.embedding(everything, parameter, sparse=sparse)
            torch.autograd.backward(read, cotangent(everything, 1, seed=seed))
        optimizer.step()
        expected.step()
    torch.testing.assert_close(table, other, rtol=2e-6, atol=2e-6)


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    num_rows, rows = 200_000, batches(2, reads=150_000, num_rows=200_000)
    tables = []
    for number in (1, 2, 3):
        with threads(number):
            assert even_cuts(len(torch.unique(rows[0]))).size == min(number, 2) + 1  # so many parts
            table = make_table(num_rows=num_rows, dim=4)
            train(table, RowWiseAdam([table], lr=0.05, weight_decay=0.1), rows)
        tables.append(table.detach())
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])


def test_torch_path_equals_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    table, other, rows = make_table(), make_table(), batches(12)
    train(table, RowWiseAdam([table], lr=0.05, weight_decay=0.3), rows)
    monkeypatch.setattr(optimizers, "_update_with_kernel", optimizers._update_with_torch)
    train(other, RowWiseAdam([other], lr=0.05, weight_decay=0.3), rows)
    torch.testing.assert_close(table, other, rtol=2e-6, atol=2e-6)


def test_a_saved_state_continues_exactly() -> None:
    table, rows = make_table(), batches(10)
    optimizer = RowWiseAdam([table], lr=0.05, weight_decay=0.1)
    train(table, optimizer, rows[:6])
    file = io.BytesIO()
    torch.save({"table": table.detach(), "optimizer": optimizer.state_dict()}, file)
    train(table, optimizer, rows, first=6)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = nn.Parameter(saved["table"])
    optimizer = RowWiseAdam([resumed], lr=7.0)
    optimizer.load_state_dict(saved["optimizer"])
    state = optimizer.state_dict()["state"][0]
    assert state["step"] == 6
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items() if name != "step"} == {
        "first_moment": (torch.float32, (NUM_ROWS, DIM)),
        "second_moment": (torch.float32, (NUM_ROWS,)),
    }
    train(resumed, optimizer, rows, first=6)
    assert torch.equal(resumed, table)


def test_padding_of_a_fused_embedding_never_moves() -> None:
    embedding = FusedEmbedding((4, 2, 7), dim=3, sparse=True)
    optimizer = RowWiseAdam(embedding.parameters(), lr=0.1, weight_decay=0.1)
    buckets, history = torch.tensor([[0, 0, 0], [3, 1, 2]]), torch.tensor([[2, 0], [0, 0]])
    for _ in range(5):
        optimizer.zero_grad()
        (embedding(buckets).sum() + lookup(embedding, history, field=2).sum()).backward()
        optimizer.step()
    moved = embedding.embedding_table.detach().abs().sum(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [3, 5, 8]  # buckets 3, 1, 2 behind offsets 0, 4, 6


def test_a_step_without_reads_or_gradient_moves_nothing() -> None:
    table = make_table()
    before = table.detach().clone()
    optimizer = RowWiseAdam([table], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert not optimizer.state
    train(table, optimizer, [torch.zeros(3, dtype=torch.int64)])
    assert torch.equal(table, before)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must not be negative, got lr=-1.0"):
        RowWiseAdam([make_table()], lr=-1.0)
    with pytest.raises(ValueError, match=r"betas=\(0.9, 1.0\)"):
        RowWiseAdam([make_table()], lr=0.1, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"got \(3,\), torch.float32"):
        RowWiseAdam([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(ValueError, match=r"torch.float64"):
        RowWiseAdam([nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))], lr=0.1)
    with pytest.raises(ValueError, match=r"contiguous, got \(2, 3\)"):
        RowWiseAdam([nn.Parameter(torch.zeros(3, 2).T)], lr=0.1)
    table = make_table()
    optimizer = RowWiseAdam([table], lr=0.1)
    table.grad = torch.zeros_like(table)
    with pytest.raises(ValueError, match=r"a dense one of shape \(40, 6\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


def test_a_row_outside_the_table_is_refused() -> None:
    table = make_table()
    indices = torch.tensor([[2, NUM_ROWS]])
    table.grad = torch.sparse_coo_tensor(indices, torch.ones(2, DIM), (NUM_ROWS, DIM), check_invariants=False)
    with pytest.raises(ValueError, match=r"in \[0, 40\), got 2 to 40"):
        RowWiseAdam([table], lr=0.1).step()
