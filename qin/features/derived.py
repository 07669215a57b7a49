"""Which numbers prepare derives from a row: from its histories, and from the rows it was shown with."""

from dataclasses import dataclass, replace

import pyarrow as pa

from qin.columns.schema import Field, FieldKind, Schema
from qin.columns.types import is_groupable, is_number, is_string, value_type
from qin.config import FeatureParams, ImpressionParams
from qin.features.impression import FROM_LAST, Distance, feature_names
from qin.runtime.errors import SchemaError

LENGTH, HITS, SINCE, SHARE = "length", "hits", "since", "share"
HISTORY, IMPRESSION = "history", "impression"
# Measures of a history that are compared within impressions, in order.
COMPARED_MATCHES = (HITS, SINCE)


@dataclass(frozen=True)
class Impressions:
    """What the features of impressions are made of.

    Attributes:
        key: Columns whose values the rows of an impression share.
        columns: Columns whose numbers are compared.
        histories: Histories that the row's own value is looked for in: its hits, and how long ago the last was.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...]
    histories: tuple[Field, ...]

    @classmethod
    def of(cls, schema: Schema, knobs: ImpressionParams) -> "Impressions | None":
        """What the settings want, or None."""
        if knobs.key is None:
            return None
        # The file's alone: the schema may have its derived numbers already.
        numbers = [field.name for field in schema.numeric if not field.source]
        fields = {field.name for field in schema.categorical}
        return cls(
            key=tuple(knobs.key),
            columns=tuple(numbers if knobs.columns is None else knobs.columns),
            histories=tuple(sequence for sequence in schema.sequences if sequence.vocabulary in fields),
        )

    @property
    def names(self) -> list[str]:
        """Names of the features, in order."""
        matches = [f"{field.name}.{measure}" for field in self.histories for measure in COMPARED_MATCHES]
        return feature_names([*self.columns, *matches], self.distances)

    @property
    def distances(self) -> list[Distance]:
        """Of each column's number, from that of the row whose value was last in each history."""
        # Behind the columns, history by history, as `names` has them.
        first = len(self.columns) + COMPARED_MATCHES.index(SINCE)
        return [
            Distance(column, first + len(COMPARED_MATCHES) * number, f"impression.{name}.{FROM_LAST}.{field.name}")
            for number, field in enumerate(self.histories)
            for column, name in enumerate(self.columns)
        ]


def with_derived(schema: Schema, *, columns: pa.Schema, features: FeatureParams, file: str) -> Schema:
    """The schema with the derived numbers as its last numeric fields: of each history in turn, then of impressions.

    Args:
        schema: The columns of the file that are inputs.
        columns: The train file's Arrow schema.
        features: Which numbers there are.
        file: The train file, for messages.

    Raises:
        SchemaError: If the impression's key or columns are not in the file or of other types, or a name is taken.
    """
    names = [(name, HISTORY) for name in history_names(schema, features)]
    impressions = Impressions.of(schema, features.impression)
    names += [(name, IMPRESSION) for name in (impressions.names if impressions else [])]
    problems = _missing(columns, features, file)
    problems += [
        f"{file}: column {name}: this is the name of a derived feature; rename it"
        for name, _ in names
        if name in columns.names
    ]
    if problems:
        raise SchemaError(*problems)
    # Behind the file's own numbers: shards, moments and trees know numbers by their place.
    derived = (Field(name, FieldKind.NUMERIC, source=source) for name, source in names)
    return replace(schema, fields=(*schema.categorical, *schema.numeric, *derived, *schema.sequences))


def history_names(schema: Schema, features: FeatureParams) -> list[str]:
    """Names of the features of each history, in order; those of matches where it shares a field's vocabulary."""
    if not features.matches:
        return []
    fields = {field.name for field in schema.categorical}
    return [
        f"{sequence.name}.{measure}"
        for sequence in schema.sequences
        for measure in ((LENGTH, HITS, SINCE, SHARE) if sequence.vocabulary in fields else (LENGTH,))
    ]


def check_impression_columns(columns: pa.Schema, features: FeatureParams, *, file: str) -> None:
    """Check that a file has what impressions are made of.

    Raises:
        SchemaError: Naming each column that is missing or of a type that does not serve.
    """
    problems = _missing(columns, features, file)
    if problems:
        raise SchemaError(*problems)


def _missing(columns: pa.Schema, features: FeatureParams, file: str) -> list[str]:
    impression = features.impression
    if impression.key is None:
        return []
    named = [
        *(("key", name) for name in impression.key),
        *(("columns", name) for name in impression.columns or []),
    ]
    problems = [
        f"{file}: features.impression.{key}: no column {name}" for key, name in named if name not in columns.names
    ]
    problems += [
        f"{file}: features.impression.key: column {name}: values of type {columns.field(name).type} cannot tell "
        "impressions apart"
        for name in impression.key
        if name in columns.names and not is_groupable(columns.field(name).type)
    ]
    return problems + [
        f"{file}: features.impression.columns: column {name}: type {columns.field(name).type} holds no numbers"
        for name in impression.columns or []
        if name in columns.names and not may_be_numbers(columns.field(name).type)
    ]


def may_be_numbers(kind: pa.DataType) -> bool:
    """Whether numbers of a type, or text that is numbers, can be compared within impressions."""
    kind = value_type(kind)
    return bool(is_number(kind) or pa.types.is_boolean(kind) or is_string(kind) or pa.types.is_null(kind))
