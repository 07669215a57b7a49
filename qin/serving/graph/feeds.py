"""Raw rows as the inputs of the exported graph: what a client of it does, in Python, for golden rows and tests."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.schema import Field, FieldKind
from qin.columns.types import is_list
from qin.features.impression import impression_hashes
from qin.prepare.impressions import parsed
from qin.raw.hashing import hash_column
from qin.serving.deployed import Deployed
from qin.serving.graph.whole import integer_columns

Feeds = dict[str, npt.NDArray[Any]]

_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_NULL_WORDS = ("null", "None", "nan", "NaN")
# Written apart from `qin.prepare.tokens` on purpose: that golden rows agree proves that a client can be written.
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
_INTEGER = re.compile(r"([-+]?)0*(\d+)(?:\.0*)?")
_ROWS = "rows"


def feeds_of(model: Deployed, table: pa.Table) -> Feeds:
    """The inputs of `input_names` of a table that has the model's columns."""
    table = model.completed(table).combine_chunks()
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    out = _categories(model, columns)
    numbers = [field for field in model.schema.columns if field.kind == FieldKind.NUMERIC]
    out["numeric"] = _stacked([_floats(columns[field.name]) for field in numbers], table.num_rows)
    for field in model.schema.sequences:
        tokens, is_null, length = _history(columns[field.name], field)
        name = f"sequence.{field.name}"
        out |= {name: tokens, f"{name}.is_null": is_null, f"{name}.length": length}
    if model.impressions is not None:
        keys = [hash_column(columns[name]) for name in model.impressions.key]
        out["impression"] = impression_hashes(keys, first_row=0).view(np.int64)
        compared = [parsed(columns[n], file=_ROWS, column=n, first_row=0) for n in model.impressions.columns]
        out["compared"] = _stacked([_floats(column) for column in compared], table.num_rows)
    if model.segment is not None:
        hashed = hash_column(columns[model.segment])
        out |= {"segment": hashed.unseeded.view(np.int64), "segment_is_null": hashed.is_null}
    return out


def _categories(model: Deployed, columns: dict[str, pa.Array]) -> Feeds:
    values, nulls = [], []
    for field, is_integer in zip(model.schema.categorical, integer_columns(model), strict=True):
        column = columns[field.name]
        hashed = hash_column(column)
        # Words go in as signed ones, because PyTorch has hardly any arithmetic of unsigned 64 bits.
        value = pc.fill_null(column.cast(pa.int64()), 0).to_numpy() if is_integer else hashed.unseeded.view(np.int64)
        values.append(np.where(hashed.is_null, 0, value))
        nulls.append(hashed.is_null)
    return {"categorical": np.stack(values, axis=1), "categorical_is_null": np.stack(nulls, axis=1)}


def _floats(column: pa.Array) -> npt.NDArray[np.float32]:
    out: npt.NDArray[np.float32] = pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return out


def _stacked(columns: list[npt.NDArray[np.float32]], num_rows: int) -> npt.NDArray[np.float32]:
    return np.stack(columns, axis=1) if columns else np.empty((num_rows, 0), np.float32)


def _history(
    column: pa.Array, field: Field
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Tokens `(n, longest)`, which are null, and how many there are; at least one column wide."""
    rows = [_words(value, field) for value in column.to_pylist()]
    width = max([1, *map(len, rows)])
    tokens, is_null = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.bool_)
    flat = [word for row in rows for word in row]
    kind = None if is_list(column.type) else pa.string() if field.tokens == "text" else pa.int64()
    array = pa.array(flat, column.type.value_type if kind is None else kind)
    is_integer = pa.types.is_integer(array.type) and array.type != pa.uint64()
    hashed = hash_column(array)
    values = pc.fill_null(array.cast(pa.int64()), 0).to_numpy() if is_integer else hashed.unseeded.view(np.int64)
    at = 0
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = values[at : at + len(row)]
        is_null[number, : len(row)] = hashed.is_null[at : at + len(row)]
        at += len(row)
    return tokens, is_null, np.array([len(row) for row in rows], np.int64)


def _words(value: Any, field: Field) -> list[Any]:
    """The tokens of one history that count, None for one that is missing."""
    if value is None:
        return []
    if not isinstance(value, str):
        return [word for word in value if field.padding is None or str(word) != field.padding]
    text, in_brackets = value.strip(" \t"), False
    if text[:1] in _BRACKETS and text[-1:] == _BRACKETS[text[:1]]:
        text, in_brackets = text[1:-1].strip(" \t"), True
    if not text:
        return []
    parts = text.split() if field.separator in " \t" else text.removesuffix(field.separator).split(field.separator)
    words = [_word(part.strip(" \t"), field, in_brackets=in_brackets) for part in parts]
    return [
        word for word in words if word is None or field.padding is None or str(word) != _plain(field.padding, field)
    ]


def _word(part: str, field: Field, *, in_brackets: bool) -> str | int | None:
    if in_brackets and part in _NULL_WORDS:
        return None
    quoted = _QUOTED.fullmatch(part) if in_brackets else None
    part = quoted[2] if quoted else part
    return part if field.tokens == "text" else int(_plain(part, field))


def _plain(part: str, field: Field) -> str:
    found = _INTEGER.fullmatch(part)
    return part if field.tokens == "text" or found is None else f"{found[1].strip('+')}{found[2]}"
