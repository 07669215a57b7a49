"""What all readers of logits and labels share: array types, input checks, chunks, the logistic function."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
LabelArray = NDArray[Any]

_CHUNK_ROWS = 1 << 18


def positive_rows(logit: FloatArray, label: LabelArray) -> BoolArray:
    """Check a pair of logits and labels and return which rows are positive.

    Args:
        logit: `(n,)`, any float type, finite.
        label: `(n,)`, bool or numbers in {0, 1}.

    Returns:
        `(n,)`, bool.

    Raises:
        ValueError: A shape differs, a logit is not finite, a label is not in {0, 1}, or a class is missing.
    """
    if logit.ndim != 1 or logit.shape != label.shape:
        raise ValueError(f"logit and label must be 1-d and of equal length: {logit.shape=}, {label.shape=}")
    check_finite(logit)
    is_positive: BoolArray = label == 1
    is_valid = is_positive | (label == 0)
    if not is_valid.all():
        row = int(np.argmin(is_valid))
        raise ValueError(f"every label must be 0 or 1: row {row} is {label[row]}")
    num_positive = int(np.count_nonzero(is_positive))
    if num_positive in (0, label.size):
        raise ValueError(f"both classes must be present: {num_positive} positives in {label.size} rows")
    return is_positive


def check_finite(logit: FloatArray) -> None:
    """Refuse a logit that is not finite.

    Raises:
        ValueError: Names the first such element.
    """
    if not np.isfinite(logit).all():
        row = int(np.argmin(np.isfinite(logit)))
        raise ValueError(f"every logit must be finite: element {row} is {logit[row]}")


def prior_logit(base_rate: float) -> float:
    """Return `log(base_rate / (1 - base_rate))`.

    Raises:
        ValueError: `base_rate` is not strictly between 0 and 1.
    """
    if not 0.0 < base_rate < 1.0:
        raise ValueError(f"base_rate must lie strictly between 0 and 1: {base_rate=}")
    return math.log(base_rate) - math.log1p(-base_rate)


def row_chunks(logit: FloatArray) -> Iterator[tuple[slice, Float64Array]]:
    """Yield slices of rows in order, each with a float64 copy of its logits."""
    for start in range(0, logit.size, _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        yield rows, logit[rows].astype(np.float64)


def sigmoid(logit: Float64Array) -> Float64Array:
    """Return `1 / (1 + exp(-logit))` to full relative precision at both ends."""
    exp = np.exp(-np.abs(logit))  # never overflows
    return np.where(logit >= 0.0, 1.0, exp) / (1.0 + exp)


def log_losses(logit: FloatArray, label: LabelArray, *, offset: float = 0.0) -> tuple[float, float]:
    """The mean loss of the positives and of the negatives, each from `logit + offset`.

    Returns:
        `mean(-log p | y=1)` and `mean(-log(1-p) | y=0)`, in nats.

    Raises:
        ValueError: See `qin.metrics.logits.positive_rows`.
    """
    is_positive = positive_rows(logit, label)
    positive_loss = negative_loss = 0.0
    for rows, chunk in row_chunks(logit):
        shifted = chunk + offset
        positive_loss += float(np.logaddexp(0.0, -shifted[is_positive[rows]]).sum())
        negative_loss += float(np.logaddexp(0.0, shifted[~is_positive[rows]]).sum())
    num_positives = int(np.count_nonzero(is_positive))
    return positive_loss / num_positives, negative_loss / (label.size - num_positives)
