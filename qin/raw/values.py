"""Columns as numbers, or one line of error: labels, and ids that must not have been rounded."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.types import is_list, is_number, read_type, value_type
from qin.runtime.errors import DataError

# Whole numbers from here on are not all floats of so many bytes, so that two ids may have become one.
FIRST_ROUNDED = {2: 2**11, 4: 2**24, 8: 2**53}


def encode_label(array: pa.Array, *, file: str, column: str, first_row: int) -> npt.NDArray[np.uint8]:
    """Check and convert labels.

    Args:
        array: Booleans or numbers, each 0 or 1, or a dictionary of them.
        file: File that the labels come from, for messages.
        column: Column that the labels come from, for messages.
        first_row: Row number of the first label in the file.

    Returns:
        Labels `(num_rows,)`.

    Raises:
        DataError: If a label is null, NaN, or neither 0 nor 1, or the column does not hold numbers.
    """
    array = plain_values(array)
    kind = array.type
    if not (is_number(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{file}: column {column}: labels must be numbers 0 and 1, the type is {kind}")
    values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    is_bad = (values != 0) & (values != 1)  # NaN and null are neither
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise DataError(f"{file}: column {column}, row {first_row + row}: label must be 0 or 1: {array[row].as_py()!r}")
    return values.astype(np.uint8)


def plain_values(array: pa.Array) -> pa.Array:
    """A column's values as such: without an extension type, and each in its row rather than in a dictionary."""
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            values, kind = array.dictionary, read_type(array.type.value_type)
            values = values if values.type == kind else values.cast(kind)  # views cannot be taken from
            array = values.take(array.indices)  # not decoded by a cast, which lists and narrow decimals have none of
        else:
            return array


def refuse_rounded(array: pa.Array, *, file: str, column: str, first_row: int) -> None:
    """Check that no value is infinite or a float so large that it may stand for several ids.

    Args:
        array: Values that tell things apart (categories, keys), or lists of them.
        file: File that they come from, for messages.
        column: Column that they come from, for messages.
        first_row: Row number of the first value in the file.

    Raises:
        DataError: Naming the first such value.
    """
    kind = value_type(array.type)
    if not pa.types.is_floating(value_type(kind.value_type) if is_list(kind) else kind):  # which costs nothing to tell
        return
    values = plain_values(array)
    lists = values if is_list(values.type) else None
    if lists is not None:
        values = plain_values(lists.flatten())
    size = np.abs(values.to_numpy(zero_copy_only=False))
    limit = FIRST_ROUNDED[size.itemsize]
    if not (size >= limit).any():  # NaN is not
        return
    position = int(np.flatnonzero(size >= limit)[0])
    row, value = position, values[position].as_py()
    if lists is not None:
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        row = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
    power, bits = limit.bit_length() - 1, 8 * size.itemsize
    rule = f"an id in {bits}-bit floats, which are rounded from 2^{power} on; store the column as integers or text"
    if np.isinf(value):
        rule = "infinite"
    raise DataError(f"{file}: column {column}, row {first_row + row}: {rule}: {value!r}")
