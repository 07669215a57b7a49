"""Kernels of a network that only scores, on the CPU: one pass over each row's data, nothing of the size of a history.

They compute what `embedding`, `attention` and `quadratic` define, in float32; sums run in vector registers, so their
order, and with it the last digits, depends on the processor, but neither on other rows nor on the number of threads.
A NaN stays a NaN everywhere. Arrays are C-contiguous unless said otherwise, buckets int64.
"""

from typing import NamedTuple

import numpy as np

from qin.columns.buckets import PADDING_BUCKET
from qin.network.kernels.activation_unit import write_hidden
from qin.network.kernels.arrays import Float32Array, Float64Array, Int64Array, ProductArray
from qin.network.kernels.bf16 import round_row, widen_row
from qin.runtime.jit import njit

_SUMS_IN_REGISTERS = {"reassoc", "contract", "nsz"}  # no flag that would make NaN or infinity undefined


class FrozenOptions(NamedTuple):
    """What a frozen layer does with its product.

    Attributes:
        rectified: Whether `product + bias` passes a relu.
        eps: Epsilon of an RMS norm, negative without one.
        slope: Of the activation below zero, 1 without one.
    """

    rectified: bool
    eps: float
    slope: float


class FrozenUnit(NamedTuple):
    """What an activation unit makes of rows' targets.

    Attributes:
        matrix: That a row's items are multiplied by, `(n, dim, units)`.
        offset: Added to that, `(n, units)`.
        weight: Of the hidden layer in the score, `(units,)`.
    """

    matrix: Float32Array
    offset: Float32Array
    weight: Float32Array


class FrozenBins(NamedTuple):
    """Piecewise linear embeddings of numeric fields.

    Attributes:
        lower: Lower end of each bin in standardised units, `(fields, num_bins)`.
        inverse_width: One over its width, 0 where there is no bin, `(fields, num_bins)`.
        weight: Of each bin, then of a missing value, `(fields, num_bins + 1, dim)`.
    """

    lower: Float32Array
    inverse_width: Float32Array
    weight: Float32Array


@njit(nogil=True)
def read_fields(
    buckets: Int64Array, fields: Int64Array, offset: Int64Array, table: Float32Array, out: Float32Array
) -> None:
    """Write the embeddings of some fields, one after the other, into each row of `out`.

    Args:
        buckets: Of all fields, `(n, num_fields)`; inside their vocabularies.
        fields: Which of them to read, `(k,)`.
        offset: First row of each field's vocabulary in the table, `(num_fields or more,)`.
        table: `(table_rows, dim)`.
        out: `(n, at least k * dim)`.
    """
    dim = table.shape[1]
    for i in range(buckets.shape[0]):
        for k in range(fields.size):
            bucket = buckets[i, fields[k]]
            row = 0 if bucket == PADDING_BUCKET else bucket + offset[fields[k]]  # all vocabularies share one padding
            for d in range(dim):
                out[i, k * dim + d] = table[row, d]


@njit(nogil=True)
def _table_rows(history: Int64Array, offset: int, out: Int64Array) -> int:
    """Write the table's row of each valid item of a history `(seq,)`, in order, and return how many there are."""
    length = 0
    for bucket in history:
        if bucket != PADDING_BUCKET:
            out[length] = bucket + offset
            length += 1
    return length


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def attend(
    buckets: Int64Array,
    offset: int,
    keys: Float32Array,
    values: Float32Array,
    direction: Float32Array,
    bias_of_age: Float32Array,
    divisor: Float32Array,
    out: Float32Array,
) -> None:
    """Read, score and add up each history: `sum_i relu(direction . key_i + bias) value_i / divisor` of each head.

    Args:
        buckets: `(n, seq)`, padding anywhere; inside their vocabulary.
        offset: First row of the vocabulary in the tables.
        keys: Table of what is scored, `(table_rows, dim)`.
        values: Table of what is added up, `(table_rows, dim)`; may be the same.
        direction: `(n, heads, dim)`.
        bias_of_age: Added to the score of an item by the number of valid items after it, `(seq, heads)`.
        divisor: By the number of valid items, `(seq + 1,)`.
        out: `(n, heads, dim)`.
    """
    seq, num_heads, dim = buckets.shape[1], out.shape[1], out.shape[2]
    row = np.empty(seq, np.int64)
    for i in range(buckets.shape[0]):
        length = _table_rows(buckets[i], offset, row)
        for head in range(num_heads):
            # Views, and no branch on the score, which is negative as often as not: twice as fast.
            query, total = direction[i, head], out[i, head]
            total[:] = 0.0
            # A score is used once, right away: an item is added up while its row is in the cache.
            for k in range(length):
                score = np.float32(0.0)
                for d in range(dim):
                    score += query[d] * keys[row[k], d]
                score += bias_of_age[length - 1 - k, head]
                score = np.float32(0.0) if score < 0.0 else score
                for d in range(dim):
                    total[d] += score * values[row[k], d]
            for d in range(dim):
                total[d] /= divisor[length]


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def attend_by_unit(
    buckets: Int64Array,
    offset: int,
    keys: Float32Array,
    values: Float32Array,
    unit: FrozenUnit,
    bias_of_age: Float32Array,
    divisor: Float32Array,
    out: Float32Array,
) -> None:
    """Read, score and add up each history: `sum_i (weight . relu(key_i matrix + offset) + bias) value_i / divisor`.

    Args:
        buckets: `(n, seq)`, padding anywhere; inside their vocabulary.
        offset: First row of the vocabulary in the tables.
        keys: Table of what is scored, `(table_rows, dim)`.
        values: Table of what is added up, `(table_rows, dim)`; may be the same.
        unit: Of the rows.
        bias_of_age: Added to the score of an item by the number of valid items after it, `(seq, 1)`.
        divisor: By the number of valid items, `(seq + 1,)`.
        out: `(n, 1, dim)`.
    """
    (num_rows, seq), dim, weight = buckets.shape, out.shape[2], unit.weight
    row, hidden = np.empty(seq, np.int64), np.empty(weight.size, np.float32)
    for i in range(num_rows):
        length = _table_rows(buckets[i], offset, row)
        matrix, start, total = unit.matrix[i], unit.offset[i], out[i, 0]
        total[:] = 0.0
        for k in range(length):
            write_hidden(keys[row[k]], matrix, start, hidden)
            score = np.float32(0.0)
            for h in range(weight.size):
                score += weight[h] * (np.float32(0.0) if hidden[h] < 0.0 else hidden[h])
            score += bias_of_age[length - 1 - k, 0]
            for d in range(dim):
                total[d] += score * values[row[k], d]
        for d in range(dim):
            total[d] /= divisor[length]


@njit(nogil=True)
def average(buckets: Int64Array, offset: int, table: Float32Array, out: Float32Array) -> None:
    """Write the mean embedding of each history, zeros where it is empty.

    Args:
        buckets: `(n, seq)`, padding anywhere; inside their vocabulary.
        offset: First row of the vocabulary in the table.
        table: `(table_rows, dim)`.
        out: `(n, dim)`.
    """
    for i in range(buckets.shape[0]):
        total, length = out[i], 0
        total[:] = 0.0
        for position in range(buckets.shape[1]):
            if buckets[i, position] != PADDING_BUCKET:
                length += 1
                for d in range(total.size):
                    total[d] += table[buckets[i, position] + offset, d]
        for d in range(total.size):
            total[d] /= max(length, 1)


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def multiply(rows: Float32Array, matrix: Float32Array, out: Float32Array) -> None:
    """`rows @ matrix` for a small matrix: BLAS rounds a row by its place among the others.

    Args:
        rows: `(n, k)`.
        matrix: `(k, m)`.
        out: `(n, m)`.
    """
    for i in range(rows.shape[0]):
        total = out[i]
        total[:] = 0.0
        for k in range(matrix.shape[0]):
            for d in range(matrix.shape[1]):
                total[d] += rows[i, k] * matrix[k, d]


@njit(nogil=True)
def standardise(
    raw: Float32Array, log: Float64Array, mean: Float64Array, std: Float64Array, weight: Float32Array, out: Float32Array
) -> None:
    """Standardised signed logs, then missing flags, both weighted.

    Args:
        raw: Values, NaN where missing, `(n, fields)`.
        log: `log(1 + |raw|)`, `(n, fields)`.
        mean: Of each field's signed log, `(fields,)`.
        std: Its standard deviation, `(fields,)`; the value is 0 where it is 0.
        weight: `(2 * fields,)`.
        out: `(n, 2 * fields)`, not necessarily contiguous.
    """
    num_fields = raw.shape[1]
    for i in range(raw.shape[0]):
        for field in range(num_fields):
            is_missing = np.isnan(raw[i, field])
            standard = (np.copysign(log[i, field], raw[i, field]) - mean[field]) / (std[field] or 1.0)
            value = np.float32(standard)  # before the weight, as in training
            out[i, field] = np.float32(0.0) if is_missing or std[field] == 0.0 else value * weight[field]
            out[i, num_fields + field] = weight[num_fields + field] if is_missing else np.float32(0.0)


@njit(nogil=True)
def embed_in_bins(
    raw: Float32Array, log: Float64Array, mean: Float64Array, std: Float64Array, bins: FrozenBins, out: Float32Array
) -> None:
    """Piecewise linear embeddings, one field after the other.

    Args:
        raw: Values, NaN where missing, `(n, fields)`.
        log: `log(1 + |raw|)`, `(n, fields)`.
        mean: Of each field's signed log, `(fields,)`.
        std: Its standard deviation, `(fields,)`.
        bins: Of the fields.
        out: `(n, fields * dim)`, not necessarily contiguous.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    (num_fields, num_bins), dim = bins.lower.shape, bins.weight.shape[2]
    for i in range(raw.shape[0]):
        for field in range(num_fields):
            is_missing = np.isnan(raw[i, field])
            standard = (np.copysign(log[i, field], raw[i, field]) - mean[field]) / (std[field] or 1.0)
            value = zero if std[field] == 0.0 else np.float32(standard)
            for d in range(dim):
                total = bins.weight[field, num_bins, d] if is_missing else zero
                for k in range(0 if is_missing else num_bins):
                    # Bins below the value count whole, those above not at all: no search, and no branch.
                    part = (value - bins.lower[field, k]) * bins.inverse_width[field, k]
                    total += min(max(part, zero), one) * bins.weight[field, k, d]
                out[i, field * dim + d] = total


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def multiply_by_vector(rows: Float32Array, vector: Float32Array, bias: np.float32, out: Float32Array) -> None:
    """`rows @ vector + bias`, each row alone.

    Args:
        rows: `(n, k)`.
        vector: `(k,)`.
        bias: A number, float32.
        out: `(n,)`.
    """
    for i in range(rows.shape[0]):
        row, total = rows[i], np.float32(0.0)
        for d in range(row.size):
            total += row[d] * vector[d]
        out[i] = total + bias


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def advance(
    x: Float32Array,
    bits: ProductArray,
    bias: Float32Array,
    options: FrozenOptions,
    scale: Float32Array,
    shift: Float32Array,
) -> None:
    """One residual quadratic layer after its matrix product, in place: `x += activation(norm(x * (product + bias)))`.

    Args:
        x: `(n, dim)`.
        bits: `W x`, the layer's rows folded, `(n, at least dim)`, bfloat16 by its bits or float32; replaced by what the
            next product reads: the new `x`, then zeros.
        bias: `(dim,)`.
        options: Relu, norm and activation of the layer.
        scale: Of the norm, `(dim,)`; ones without one.
        shift: Of the norm, `(dim,)`; zeros without one.
    """
    dim = x.shape[1]
    product = np.empty(dim, np.float32)
    for i in range(x.shape[0]):
        widen_row(bits[i, :dim], product)
        _advance_row(x[i], product, bias, options, scale, shift)
        round_row(x[i], bits[i])
        bits[i, dim:] = 0


@njit(nogil=True, fastmath=_SUMS_IN_REGISTERS)
def _advance_row(
    x: Float32Array,
    product: Float32Array,
    bias: Float32Array,
    options: FrozenOptions,
    scale: Float32Array,
    shift: Float32Array,
) -> None:
    zero, norm, below = np.float32(0.0), np.float32(1.0), np.float32(options.slope)
    if options.eps >= 0.0:
        squares = zero
        for d in range(x.size):
            total = product[d] + bias[d]
            term = x[d] * (zero if options.rectified and total < zero else total)
            squares += term * term
        # The terms are made twice rather than kept: a few operations, where a row of scratch would leave the registers.
        norm = np.float32(1.0) / np.sqrt(squares / np.float32(x.size) + np.float32(options.eps))
    for d in range(x.size):
        total = product[d] + bias[d]
        term = x[d] * (zero if options.rectified and total < zero else total) * norm * scale[d] + shift[d]
        x[d] += below * term if term < zero else term
