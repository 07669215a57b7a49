"""Gradients of single rows of a table: what many reads of the same row add up to, without a buffer of the table's size.

The sum of a row runs over its reads in their order, so its bytes depend neither on the number of threads nor on
the other rows; it equals what `index_add_` into a dense gradient gives. PyTorch's own `coalesce` leaves the order open.

Other devices than the CPU are given their sums without a stall: nothing there has a shape that depends on what is in a
tensor, so that the step may be recorded.
"""

import numpy as np
import torch

from qin.network.kernels.arrays import FloatArray, Int64Array, UInt64Array
from qin.network.kernels.choice import has_kernels
from qin.network.threads import even_cuts, in_parallel
from qin.runtime.jit import njit

NO_PADDING = -1

_DIGIT_BITS = 11
_POSITION_BITS = 32


def sum_by_row(
    row: torch.Tensor, grad: torch.Tensor, *, table_rows: int, padding_row: int = NO_PADDING
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the gradients of each row.

    Args:
        row: Row of the table that each gradient belongs to, int64, `(reads,)`.
        grad: Gradients, `(reads, dim)`.
        table_rows: Rows of the table.
        padding_row: A row to leave out, or `NO_PADDING`.

    Returns:
        Distinct rows in ascending order, int64, `(distinct,)`, and their sums, `(distinct, dim)`. On other devices than
        the CPU there are as many as reads: after the distinct rows the first one stands again and again, with sums of
        0, and padding stays, with a sum of 0.

    Raises:
        ValueError: If the shapes do not match, or a row lies outside the table (checked on the CPU only: elsewhere the
            check would stall the device).
    """
    if row.dim() != 1 or grad.dim() != 2 or len(row) != len(grad):
        raise ValueError(f"row must be (reads,) and grad (reads, dim), got {tuple(row.shape)} and {tuple(grad.shape)}")
    if not has_kernels(grad):
        return sum_by_segment(row, grad, table_rows=table_rows, padding_row=padding_row)
    if grad.dtype not in (torch.float32, torch.float64):
        return _distinct(*sum_by_segment(row, grad, table_rows=table_rows, padding_row=padding_row), padding_row)
    if len(row) > 1 << _POSITION_BITS or table_rows > 1 << (64 - _POSITION_BITS):
        raise ValueError(f"at most 2**32 reads of 2**32 rows can be added up, got {len(row)} of {table_rows}")
    bits = max(1, (table_rows - 1).bit_length())
    in_range, packed = _pack(row.contiguous().numpy(), table_rows, padding_row)
    if not in_range:
        raise ValueError(f"a row must be in [0, {table_rows}), got {int(row.min())} to {int(row.max())}")
    packed = _sort(packed, bits)  # by row, then by position: the order in which a dense gradient would add them
    rows, start = _runs(packed)
    sums = grad.new_zeros(rows.size, grad.shape[1])
    arrays = packed, start, grad.contiguous().numpy(), sums.numpy()

    def add(first: int, last: int) -> None:
        _add_runs(*arrays, first, last)

    # Threads share the rows, never one row's reads: a sum divided among threads would depend on their number.
    in_parallel(add, np.searchsorted(start, even_cuts(packed.size)))
    return torch.from_numpy(rows), sums


def merged(grad: torch.Tensor) -> torch.Tensor:
    """A sparse gradient with every row once, in ascending order.

    Args:
        grad: Sparse gradient of a table, `(table_rows, dim)`, rows in any order and any number of times.

    Returns:
        The same gradient, coalesced; `grad` itself if it is so already.
    """
    if grad.is_coalesced():
        return grad
    row, values = grad._indices()[0], grad._values()
    # Autograd forgets that a gradient is coalesced when it hands it over; a look at it would stall a device.
    if not has_kernels(row) or not _is_ascending(row):
        row, values = sum_by_row(row, values, table_rows=grad.shape[0])
    return from_rows(row, values, table_rows=grad.shape[0])


def from_rows(rows: torch.Tensor, values: torch.Tensor, *, table_rows: int) -> torch.Tensor:
    """A coalesced sparse gradient, `(table_rows, dim)`, of distinct ascending rows and their values."""
    size = (table_rows, values.shape[1])
    return torch.sparse_coo_tensor(rows[None], values, size, is_coalesced=True, check_invariants=False)


def _is_ascending(row: torch.Tensor) -> bool:
    return bool((row[1:] > row[:-1]).all())


def sum_by_segment(
    row: torch.Tensor, grad: torch.Tensor, *, table_rows: int, padding_row: int = NO_PADDING
) -> tuple[torch.Tensor, torch.Tensor]:
    """`sum_by_row` in operations of any device, of fixed shapes.

    1. Reads are sorted by row; each first read of a row begins a segment.
    2. The segments are added up as an embedding's dense gradient is, which on a GPU sums parts of a segment in
       parallel, in a fixed order and without atomics.
    3. A segment's row is looked up where it begins: to write by an index would be another sort, because of equal
       indices the last must win.
    """
    if not len(row):
        return row, grad
    keys = row.to(torch.int32) if table_rows <= 1 << 31 else row  # a radix sort passes over half as many bits
    found, order = keys.sort(stable=True)
    is_first = torch.cat((found.new_ones(1, dtype=torch.bool), found[1:] != found[:-1]))
    segment = is_first.cumsum(0, dtype=torch.int32) - 1
    sums = dense_gradient(segment, grad.index_select(0, order), table_rows=len(row))
    place = torch.arange(len(row), dtype=torch.int32, device=row.device)
    rows = found.index_select(0, torch.searchsorted(segment, place) * (place <= segment[-1])).to(row.dtype)
    if padding_row != NO_PADDING:
        sums = sums.masked_fill((rows == padding_row)[:, None], 0.0)
    return rows, sums


def _distinct(rows: torch.Tensor, sums: torch.Tensor, padding_row: int) -> tuple[torch.Tensor, torch.Tensor]:
    is_distinct = (rows.diff(prepend=rows[:1] - 1) > 0) & (rows != padding_row)
    return rows[is_distinct], sums[is_distinct]


def dense_gradient(row: torch.Tensor, grad: torch.Tensor, *, table_rows: int, padding_row: int = -1) -> torch.Tensor:
    """The gradient `(table_rows, dim)` of a table of which rows `(reads,)` were read; padding has 0.

    On a GPU this is one sort, of 32-bit keys where `row` is, and a sum of segments; equal inputs give equal bytes.
    """
    out: torch.Tensor = torch.ops.aten.embedding_dense_backward(grad, row, table_rows, padding_row, False)
    return out


@njit(nogil=True)
def _pack(row: Int64Array, table_rows: int, padding_row: int) -> tuple[bool, UInt64Array]:
    """Row and position of each read in one word, padding left out; whether all rows lie in the table."""
    packed = np.empty(row.size, np.uint64)
    num_reads = 0
    for position in range(row.size):
        if row[position] < 0 or row[position] >= table_rows:
            return False, packed[:0]
        if row[position] != padding_row:
            # One word for both: what is sorted is moved in every pass, and pairs of arrays would be twice as much.
            packed[num_reads] = np.uint64(row[position]) << np.uint64(_POSITION_BITS) | np.uint64(position)
            num_reads += 1
    return True, packed[:num_reads]


@njit(nogil=True)
def _sort(packed: UInt64Array, bits: int) -> UInt64Array:
    """Sort by row; stable, so that positions of a row stay in order (radix sort, least significant digit first)."""
    # Positions are in order already, so only the row's bits are sorted by, in equal digits: of a table of a million
    # rows two passes of ten bits, whose counters stay in the nearest cache, where comparing would take twenty.
    spare = np.empty_like(packed)
    num_passes = (bits + _DIGIT_BITS - 1) // _DIGIT_BITS
    digit_bits = (bits + num_passes - 1) // num_passes
    mask = np.uint64((1 << digit_bits) - 1)
    for number in range(num_passes):
        shift = np.uint64(_POSITION_BITS + number * digit_bits)
        place = np.zeros((1 << digit_bits) + 1, np.int64)
        for word in packed:
            place[np.int64(word >> shift & mask) + 1] += 1
        for i in range(1, place.size):
            place[i] += place[i - 1]
        for word in packed:
            digit = np.int64(word >> shift & mask)
            spare[place[digit]] = word
            place[digit] += 1
        packed, spare = spare, packed
    return packed


@njit(nogil=True)
def _runs(packed: UInt64Array) -> tuple[Int64Array, Int64Array]:
    """Distinct rows of sorted words, `(distinct,)`, and where each begins and the last one ends, `(distinct + 1,)`."""
    rows, start = np.empty(packed.size, np.int64), np.empty(packed.size + 1, np.int64)
    num_distinct = 0
    for i in range(packed.size):
        row = np.int64(packed[i] >> np.uint64(_POSITION_BITS))
        if num_distinct == 0 or rows[num_distinct - 1] != row:
            rows[num_distinct], start[num_distinct] = row, i
            num_distinct += 1
    start[num_distinct] = packed.size
    return rows[:num_distinct].copy(), start[: num_distinct + 1]  # a view would keep room for a row per read


@njit(nogil=True)
def _add_runs(
    packed: UInt64Array, start: Int64Array, values: FloatArray, sums: FloatArray, first: int, last: int
) -> None:
    position_mask = np.uint64((1 << _POSITION_BITS) - 1)
    for run in range(first, last):  # plain indices: a view of each row would cost more than the sum
        for i in range(start[run], start[run + 1]):
            position = np.int64(packed[i] & position_mask)
            for d in range(values.shape[1]):
                sums[run, d] += values[position, d]
