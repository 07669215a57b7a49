"""Which column of the log is what: name patterns from params.yaml resolved against a file's columns and types."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from qin.column_types import is_binary, is_number, may_differ, value_type
from qin.config import DataParams, FeatureParams, SequenceParams
from qin.errors import SchemaError


class FieldKind(StrEnum):
    """How a column is encoded."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class Field:
    """One input column.

    Attributes:
        name: Column name.
        kind: How it is encoded.
        vocabulary: Name that salts its hash; columns with equal vocabularies give equal values equal buckets.
        num_buckets: Buckets of the vocabulary, padding (0) and null (1) included; 0 for numeric fields.
        max_len: Tokens kept, for sequences; 0 otherwise.
    """

    name: str
    kind: FieldKind
    vocabulary: str = ""
    num_buckets: int = 0
    max_len: int = 0


@dataclass(frozen=True)
class Schema:
    """The resolved input columns, each kind in the file's column order (sequences in params.yaml's order).

    Attributes:
        fields: All input columns.
        target: Categorical columns that together are the target item.
        label: Column of the label.
        id: Column that names a test row.
        hash_seed: Seed of the categorical hash.
    """

    fields: tuple[Field, ...]
    target: tuple[str, ...]
    label: str
    id: str
    hash_seed: int

    def of_kind(self, kind: FieldKind) -> tuple[Field, ...]:
        """Fields of one kind, in order."""
        return tuple(field for field in self.fields if field.kind == kind)

    @property
    def categorical(self) -> tuple[Field, ...]:
        """Categorical fields."""
        return self.of_kind(FieldKind.CATEGORICAL)

    @property
    def numeric(self) -> tuple[Field, ...]:
        """Numeric fields."""
        return self.of_kind(FieldKind.NUMERIC)

    @property
    def sequences(self) -> tuple[Field, ...]:
        """Sequence fields."""
        return self.of_kind(FieldKind.SEQUENCE)

    @property
    def vocabularies(self) -> dict[str, int]:
        """Buckets of each vocabulary: one per categorical field in order, then those that sequences own."""
        return {f.vocabulary: f.num_buckets for f in (*self.categorical, *self.sequences)}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Schema":
        """Inverse of `to_json`."""
        fields = tuple(Field(**{**field, "kind": FieldKind(field["kind"])}) for field in tree["fields"])
        return cls(
            fields=fields,
            target=tuple(tree["target"]),
            label=tree["label"],
            id=tree["id"],
            hash_seed=tree["hash_seed"],
        )


def resolve_schema(columns: pa.Schema, *, data: DataParams, features: FeatureParams) -> Schema:
    """Resolve the name patterns of params.yaml against the columns of the train file.

    Args:
        columns: The train file's Arrow schema.
        data: Label, id, and columns to leave out.
        features: Patterns of input columns.

    Raises:
        SchemaError: If a column is in no list or in two, a listed name matches nothing, or a type does not fit its
            list. Every problem is on its own line.
    """
    file, names = data.train, columns.names
    problems = _repeated_columns(file, names)
    if problems:  # nothing else can be said about a name that stands for two columns
        raise SchemaError("\n".join(problems))
    problems = [f"{file}: data.{key}: no column {name}" for key, name in _unmatched_names(names, data)]
    ignored = {*data.drop, *(name for name in names if _matches(name, data.ignore))}
    lists = _claims(names, ignored, data, features)
    for name in names:
        claims = lists[name]
        if not claims and name not in ignored:
            problems.append(
                f"{file}: column {name}: in no list; add it to features.categorical, features.numeric, "
                "features.sequences or data.ignore"
            )
        if len(claims) > 1:
            problems.append(f"{file}: column {name}: in {len(claims)} lists: {', '.join(claims)}")
    problems += _unmatched_patterns(file, names, features)
    fields = _fields(names, ignored, lists, features)
    problems += type_problems(file, columns, fields) or _token_problems(file, columns, fields)
    problems += _reference_problems(fields, features)
    if problems:
        raise SchemaError("\n".join(problems))
    return Schema(
        fields=fields,
        target=tuple(features.target),
        label=data.label,
        id=data.id,
        hash_seed=features.hash_seed,
    )


def scalar_columns(names: Iterable[str], *, data: DataParams, features: FeatureParams) -> list[str]:
    """The columns that the categorical and numeric patterns match, without those left out, in file order."""
    patterns = [*features.categorical, *features.numeric]
    left_out = [data.label, data.id, *data.drop, *data.ignore]
    return [name for name in names if _matches(name, patterns) and not _matches(name, left_out)]


def check_test_columns(columns: pa.Schema, schema: Schema, *, file: str, train: pa.Schema) -> None:
    """Check that a file to predict has the id and every input column, with fitting types.

    Args:
        columns: The file's Arrow schema.
        schema: The resolved columns.
        file: The file, for messages.
        train: The train file's Arrow schema.

    Raises:
        SchemaError: Naming each missing or unfitting column.
    """
    needed = [schema.id, *(field.name for field in schema.fields)]
    problems = [f"{file}: column {name}: missing" for name in needed if name not in columns.names]
    problems += _repeated_columns(file, [name for name in columns.names if name in needed])
    present = [field for field in schema.fields if columns.names.count(field.name) == 1]
    problems += type_problems(file, columns, present)
    problems += _type_differences(file, columns, train, present)
    if columns.names.count(schema.id) == 1 and not _fits(columns.field(schema.id).type, FieldKind.CATEGORICAL):
        problems.append(f"{file}: column {schema.id}: type {columns.field(schema.id).type} cannot be an id")
    if problems:
        raise SchemaError("\n".join(problems))


def type_problems(file: str, columns: pa.Schema, fields: Iterable[Field]) -> list[str]:
    """One line for each field whose Arrow type does not fit its kind."""
    return [
        f"{file}: column {field.name}: type {columns.field(field.name).type} cannot be {field.kind}"
        for field in fields
        if not _fits(columns.field(field.name).type, field.kind)
    ]


def _type_differences(file: str, columns: pa.Schema, train: pa.Schema, fields: Iterable[Field]) -> Iterator[str]:
    """One line for each categorical column whose equal values could hash apart: `3.0` as text and as a number."""
    for field in fields:
        kinds = [_values_of(schema.field(field.name).type) for schema in (columns, train)]
        if field.kind == FieldKind.CATEGORICAL and _text_rule(kinds[0]) != _text_rule(kinds[1]):
            yield (
                f"{file}: column {field.name}: type {kinds[0]}, but {kinds[1]} in the train file; "
                "equal values would be encoded apart, so store both as one type"
            )


def _values_of(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text_rule(kind: pa.DataType) -> str:
    """What decides a value's canonical text; all numbers share one rule, times of other units have others."""
    if is_string(kind):
        return "text"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else str(kind)


def is_string(kind: pa.DataType) -> bool:
    """Whether a type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _fits(kind: pa.DataType, wanted: FieldKind) -> bool:
    if pa.types.is_dictionary(kind):
        return wanted != FieldKind.NUMERIC and _fits(kind.value_type, wanted)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if wanted == FieldKind.NUMERIC:
        return bool(is_number)
    if wanted == FieldKind.SEQUENCE:
        return is_string(kind) or (is_list(kind) and _fits(kind.value_type, FieldKind.CATEGORICAL))
    return bool(is_number or is_string(kind) or pa.types.is_temporal(kind))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _repeated_columns(file: str, names: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{file}: column {name}: occurs {count} times" for name, count in counts.items() if count > 1]


def _unmatched_names(names: Sequence[str], data: DataParams) -> list[tuple[str, str]]:
    wanted = [("label", data.label), *(("drop", name) for name in data.drop)]
    return [(key, name) for key, name in wanted if name not in names]


def _claims(names: Sequence[str], ignored: set[str], data: DataParams, features: FeatureParams) -> dict[str, list[str]]:
    """The lists each column is in; an ignored column's glob matches do not count, its exact mentions do."""
    claims: dict[str, list[str]] = {}
    for name in names:
        found = [f"data.{key}" for key in ("label", "id") if getattr(data, key) == name]
        for key, patterns in (("categorical", features.categorical), ("numeric", features.numeric)):
            hits = patterns.count(name) if name in ignored else sum(fnmatch.fnmatchcase(name, p) for p in patterns)
            found += [f"features.{key}"] * hits
        found += ["features.sequences"] * sum(sequence.name == name for sequence in features.sequences)
        if name in ignored and found:
            found.append("data.drop" if name in data.drop else "data.ignore")
        claims[name] = found
    return claims


def _unmatched_patterns(file: str, names: Sequence[str], features: FeatureParams) -> list[str]:
    patterns = [("categorical", p) for p in features.categorical]
    patterns += [("numeric", p) for p in features.numeric]
    patterns += [("sequences", s.name) for s in features.sequences]
    return [
        f"{file}: features.{key}: {pattern} matches no column"
        for key, pattern in patterns
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names)
    ]


def _fields(
    names: Sequence[str], ignored: set[str], lists: dict[str, list[str]], features: FeatureParams
) -> tuple[Field, ...]:
    def buckets(name: str) -> int:
        return features.num_buckets_of.get(name, features.num_buckets)

    kept = [name for name in names if name not in ignored]
    categorical = [name for name in kept if "features.categorical" in lists[name]]
    numeric = [name for name in kept if "features.numeric" in lists[name]]
    return (
        *(Field(n, FieldKind.CATEGORICAL, vocabulary=n, num_buckets=buckets(n)) for n in categorical),
        *(Field(n, FieldKind.NUMERIC) for n in numeric),
        *(_sequence_field(s, buckets) for s in features.sequences if s.name in kept),
    )


def _sequence_field(sequence: SequenceParams, buckets: Callable[[str], int]) -> Field:
    shared = sequence.vocabulary_of
    num_buckets = sequence.num_buckets or buckets(shared or sequence.name)
    return Field(
        sequence.name,
        FieldKind.SEQUENCE,
        vocabulary=shared or sequence.name,
        num_buckets=num_buckets,
        max_len=sequence.max_len,
    )


def _reference_problems(fields: Sequence[Field], features: FeatureParams) -> list[str]:
    """Names inside `features` that must be categorical columns and are not."""
    categorical = {field.name for field in fields if field.kind == FieldKind.CATEGORICAL}
    references = [("target", name) for name in features.target]
    references += [("num_buckets_of", name) for name in features.num_buckets_of]
    references += [
        (f"sequences.{s.name}.vocabulary_of", s.vocabulary_of) for s in features.sequences if s.vocabulary_of
    ]
    return [
        f"params.yaml: features.{key}: {name} is not a categorical column"
        for key, name in references
        if name not in categorical
    ]


def _token_problems(file: str, columns: pa.Schema, fields: Sequence[Field]) -> Iterator[str]:
    """One line for each list whose values could be encoded apart from equal ones of the column that it shares with."""
    types = {column.name: value_type(column.type) for column in columns}
    for field in fields:
        kind, shared = types[field.name], types.get(field.vocabulary)
        if field.kind != FieldKind.SEQUENCE or field.vocabulary == field.name or not is_list(kind) or shared is None:
            continue
        token = value_type(kind.value_type)
        is_text_of_numbers = is_number(shared) and (is_string(token) or is_binary(token))  # read as numbers
        if may_differ(token, shared) and not is_text_of_numbers:
            yield (
                f"{file}: column {field.name}: a list of {token}, but column {field.vocabulary}, whose vocabulary it "
                f"shares, is {shared}; equal values would be encoded apart, so store both as one type"
            )
