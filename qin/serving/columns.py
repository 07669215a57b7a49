"""Which raw columns a model reads, and whether rows have them: every problem at once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from qin.columns.patterns import expanded
from qin.columns.resolve import tokens_differ, type_problems
from qin.columns.schema import Field, FieldKind, Schema
from qin.columns.types import is_groupable, may_differ, type_name, type_of
from qin.features.derived import Impressions

IMPRESSION, SEGMENT = "impression", "segment"


@dataclass(frozen=True)
class Column:
    """A column that rows to score must have; each of its values may be null.

    Attributes:
        name: Its name.
        kind: `categorical`, `numeric`, `sequence`, or what else it is read for: `impression`, `segment`.
        type: Arrow type in the train file, without dictionaries; empty where none is recorded.
    """

    name: str
    kind: str
    type: str


def columns_of(schema: Schema, impressions: Impressions | None, segment: str | None) -> dict[str, Column]:
    """The columns that a model reads, by name.

    Args:
        schema: Of its rows.
        impressions: What features of impressions are made of.
        segment: Column whose values the calibrator shifts by.
    """
    found = {field.name: Column(field.name, str(field.kind), field.type) for field in schema.columns}
    for name in () if impressions is None else (*impressions.key, *impressions.columns):
        # Not over an input of the same name, whose type is known and checked.
        found.setdefault(name, Column(name, IMPRESSION, ""))
    if segment is not None:
        found.setdefault(segment, Column(segment, SEGMENT, ""))
    return found


def problems_of(
    found: pa.Schema,
    columns: Mapping[str, Column],
    fields: Sequence[Field],
    *,
    may_miss: bool,
    known: Sequence[str],
    name: str,
) -> list[str]:
    """What is wrong with the columns of rows, a line each.

    Args:
        found: Columns of the rows.
        columns: Those that the model reads.
        fields: Its inputs.
        may_miss: Whether a column that is missing is null in every row; then one that nobody knows is a problem,
            because a misspelt name would be scored as missing in silence.
        known: Names and globs of columns that the log had and the model does not read.
        name: What messages call the rows.
    """
    counts = Counter(found.names)
    problems = [f"{name}: column {column}: occurs {n} times" for column, n in counts.items() if n > 1]
    present = {field.name: field.type for field in found if counts[field.name] == 1}
    if not may_miss:
        problems += [f"{name}: column {column}: missing" for column in columns if column not in counts]
    elif strangers := _strangers(list(counts), columns, known):
        problems += [f"{name}: column {column}: the model has no such column" for column in strangers]
    # A column that is there twice has been told already, and has no one type to look at.
    here = [field for field in fields if field.name in present]
    problems += type_problems(name, pa.schema(list(present.items())), here)
    problems += _differences(name, present, here)
    return problems + [
        f"{name}: column {column.name}: type {present[column.name]} cannot be used for {column.kind}s"
        for column in columns.values()
        if column.kind in (IMPRESSION, SEGMENT) and column.name in present and not is_groupable(present[column.name])
    ]


def _strangers(names: Iterable[str], columns: Mapping[str, Column], known: Sequence[str]) -> list[str]:
    expected = {name for _, name in expanded(known, dict.fromkeys(names))}
    return [name for name in names if name not in columns and name not in expected]


def _differences(name: str, present: Mapping[str, pa.DataType], fields: Iterable[Field]) -> Iterator[str]:
    """One line for each column whose equal values could hash apart from those of training."""
    for field in fields:
        if field.kind == FieldKind.NUMERIC or not field.type:
            continue
        ours, theirs = present[field.name], type_of(field.type)
        is_sequence = field.kind == FieldKind.SEQUENCE
        if tokens_differ(ours, theirs, rule=field.tokens) if is_sequence else may_differ(ours, theirs):
            yield (
                f"{name}: column {field.name}: type {type_name(present[field.name])}, but the model was trained on "
                f"{field.type}; equal values would be encoded apart"
            )
