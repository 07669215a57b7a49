"""One user's row beside a row for each candidate, without repeating what is the user's."""

import numpy as np
import pyarrow as pa

from qin.columns.types import is_binary, is_list, is_string
from qin.runtime.errors import SchemaError


def with_user(user: pa.Table, items: pa.Table) -> pa.Table:
    """The items' table with the user's columns beside it.

    Texts and lists of the user are dictionaries of one value, which the encoder reads once.

    Args:
        user: One row.
        items: A row for each candidate.

    Raises:
        ValueError: If the user is not one row.
        SchemaError: Naming the columns that both have.
    """
    if user.num_rows != 1:
        raise ValueError(f"the user must be one row, got {user.num_rows}")
    both = sorted(set(user.column_names) & set(items.column_names))
    if both:
        raise SchemaError(f"rows: the user and the items both have the columns {', '.join(both)}")
    shared = [_repeated(column.combine_chunks(), items.num_rows) for column in user.columns]
    return pa.Table.from_arrays([*shared, *items.columns], names=[*user.column_names, *items.column_names])


def _repeated(value: pa.Array, num_rows: int) -> pa.Array:
    kind = value.type
    # Numbers are cheaper repeated than looked up.
    if is_string(kind) or is_binary(kind) or is_list(kind):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_rows, np.int32)), value)
    return value.take(pa.array(np.zeros(num_rows, np.int64)))
