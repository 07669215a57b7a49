"""Sums over histories that an activation unit scores, on the CPU, forward and backward: a pass each over a history."""

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.kernels.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from qin.network.threads import in_tiles
from qin.runtime.jit import njit

Hidden = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Arrays = tuple[Float32Array, Float32Array, Float32Array, Float32Array, Float32Array, BoolArray]
Grads = tuple[Float32Array, Float32Array, Float32Array, Float32Array]

_SUMS_IN_REGISTERS = {"reassoc", "contract", "nsz"}  # no flag that would make NaN or infinity undefined


def unit_sums(
    values: torch.Tensor,
    keys: torch.Tensor | None,
    hidden: Hidden,
    is_valid: torch.Tensor,
    bias: torch.Tensor,
    bias_of_age: torch.Tensor,
) -> torch.Tensor:
    """`sum_i (weight . relu(key_i matrix + offset) + bias) value_i` over the valid items, with gradients.

    The result does not depend on the number of threads.

    Args:
        values: `(batch, seq, dim)`, float32, on the CPU, as all others.
        keys: As `values`; None where they are the same.
        hidden: Matrix `(batch, dim, units)` and offset `(batch, units)` of each row, weight `(units,)` of all.
        is_valid: `(batch, seq)`, bool.
        bias: `(num_biases, 1)`.
        bias_of_age: Which bias an item gets, by the number of valid items after it, int64, `(seq,)`.

    Returns:
        `(batch, dim)`.
    """
    fixed = is_valid.contiguous().numpy(), bias_of_age.numpy()
    arguments = (values, keys, *hidden, bias, fixed)
    out: torch.Tensor = _UnitSums.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _UnitSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        values, keys, *hidden, bias, fixed = arguments
        values, *hidden = (tensor.contiguous() for tensor in (values, *hidden))
        keys = values if keys is None else keys.contiguous()
        score = values.new_empty(values.shape[:2])
        out: torch.Tensor = values.new_empty(values.shape[0], values.shape[2])
        *arrays, weight = _arrays(values, keys, score, *hidden)
        constants, (sums,) = (weight, bias.detach().numpy(), fixed[1]), _arrays(out)

        def work(rows: slice) -> None:
            _attend(_parts(arrays, fixed[0], rows), *constants, sums[rows])

        in_tiles(len(values), work)
        ctx.save_for_backward(values, keys, score, *hidden)
        ctx.fixed, ctx.num_biases, ctx.has_keys = fixed, len(bias), arguments[1] is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, keys, _, matrix, offset, _ = ctx.saved_tensors
        grad_values, grad_matrix, grad_offset = (torch.empty_like(part) for part in (values, matrix, offset))
        grad_keys = torch.empty_like(keys) if ctx.has_keys else grad_values
        *arrays, weight = _arrays(*ctx.saved_tensors)
        grads = _arrays(grad_values, grad_keys, grad_matrix, grad_offset)
        (grad_sums,) = _arrays(grad_outputs[0].contiguous())

        def work(rows: slice) -> Any:
            grad_shared = np.zeros(len(weight) + ctx.num_biases)  # of all items: float32 would lose digits
            parts = _parts(arrays, ctx.fixed[0], rows), weight, ctx.fixed[1], grad_sums[rows]
            _attend_back(*parts, tuple(one[rows] for one in grads), grad_shared)
            return grad_shared

        grad_shared = torch.from_numpy(np.sum(in_tiles(len(values), work), axis=0)).float()
        grad_weight, grad_bias = grad_shared[: len(weight)], grad_shared[len(weight) :, None]
        own_keys = grad_keys if ctx.has_keys else None
        return grad_values, own_keys, grad_matrix, grad_offset, grad_weight, grad_bias, None


def _arrays(*tensors: torch.Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _parts(arrays: list[Any], is_valid: BoolArray, rows: slice) -> Any:
    return tuple(array[rows] for array in (*arrays, is_valid))


# Nests of loops over plain indices, for the reason that kernels/attention.py gives. The innermost loop runs over units,
# which stand side by side in a matrix: whole vectors, and no sum across one.


@njit(nogil=True, inline="always", fastmath=_SUMS_IN_REGISTERS)
def write_hidden(key: Float32Array, matrix: Float32Array, offset: Float32Array, hidden: Float32Array) -> None:
    """Write `key matrix + offset`, the hidden layer of an item before its relu, `(units,)`."""
    in_fours = key.size - key.size % 4
    for unit in range(hidden.size):
        hidden[unit] = offset[unit]
    # Four numbers of a key at a time: each sum is read and written once for all of them, which takes half the time.
    for d in range(0, in_fours, 4):
        for unit in range(hidden.size):
            first = key[d] * matrix[d, unit] + key[d + 1] * matrix[d + 1, unit]
            hidden[unit] += first + (key[d + 2] * matrix[d + 2, unit] + key[d + 3] * matrix[d + 3, unit])
    for d in range(in_fours, key.size):
        for unit in range(hidden.size):
            hidden[unit] += key[d] * matrix[d, unit]


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def _attend(
    arrays: Arrays, weight: Float32Array, bias: Float32Array, bias_of_age: Int64Array, out: Float32Array
) -> None:
    """Write scores, arbitrary where not valid, and sums; see `unit_sums`.

    Args:
        arrays: Values, keys, scores `(n, seq)`, matrices, offsets, and which items are valid.
        weight: `(units,)`.
        bias: `(num_biases, 1)`.
        bias_of_age: `(seq,)`.
        out: Sums, `(n, dim)`.
    """
    values, keys, score, matrix, offset, is_valid = arrays
    num_rows, length, dim = values.shape
    hidden = np.empty(weight.size, np.float32)
    for i in range(num_rows):
        age = np.sum(is_valid[i])
        for d in range(dim):
            out[i, d] = np.float32(0.0)
        for position in range(length):
            if not is_valid[i, position]:
                continue
            age -= 1  # items come oldest first, and a bias belongs to an age: 0 is the newest
            write_hidden(keys[i, position], matrix[i], offset[i], hidden)
            total = np.float32(0.0)
            for unit in range(weight.size):
                total += weight[unit] * (np.float32(0.0) if hidden[unit] < 0.0 else hidden[unit])  # a NaN stays
            total += bias[bias_of_age[age], 0]
            score[i, position] = total
            for d in range(dim):
                out[i, d] += total * values[i, position, d]


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def _attend_back(
    arrays: Arrays,
    weight: Float32Array,
    bias_of_age: Int64Array,
    grad_sums: Float32Array,
    grads: Grads,
    grad_shared: Float64Array,
) -> None:
    """Write the gradients of what belongs to rows, and add to those of what all rows share.

    Args:
        arrays: Values, keys, scores `(n, seq)`, matrices, offsets, and which items are valid.
        weight: `(units,)`.
        bias_of_age: Which bias an item gets, by the number of valid items after it, `(seq,)`.
        grad_sums: Gradient of the sums, `(n, dim)`.
        grads: Of values, keys, matrices and offsets; the first two may be one array.
        grad_shared: Of the weight, then of the biases, `(units + num_biases,)`.
    """
    values, keys, score, matrix, offset, is_valid = arrays
    grad_values, grad_keys, grad_matrix, grad_offset = grads
    (num_rows, length, dim), num_units = values.shape, weight.size
    hidden, of_weight = np.empty(num_units, np.float32), np.empty(num_units, np.float32)
    for i in range(num_rows):
        age = np.sum(is_valid[i])
        grad_values[i, :, :] = np.float32(0.0)
        grad_keys[i, :, :] = np.float32(0.0)
        grad_matrix[i, :, :] = np.float32(0.0)
        grad_offset[i, :] = np.float32(0.0)
        of_weight[:] = np.float32(0.0)
        for position in range(length):
            if not is_valid[i, position]:
                continue
            age -= 1
            grad_score = np.float32(0.0)
            for d in range(dim):
                grad_score += grad_sums[i, d] * values[i, position, d]
            write_hidden(
                keys[i, position], matrix[i], offset[i], hidden
            )  # once more: to keep them is more memory than all else
            for unit in range(num_units):
                is_closed = hidden[unit] <= 0.0  # a NaN flows back
                of_weight[unit] += np.float32(0.0) if is_closed else grad_score * hidden[unit]
                hidden[unit] = np.float32(0.0) if is_closed else grad_score * weight[unit]  # its gradient, from here on
                grad_offset[i, unit] += hidden[unit]
            # One loop for each: value and key, or their gradients, may be the same memory.
            for d in range(dim):
                grad_values[i, position, d] += score[i, position] * grad_sums[i, d]
            for d in range(dim):
                key, grad_key = keys[i, position, d], np.float32(0.0)
                for unit in range(num_units):
                    grad_key += hidden[unit] * matrix[i, d, unit]
                    grad_matrix[i, d, unit] += hidden[unit] * key
                grad_keys[i, position, d] += grad_key
            grad_shared[num_units + bias_of_age[age]] += grad_score
        for unit in range(num_units):
            grad_shared[unit] += of_weight[unit]
