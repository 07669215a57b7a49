"""Name patterns from params.yaml resolved against a file's columns and types, and another file held against them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from qin.columns.patterns import expanded, matching
from qin.columns.schema import Field, FieldKind, Schema, TokenRule
from qin.columns.types import (
    is_binary,
    is_digits_of_text,
    is_groupable,
    is_list,
    is_number,
    is_string,
    may_differ,
    type_name,
    value_type,
)
from qin.config import DataParams, FeatureParams, SequenceParams
from qin.runtime.errors import SchemaError


def resolve_schema(columns: pa.Schema, *, data: DataParams, features: FeatureParams) -> Schema:
    """Resolve the name patterns of params.yaml against the columns of the train file.

    1. Names that settings give must be columns, and each column in one list, or left out.
    2. Columns that are inputs become fields, whose types must fit their lists.
    3. What fields refer to (targets, shared vocabularies) must be fields themselves.

    Args:
        columns: The train file's Arrow schema.
        data: Label, id, and columns to leave out.
        features: Patterns of input columns.

    Raises:
        SchemaError: If a column is in no list or in two, a listed name matches nothing, or a type does not fit its
            list. Every problem is on its own line.
    """
    file, names = data.train_name, columns.names
    problems = repeated_columns(file, names)
    if problems:  # nothing else can be said about a name that stands for two columns
        raise SchemaError(*problems)
    # A dictionary keeps the file's order and finds a name at once, of which a wide log has 20,000.
    known = dict.fromkeys(names)
    problems = [f"{file}: data.{key}: no column {name}" for key, name in _unmatched_names(known, data)]
    ignored = _ignored(known, data)
    left_out = ignored.union(data.labels)  # of which globs mean none
    lists = _claims(known, ignored, data, features)
    for name in names:
        claims = lists[name]
        if not claims and name not in ignored:
            problems.append(
                f"{file}: column {name}: in no list; add it to features.categorical, features.numeric, "
                "features.sequences or data.ignore"
            )
        if len(claims) > 1:
            problems.append(f"{file}: column {name}: in {len(claims)} lists: {', '.join(claims)}")
    problems += _unmatched_patterns(file, known, data, features)
    # Made though there are problems already: what is wrong with types and references is told in the same run.
    fields = _fields(columns, left_out, features)
    problems += type_problems(file, columns, fields) or _token_problems(file, columns, fields)
    problems += _reference_problems(fields, features)
    if problems:
        raise SchemaError(*problems)
    return Schema(
        fields=fields,
        target=tuple(features.target),
        label=data.first_label,
        id=data.id,
        hash_seed=features.hash_seed,
        other_labels=data.labels[1:],
    )


def scalar_columns(names: Iterable[str], *, data: DataParams, features: FeatureParams) -> list[str]:
    """The columns that the categorical and numeric patterns mean, without those left out, in the schema's order."""
    known = dict.fromkeys(names)
    left_out = {*data.labels, data.id} | _ignored(known, data)
    found = dict.fromkeys(name for _, name in expanded([*features.categorical, *features.numeric], known))
    return [name for name in found if name not in left_out]


def check_test_columns(
    columns: pa.Schema, schema: Schema, *, data: DataParams, features: FeatureParams, train: pa.Schema
) -> None:
    """Check that a file to predict has the id and every input column, with fitting types, and no input of its own.

    Args:
        columns: The file's Arrow schema.
        schema: The resolved columns.
        data: The file, for messages, and the columns to leave out.
        features: Patterns of input columns.
        train: The train file's Arrow schema.

    Raises:
        SchemaError: Naming each missing, unfitting or additional column.
    """
    file, counts = data.test_name, Counter(columns.names)
    needed = [schema.id, *(field.name for field in schema.fields)]
    problems = [f"{file}: column {name}: missing" for name in needed if not counts[name]]
    wanted = set(needed)
    # A column that nobody reads may be there twice.
    problems += repeated_columns(file, [name for name in columns.names if name in wanted])
    present = [field for field in schema.fields if counts[field.name] == 1]
    problems += type_problems(file, columns, present)
    problems += _type_differences(file, columns, train, present)
    problems += _columns_of_test_alone(counts, train.names, data, features)
    if counts[schema.id] == 1 and not _is_id(columns.field(schema.id).type):
        problems.append(
            f"{file}: column {schema.id}: type {columns.field(schema.id).type} cannot be an id; "
            "store ids as integers or text"
        )
    if problems:
        raise SchemaError(*problems)


def type_problems(file: str, columns: pa.Schema, fields: Iterable[Field]) -> list[str]:
    """One line for each field whose Arrow type does not fit its kind."""
    return [
        f"{file}: column {field.name}: type {columns.field(field.name).type} cannot be {field.kind}"
        f"{_ADVICE.get(field.kind, '')}"
        for field in fields
        if not _fits(columns.field(field.name).type, field.kind)
    ]


_ADVICE = {FieldKind.SEQUENCE: "; text of divided tokens or a list of numbers or text can"}


def _type_differences(file: str, columns: pa.Schema, train: pa.Schema, fields: Iterable[Field]) -> Iterator[str]:
    """One line for each column whose equal values could hash apart: `3.0` as text and as a number."""
    for field in fields:
        ours, theirs = columns.field(field.name), train.field(field.name)
        differ = field.kind == FieldKind.CATEGORICAL and not are_alike(ours, theirs)
        if differ or (field.kind == FieldKind.SEQUENCE and tokens_differ(ours.type, theirs.type, rule=field.tokens)):
            yield (
                f"{file}: column {field.name}: type {value_type(ours.type)}, but {value_type(theirs.type)} in the "
                "train file; equal values would be encoded apart, so store both as one type"
            )


def tokens_differ(kind: pa.DataType, other: pa.DataType, *, rule: TokenRule) -> bool:
    """Whether equal tokens of two columns of histories could hash apart.

    Args:
        kind: Of one column: text, or lists.
        other: Of the other.
        rule: What tokens in text are read as; where nothing tells yet, they may be read as what lists hold.
    """
    first, second = _token_type(kind, rule), _token_type(other, rule)
    return first is not None and second is not None and may_differ(first, second)


def _token_type(kind: pa.DataType, rule: TokenRule) -> pa.DataType | None:
    """The type of a history's tokens as they are read; None where nothing tells."""
    token = value_type(kind)
    if is_list(token):
        token = value_type(token.value_type)
    is_text = is_string(token) or (is_binary(token) and not pa.types.is_fixed_size_binary(token))
    if not is_text:
        return token
    # Of a width that means nothing here: all integers are of one family.
    return {"number": pa.int64(), "text": pa.string()}.get(rule)


def are_alike(ours: pa.Field, theirs: pa.Field) -> bool:
    """Whether equal values of two columns have equal texts; integers of a CSV file are as they stood there."""
    if not may_differ(ours.type, theirs.type):
        return True
    return any(
        is_digits_of_text(one) and is_string(value_type(two.type)) for one, two in ((ours, theirs), (theirs, ours))
    )


def _ignored(known: Collection[str], data: DataParams) -> set[str]:
    """Columns that `data.drop` and `data.ignore` leave out."""
    return {*data.drop, *(name for _, name in expanded(data.ignore, known))}


def _columns_of_test_alone(
    names: Iterable[str], train_names: Iterable[str], data: DataParams, features: FeatureParams
) -> Iterator[str]:
    """One line for each column that a list of inputs means and the train file lacks: it could teach nothing."""
    known, in_train = dict.fromkeys(names), set(train_names)
    left_out = {*data.labels, data.id} | _ignored(known, data) | in_train
    for key, patterns in (("categorical", features.categorical), ("numeric", features.numeric)):
        for pattern, name in expanded(patterns, known):
            if name not in left_out:
                yield (
                    f"{data.test_name}: column {name}: features.{key} lists it ({pattern}), but {data.train_name} has "
                    "no such column; add it there, or to data.ignore"
                )


def _is_id(kind: pa.DataType) -> bool:
    """Whether a type's values have one text each, which is that of a CSV file; a float's could be `1` or `1.0`."""
    return is_groupable(kind) and not (pa.types.is_floating(value_type(kind)) or pa.types.is_null(value_type(kind)))


def _fits(kind: pa.DataType, wanted: FieldKind) -> bool:
    kind = value_type(kind)
    if pa.types.is_null(kind):  # every value is missing
        return True
    if wanted == FieldKind.NUMERIC:
        return is_number(kind) or bool(pa.types.is_boolean(kind))
    if wanted == FieldKind.CATEGORICAL:
        return is_groupable(kind)
    return is_string(kind) or is_binary(kind) or (is_list(kind) and is_groupable(kind.value_type))


def repeated_columns(file: str, names: Iterable[str]) -> list[str]:
    """One line for each name that several columns have."""
    counts = Counter(names)
    return [f"{file}: column {name}: occurs {count} times" for name, count in counts.items() if count > 1]


def _unmatched_names(names: dict[str, None], data: DataParams) -> list[tuple[str, str]]:
    wanted = [*(("label", name) for name in data.labels), *(("drop", name) for name in data.drop)]
    return [(key, name) for key, name in wanted if name not in names]


def _claims(
    names: dict[str, None], ignored: set[str], data: DataParams, features: FeatureParams
) -> dict[str, list[str]]:
    """The lists each column is in; glob matches of an ignored column or a label do not count, exact mentions do."""
    claims: dict[str, list[str]] = {name: [] for name in names}
    for key, name in [*(("label", name) for name in data.labels), ("id", data.id)]:
        if name in names:
            claims[name].append(f"data.{key}")
    for key, patterns in (("categorical", features.categorical), ("numeric", features.numeric)):
        for pattern, name in expanded(patterns, names):
            if name == pattern or (name not in ignored and name not in data.labels):
                claims[name].append(f"features.{key}")
    for sequence in features.sequences:
        if sequence.name in names:
            claims[sequence.name].append("features.sequences")
    dropped = set(data.drop)
    for name in ignored & names.keys():
        # Left out by a glob and in no list is a decision; left out and listed by name is a contradiction to be told.
        if claims[name]:
            claims[name].append("data.drop" if name in dropped else "data.ignore")
    return claims


def _unmatched_patterns(file: str, columns: dict[str, None], data: DataParams, features: FeatureParams) -> list[str]:
    patterns = [("categorical", p) for p in features.categorical]
    patterns += [("numeric", p) for p in features.numeric]
    names = {name: None for name in columns if name not in data.labels}
    unmatched = [(key, p) for key, p in patterns if p not in data.labels and not matching(p, names)]
    unmatched += [("sequences", s.name) for s in features.sequences if s.name not in columns]
    return [f"{file}: features.{key}: {pattern} matches no column" for key, pattern in unmatched]


def _fields(columns: pa.Schema, left_out: set[str], features: FeatureParams) -> tuple[Field, ...]:
    def buckets(name: str) -> int:
        return features.num_buckets_of.get(name, features.num_buckets)

    types = {field.name: field.type for field in columns}
    kept = {name: kind for name, kind in types.items() if name not in left_out}
    # A column that two globs mean is one field, where the first of them has it.
    categorical = dict.fromkeys(name for _, name in expanded(features.categorical, types) if name in kept)
    numeric = dict.fromkeys(name for _, name in expanded(features.numeric, types) if name in kept)
    fields = (
        *(Field(n, FieldKind.CATEGORICAL, vocabulary=n, num_buckets=buckets(n)) for n in categorical),
        *(Field(n, FieldKind.NUMERIC) for n in numeric),
        *(_sequence_field(s, kept, buckets) for s in features.sequences if s.name in kept),
    )
    return tuple(replace(field, type=type_name(types[field.name])) for field in fields)


def _sequence_field(sequence: SequenceParams, types: dict[str, pa.DataType], buckets: Callable[[str], int]) -> Field:
    shared = sequence.vocabulary_of
    # As many as the column has whose vocabulary is shared, or equal values would fall into different buckets.
    num_buckets = sequence.num_buckets or buckets(shared or sequence.name)
    return Field(
        sequence.name,
        FieldKind.SEQUENCE,
        vocabulary=shared or sequence.name,
        num_buckets=num_buckets,
        max_len=sequence.max_len,
        separator=sequence.separator,
        padding=None if sequence.padding is None else str(sequence.padding),
        tokens=_token_rule(sequence, types),
    )


def _token_rule(sequence: SequenceParams, types: dict[str, pa.DataType]) -> TokenRule:
    """What tokens in text are read as: as the values of the column whose vocabulary they share.

    Text that is a number with leading zeros is another category than that number, and so it is another token; but
    where the column holds numbers, `00042` and `42.0` in a history can only mean its 42.
    """
    if sequence.tokens != "auto":
        return sequence.tokens
    if sequence.vocabulary_of in types:
        return "number" if is_number(value_type(types[sequence.vocabulary_of])) else "text"
    kind = value_type(types[sequence.name])
    if not is_list(kind):  # text alone does not tell: `inspect_histories` looks into some
        return ""
    return "number" if is_number(value_type(kind.value_type)) else "text"


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
