"""Mean and standard deviation of numeric fields over the train fold, in one pass, for `NumericNormalizer`."""

import numpy as np
import numpy.typing as npt

from qin.features.scale import signed_log
from qin.network.threads import even_cuts, in_parallel
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
        if not batch.size:
            return
        columns = np.ascontiguousarray(batch.T)  # (fields, rows): numpy sums a row pairwise, not in turn

        def add(first: int, stop: int) -> None:
            # A field at a time, so that what stands between two operations stays in a core's cache.
            for field in range(first, stop):
                self._add(field, signed_log(columns[field]))

        in_parallel(add, even_cuts(columns.size) * len(columns) // columns.size)

    def _add(self, field: int, values: Float64Array) -> None:
        """Add a field's signed logs, `(rows,)`, NaN where missing."""
        is_valid = ~np.isnan(values)
        count = int(np.count_nonzero(is_valid))
        if count == 0:
            return
        if self.count[field] == 0:
            self._origin[field] = values[is_valid.argmax()]
        offset = np.where(is_valid, values - self._origin[field], 0.0)
        mean = offset.sum() / count
        deviation = np.where(is_valid, offset - mean, 0.0)
        total = self.count[field] + count
        share = count / total
        delta = mean - self._offset_mean[field]
        self._sum_squares[field] += np.square(deviation).sum()
        self._sum_squares[field] += np.square(delta) * self.count[field] * share
        self._offset_mean[field] += delta * share
        self.count[field] = total

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
