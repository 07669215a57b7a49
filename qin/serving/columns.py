"""Which raw columns a model reads, and whether rows have them: every problem at once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from qin.columns.patterns import expanded
from qin.columns.resolve import are_alike, tokens_differ, type_problems
from qin.columns.schema import Field, FieldKind, Schema
from qin.columns.types import is_groupable, type_name, type_of
from qin.features.derived import Impressions

IMPRESSION, SEGMENT = "impression", "segment"


@dataclass(frozen=True)
class Column:
    """A column that rows to score must have; each of its values may be null.

    Attributes:
        name: Its name.
        kind: `categorical`, `numeric`, `sequence`, or what else it is read for: `impression`, `segment`.
        type: Arrow type in the train file, without dictionaries; empty where none is recorded, as of columns whose
            values are compared within the rows alone.
    """

    name: str
    kind: str
    type: str


def columns_of(schema: Schema, impressions: Impressions | None, segment: Column | None) -> dict[str, Column]:
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
        other = found.get(segment.name)
        found[segment.name] = segment if other is None else replace(other, type=other.type or segment.type)
    return found


def problems_of(
    found: pa.Schema,
    columns: Mapping[str, Column],
    fields: Sequence[Field],
    *,
    segment: str | None = None,
    may_miss: bool,
    known: Sequence[str],
    name: str,
) -> list[str]:
    """What is wrong with the columns of rows, a line each.

    Args:
        found: Columns of the rows.
        columns: Those that the model reads.
        fields: Its inputs.
        segment: Column whose values the calibrator shifts by.
        may_miss: Whether a column that is missing is null in every row; then one that nobody knows is a problem,
            because a misspelt name would be scored as missing in silence.
        known: Names and globs of columns that the log had and the model does not read.
        name: What messages call the rows.
    """
    counts = Counter(found.names)
    problems = [f"{name}: column {column}: occurs {n} times" for column, n in counts.items() if n > 1]
    present = {field.name: field for field in found if counts[field.name] == 1}
    if not may_miss:
        problems += [f"{name}: column {column}: missing" for column in columns if column not in counts]
    elif strangers := _strangers(list(counts), columns, known):
        problems += [f"{name}: column {column}: the model has no such column" for column in strangers]
    # A column that is there twice has been told already, and has no one type to look at.
    here = [field for field in fields if field.name in present]
    problems += type_problems(name, pa.schema(list(present.values())), here)
    problems += _differences(name, present, here)
    problems += [
        f"{name}: column {column.name}: type {present[column.name].type} cannot be used for {column.kind}s"
        for column in columns.values()
        if column.kind in (IMPRESSION, SEGMENT)
        and column.name in present
        and not is_groupable(present[column.name].type)
    ]
    is_told = any(field.name == segment for field in here if field.kind != FieldKind.NUMERIC)
    if segment is not None and segment in present and not is_told:
        problems += _strange_segments(name, present[segment], columns[segment])
    return problems


def _strangers(names: Iterable[str], columns: Mapping[str, Column], known: Sequence[str]) -> list[str]:
    expected = {name for _, name in expanded(known, dict.fromkeys(names))}
    return [name for name in names if name not in columns and name not in expected]


def _differences(name: str, present: Mapping[str, pa.Field], fields: Iterable[Field]) -> Iterator[str]:
    """One line for each column whose equal values could hash apart from those of training."""
    for field in fields:
        if field.kind == FieldKind.NUMERIC or not field.type:
            continue
        ours, theirs = present[field.name], pa.field(field.name, type_of(field.type))
        is_sequence = field.kind == FieldKind.SEQUENCE
        if tokens_differ(ours.type, theirs.type, rule=field.tokens) if is_sequence else not are_alike(ours, theirs):
            yield (
                f"{name}: column {field.name}: type {type_name(ours.type)}, but the model was trained on "
                f"{field.type}; equal values would be encoded apart"
            )


def _strange_segments(name: str, ours: pa.Field, segment: Column) -> Iterator[str]:
    """A line where rows might not find the shift of their segment: what is no known segment is not shifted at all."""
    if segment.type and not are_alike(ours, pa.field(segment.name, type_of(segment.type))):
        yield (
            f"{name}: column {segment.name}: type {type_name(ours.type)}, but the calibrator's segments are of "
            f"{segment.type}; equal values would be two segments"
        )
