"""Sums of gradients per row against `np.add.at` and `index_add_`."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.network.kernels import row_gradient
from qin.network.kernels.row_gradient import from_rows, merged, sum_by_row
from qin.network.threads import even_cuts, in_parallel


def draw(*, reads: int, num_rows: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with many duplicates, as popular items have, and normal gradients."""
    generator = torch.Generator().manual_seed(seed)
    row = (num_rows ** torch.rand(reads, generator=generator, dtype=torch.float64)).long().clamp_(max=num_rows) - 1
    return row, torch.randn(reads, dim, generator=generator)


@settings(deadline=None)
@given(
    reads=st.integers(0, 300),
    num_rows=st.sampled_from([1, 2, 7, 2048, 2049, 10_000_000, 2**32]),
    dim=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_sums_equal_add_at(reads: int, num_rows: int, dim: int, seed: int) -> None:
    row, grad = draw(reads=reads, num_rows=num_rows, dim=dim, seed=seed)
    rows, sums = sum_by_row(row, grad.double(), table_rows=num_rows)
    expected_rows, position = np.unique(row.numpy(), return_inverse=True)
    expected = np.zeros((expected_rows.size, dim))
    np.add.at(expected, position, grad.double().numpy())
    assert np.array_equal(rows.numpy(), expected_rows)
    assert np.array_equal(sums.numpy(), expected)  # both add in the order of the reads


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_sums_are_those_of_a_dense_gradient_at_any_number_of_threads(num_threads: int) -> None:
    row, grad = draw(reads=150_000, num_rows=5000, dim=8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        assert even_cuts(len(row)).size == num_threads + 1
        rows, sums = sum_by_row(row, grad, table_rows=5000)
    finally:
        torch.set_num_threads(before)
    dense = torch.zeros(5000, 8).index_add_(0, row, grad)
    assert torch.equal(sums, dense[rows])
    assert torch.equal(from_rows(rows, sums, table_rows=5000).to_dense(), dense)


@pytest.mark.parametrize("padding_row", [row_gradient.NO_PADDING, 0, 3])
def test_the_path_of_other_devices_equals_the_kernel(padding_row: int) -> None:
    row, grad = draw(reads=2000, num_rows=50, dim=4)
    rows, sums = sum_by_row(row, grad, table_rows=50, padding_row=padding_row)
    all_rows, all_sums = row_gradient.sum_by_segment(row, grad, table_rows=50, padding_row=padding_row)
    assert padding_row not in rows.tolist()
    distinct = len(set(row.tolist()))
    assert all_rows.shape == row.shape, "a device is not asked how many rows are distinct"
    assert (all_rows[distinct:] == all_rows[0]).all()
    assert not all_sums[distinct:].any()
    is_padding = all_rows[:distinct] == padding_row
    assert not all_sums[:distinct][is_padding].any()
    assert torch.equal(all_rows[:distinct][~is_padding], rows)
    torch.testing.assert_close(all_sums[:distinct][~is_padding], sums)
    as_sparse = from_rows(all_rows, all_sums, table_rows=50).to_dense()
    torch.testing.assert_close(as_sparse, from_rows(rows, sums, table_rows=50).to_dense())


def test_the_path_of_other_devices_takes_no_read_and_one_read() -> None:
    rows, sums = row_gradient.sum_by_segment(torch.zeros(0, dtype=torch.int64), torch.ones(0, 3), table_rows=2)
    assert (rows.shape, sums.shape) == ((0,), (0, 3))
    rows, sums = row_gradient.sum_by_segment(torch.tensor([1]), torch.ones(1, 3), table_rows=2)
    assert (rows.tolist(), sums.tolist()) == ([1], [[1.0] * 3])


def test_types_without_a_kernel_take_the_torch_path() -> None:
    row = torch.tensor([3, 1, 3])
    rows, sums = sum_by_row(row, torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.bfloat16), table_rows=4)
    assert rows.tolist() == [1, 3]
    assert sums.tolist() == [[2.0], [5.0]]


def test_only_padding_leaves_no_row() -> None:
    rows, sums = sum_by_row(torch.zeros(4, dtype=torch.int64), torch.ones(4, 3), table_rows=2, padding_row=0)
    assert rows.shape == (0,)
    assert sums.shape == (0, 3)


def test_merged_holds_each_row_once() -> None:
    table = torch.zeros(20, 3, requires_grad=True)
    row = torch.tensor([[7, 7, 2], [19, 0, 7]])
    weight = torch.arange(18.0).view(2, 3, 3)
    torch.autograd.backward(F.embedding(row, table, padding_idx=0, sparse=True), weight)
    grad = table.grad
    assert grad is not None
    assert not grad.is_coalesced()
    once = merged(grad)
    assert once.is_coalesced()
    assert once.indices()[0].tolist() == [2, 7, 19]
    assert torch.equal(once.to_dense(), grad.to_dense())
    assert merged(once) is once


def test_merged_keeps_values_whose_rows_are_in_order() -> None:
    rows, values = torch.tensor([1, 4]), torch.ones(2, 3)
    grad = torch.sparse_coo_tensor(rows[None], values, (5, 3), check_invariants=True)
    assert not grad.is_coalesced()
    assert merged(grad).values().data_ptr() == grad._values().data_ptr()


def test_bad_arguments_are_refused() -> None:
    grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"a row must be in \[0, 5\), got 1 to 5"):
        sum_by_row(torch.tensor([1, 5]), grad, table_rows=5)
    with pytest.raises(ValueError, match=r"got -1 to 2"):
        sum_by_row(torch.tensor([2, -1]), grad, table_rows=5)
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 3\)"):
        sum_by_row(torch.tensor([2, 1, 1]), grad, table_rows=5)
    with pytest.raises(ValueError, match=r"2\*\*32 rows"):
        sum_by_row(torch.tensor([2, 1]), grad, table_rows=2**32 + 1)


def test_an_error_in_a_thread_is_raised() -> None:
    def work(first: int, last: int) -> None:
        if first == 2:
            raise RuntimeError(f"part to {last}")

    cuts: npt.NDArray[np.int64] = np.array([0, 2, 5])
    with pytest.raises(RuntimeError, match="part to 5"):
        in_parallel(work, cuts)
