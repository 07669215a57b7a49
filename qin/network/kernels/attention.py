"""The attention's sums over histories on the CPU, forward and backward, in one pass each over every history."""

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qin.network.kernels.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from qin.network.threads import in_tiles
from qin.runtime.jit import njit

Arrays = tuple[Float32Array, Float32Array, Float32Array, Float32Array, BoolArray]
Grads = tuple[Float32Array, Float32Array, Float32Array]

_SUMS_IN_REGISTERS = {"reassoc", "contract", "nsz"}  # no flag that would make NaN or infinity undefined


def attended_sums(
    values: torch.Tensor,
    keys: torch.Tensor | None,
    direction: torch.Tensor,
    is_valid: torch.Tensor,
    bias: torch.Tensor,
    bias_of_age: torch.Tensor,
) -> torch.Tensor:
    """`sum_i relu(direction . key_i + bias) value_i` of each head over the valid items, with gradients.

    The result does not depend on the number of threads.

    Args:
        values: `(batch, seq, dim)`, float32, on the CPU, as all others.
        keys: As `values`; None where they are the same.
        direction: `(batch, heads, dim)`.
        is_valid: `(batch, seq)`, bool.
        bias: `(num_biases, heads)`.
        bias_of_age: Which bias an item gets, by the number of valid items after it, int64, `(seq,)`.

    Returns:
        `(batch, heads, dim)`.
    """
    fixed = is_valid.contiguous().numpy(), bias_of_age.numpy()
    arguments = (values, keys, direction, bias, fixed)
    out: torch.Tensor = _AttendedSums.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _AttendedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        values, keys, direction, bias, fixed = arguments
        values, direction = values.contiguous(), direction.contiguous()
        keys = values if keys is None else keys.contiguous()
        score, out = values.new_empty(*values.shape[:2], direction.shape[1]), torch.empty_like(direction)
        arrays = [*_arrays(values, keys, direction, score), fixed[0]]
        constants, (sums,) = (bias.detach().numpy(), fixed[1]), _arrays(out)
        in_tiles(len(values), lambda rows: _attend(tuple(array[rows] for array in arrays), *constants, sums[rows]))
        ctx.save_for_backward(values, keys, direction, score)
        ctx.fixed, ctx.num_biases, ctx.has_keys = fixed, len(bias), arguments[1] is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, keys, direction, score = ctx.saved_tensors
        grad_values, grad_direction = torch.empty_like(values), torch.zeros_like(direction)
        grad_keys = torch.empty_like(keys) if ctx.has_keys else grad_values
        arrays = [*_arrays(values, keys, direction, score), ctx.fixed[0]]
        grads, (grad_sums,) = _arrays(grad_values, grad_keys, grad_direction), _arrays(grad_outputs[0].contiguous())

        def work(rows: slice) -> Any:
            grad_bias = np.zeros((ctx.num_biases, direction.shape[1]))  # of all items: float32 would lose digits
            parts = (
                tuple(array[rows] for array in arrays),
                ctx.fixed[1],
                grad_sums[rows],
                tuple(one[rows] for one in grads),
            )
            _attend_back(*parts, grad_bias)
            return grad_bias

        grad_bias = torch.from_numpy(np.sum(in_tiles(len(values), work), axis=0)).float()
        return grad_values, grad_keys if ctx.has_keys else None, grad_direction, grad_bias, None


def _arrays(*tensors: torch.Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


# Both kernels are one nest of loops over plain indices: with a function per item, the compiler built views of every row
# and neither kept a head's sums in registers nor used whole vectors, which took four times as long.


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def _attend(arrays: Arrays, bias: Float32Array, bias_of_age: Int64Array, out: Float32Array) -> None:
    """Write scores before the relu, `(n, seq, heads)`, arbitrary where not valid, and sums; see `attended_sums`.

    Args:
        arrays: Values, keys, directions, scores, and which items are valid.
        bias: `(num_biases, heads)`.
        bias_of_age: `(seq,)`.
        out: Sums, `(n, heads, dim)`.
    """
    values, keys, direction, score, is_valid = arrays
    num_rows, length, dim = values.shape
    for i in range(num_rows):
        length_of_row = np.sum(is_valid[i])
        # A head's query and sums stay in the nearest cache over a whole history, which is read once for each head.
        for head in range(direction.shape[1]):
            age = length_of_row
            for d in range(dim):
                out[i, head, d] = np.float32(0.0)
            for position in range(length):
                if not is_valid[i, position]:
                    continue
                age -= 1  # items come oldest first, and a bias belongs to an age: 0 is the newest
                total = np.float32(0.0)
                for d in range(dim):
                    total += direction[i, head, d] * keys[i, position, d]
                total += bias[bias_of_age[age], head]
                score[i, position, head] = total
                weight = np.float32(0.0) if total < 0.0 else total  # a NaN stays
                for d in range(dim):
                    out[i, head, d] += weight * values[i, position, d]


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def _attend_back(
    arrays: Arrays,
    bias_of_age: Int64Array,
    grad_sums: Float32Array,
    grads: Grads,
    grad_bias: Float64Array,
) -> None:
    """Write the gradients of values and keys, and add to the others.

    Args:
        arrays: Values, keys, directions, scores, and which items are valid.
        bias_of_age: Which bias an item gets, by the number of valid items after it, `(seq,)`.
        grad_sums: Gradient of the sums, `(n, heads, dim)`.
        grads: Of values, keys and directions; the first two may be one array.
        grad_bias: `(num_biases, heads)`.
    """
    values, keys, direction, score, is_valid = arrays
    grad_values, grad_keys, grad_direction = grads
    num_rows, length, dim = values.shape
    for i in range(num_rows):
        age = np.sum(is_valid[i])
        grad_values[i, :, :] = np.float32(0.0)
        grad_keys[i, :, :] = np.float32(0.0)
        for position in range(length):
            if not is_valid[i, position]:
                continue
            age -= 1
            for head in range(direction.shape[1]):
                weight = score[i, position, head]
                if weight <= 0.0:  # the relu was closed: nothing flows back, which is so for half of all items
                    continue
                grad_score = np.float32(0.0)
                for d in range(dim):
                    grad_score += grad_sums[i, head, d] * values[i, position, d]
                # One loop for each: value and key, or their gradients, may be the same memory.
                for d in range(dim):
                    grad_values[i, position, d] += weight * grad_sums[i, head, d]
                for d in range(dim):
                    grad_keys[i, position, d] += grad_score * direction[i, head, d]
                for d in range(dim):
                    grad_direction[i, head, d] += grad_score * keys[i, position, d]
                grad_bias[bias_of_age[age], head] += grad_score
