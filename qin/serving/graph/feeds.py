"""Raw rows as the inputs of the exported graph: what a client of it does, in Python, for golden rows and tests."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.schema import Field, FieldKind
from qin.columns.types import is_binary, is_list, is_string
from qin.features.impression import impression_hashes
from qin.prepare.impressions import parsed
from qin.raw.canonical import canonical_text
from qin.raw.hashing import hash_column
from qin.raw.values import plain_values
from qin.serving.deployed import Deployed
from qin.serving.graph.whole import has_integer_tokens, integer_columns

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
        value = _integers(column) if is_integer else hashed.unseeded.view(np.int64)
        values.append(np.where(hashed.is_null, 0, value))
        nulls.append(hashed.is_null)
    return {"categorical": np.stack(values, axis=1), "categorical_is_null": np.stack(nulls, axis=1)}


def _integers(column: pa.Array) -> npt.NDArray[np.int64]:
    out: npt.NDArray[np.int64] = pc.fill_null(plain_values(column).cast(pa.int64()), 0).to_numpy()
    return out


def _floats(column: pa.Array) -> npt.NDArray[np.float32]:
    column = plain_values(column)
    if pa.types.is_decimal(column.type):  # by way of 64 bits, as prepare does
        column = column.cast(pa.float64(), safe=False)
    out: npt.NDArray[np.float32] = pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return out


def _stacked(columns: list[npt.NDArray[np.float32]], num_rows: int) -> npt.NDArray[np.float32]:
    return np.stack(columns, axis=1) if columns else np.empty((num_rows, 0), np.float32)


def _history(
    column: pa.Array, field: Field
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Tokens `(n, longest)`, which are null, and how many there are; at least one column wide."""
    column = plain_values(column)
    found, length = _of_lists(column, field) if is_list(column.type) else _of_texts(column, field)
    width = max(1, int(length.max(initial=0)))
    tokens, is_null = np.zeros((length.size, width), np.int64), np.zeros((length.size, width), np.bool_)
    hashed = hash_column(found)
    values = _integers(found) if has_integer_tokens(field) else hashed.unseeded.view(np.int64)
    is_token = np.arange(width) < length[:, None]
    tokens[is_token], is_null[is_token] = values, hashed.is_null
    return tokens, is_null, length


def _of_lists(column: pa.Array, field: Field) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The elements of all lists that count, one after the other, and how many each row has."""
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = plain_values(column.flatten())
    if field.padding is not None:
        padding = _plain(field.padding, field)
        is_kept = pc.fill_null(pc.not_equal(canonical_text(values), padding), True)
        row = np.repeat(np.arange(counts.size), counts)[is_kept.to_numpy(zero_copy_only=False)]
        counts, values = np.bincount(row, minlength=counts.size), values.filter(is_kept)
    if field.tokens == "number" and (is_string(values.type) or is_binary(values.type)):  # of numbers
        texts = [None if text is None else text.strip(" \t") for text in canonical_text(values).to_pylist()]
        values = pa.array([None if text is None else int(_plain(text, field)) for text in texts], pa.int64())
    return values, counts


def _of_texts(column: pa.Array, field: Field) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The same of histories in text."""
    rows = [_words(value, field) for value in canonical_text(column).to_pylist()]
    flat = [word for row in rows for word in row]
    kind = pa.string() if field.tokens == "text" else pa.int64()
    return pa.array(flat, kind), np.array([len(row) for row in rows], np.int64)


def _words(value: str | None, field: Field) -> list[Any]:
    """The tokens of one history that count, None for one that is missing."""
    if value is None:
        return []
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
