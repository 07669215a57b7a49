"""Mean and standard deviation of numeric fields over the train fold, in one pass, for `NumericNormalizer`."""

import numpy as np
import numpy.typing as npt

from qin.features.scale import signed_log
from qin.shards.files import RowReader

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]


class NumericMoments:
    """Mean and standard deviation of each field's signed log over its non-missing values.

    Batches are merged as in Chan, Golub and LeVeque (1983), equations 2.1, so the way the rows are cut into
    batches costs no precision. A constant field has a `std` of exactly 0.

    Args:
        num_fields: Number of numeric fields; 0 is allowed.

    Raises:
        ValueError: `num_fields` is negative.
    """

    def __init__(self, num_fields: int) -> None:
        if num_fields < 0:
            raise ValueError(f"the number of fields must not be negative, got {num_fields=}")
        self.count: npt.NDArray[np.int64] = np.zeros(num_fields, np.int64)
        # Everything is measured from the first value of each field, so a large mean costs no digits of the spread,
        # and a constant field has exactly none.
        self._origin: Float64Array = np.zeros(num_fields)
        self._offset_mean: Float64Array = np.zeros(num_fields)
        self._sum_squares: Float64Array = np.zeros(num_fields)  # of deviations from the mean

    def update(self, batch: FloatArray) -> None:
        """Add rows.

        Args:
            batch: Raw values, `(rows, fields)`, NaN where missing.

        Raises:
            ValueError: The shape is wrong or a value is infinite.
        """
        if batch.ndim != 2 or batch.shape[1] != len(self.count):
            raise ValueError(f"a batch must be (rows, {len(self.count)}), got {batch.shape}")
        if np.isinf(batch).any():
            raise ValueError(
                f"numeric values must be finite or NaN, field {np.isinf(batch).any(axis=0).argmax()} is not"
            )
        if not len(batch):
            return
        values = signed_log(np.ascontiguousarray(batch.T))  # (fields, rows): numpy sums rows pairwise, not in turn
        is_valid = ~np.isnan(values)
        # Where a field has no value yet, `argmax` of nothing is 0 and `first` a NaN, which the condition leaves out.
        first = values[np.arange(len(values)), is_valid.argmax(axis=1)]
        self._origin = np.where((self.count == 0) & is_valid.any(axis=1), first, self._origin)
        self._merge(np.where(is_valid, values - self._origin[:, np.newaxis], 0.0), is_valid)

    def _merge(self, offset: Float64Array, is_valid: npt.NDArray[np.bool_]) -> None:
        """Add offsets from the origin, `(fields, rows)`, 0 where not valid."""
        count = is_valid.sum(axis=1)
        mean = offset.sum(axis=1) / np.maximum(count, 1)
        deviation = np.where(is_valid, offset - mean[:, np.newaxis], 0.0)
        total = self.count + count
        share = count / np.maximum(total, 1)
        delta = mean - self._offset_mean
        self._offset_mean = self._offset_mean + delta * share
        self._sum_squares = self._sum_squares + np.square(deviation).sum(axis=1) + np.square(delta) * self.count * share
        self.count = total

    @property
    def mean(self) -> Float64Array:
        """Mean of the signed log, `(fields,)`; 0 where every value is missing."""
        return self._origin + self._offset_mean

    @property
    def std(self) -> Float64Array:
        """Population standard deviation of the signed log, `(fields,)`; 0 where every value is missing."""
        return np.sqrt(self._sum_squares / np.maximum(self.count, 1))


_CHUNK_ROWS = 65536


def numeric_moments(reader: RowReader, is_train: npt.NDArray[np.bool_]) -> NumericMoments:
    """Mean and deviation of each numeric field's signed log over the train fold, in one pass."""
    moments = NumericMoments(len(reader.schema.numeric))
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, reader.num_rows)
        moments.update(reader.read("numeric", start, stop)[is_train[start:stop]])
    return moments
