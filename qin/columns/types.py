"""Arrow types by what their values are: text, bytes, numbers, moments or lists, whatever width or layout they have."""

import re
from collections.abc import Callable

import pyarrow as pa

# The names that `pa.type_for_alias` cannot read back.
_LIST = re.compile(r"list<(.+)>")
_ZONED = re.compile(r"timestamp\[(\w+), tz=(.+)\]")
_DECIMAL = re.compile(r"(decimal\d+)\((\d+), (-?\d+)\)")
_FIXED = re.compile(r"fixed_size_binary\[(\d+)\]")
_UUID = "uuid"


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, behind extension types (a UUID's bytes) and dictionaries."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def read_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of a file is read as: values as they are, without a layout that few functions take.

    Views are columns of text or bytes as other readers keep them in memory; they cannot even be filtered. An extension
    type says how a program shows values, but for a UUID, whose text is not that of its bytes.
    """
    if isinstance(kind, pa.UuidType):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return read_type(kind.storage_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def type_name(kind: pa.DataType) -> str:
    """A name for the type of a column's values, from which `type_of` makes the type again.

    Dictionaries and the layouts of lists are left out: they are how values are stored, not what they are.
    """
    if isinstance(kind, pa.UuidType):
        return _UUID
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return type_name(kind.storage_type)
    return f"list<{type_name(kind.value_type)}>" if is_list(kind) else str(kind)


def type_of(name: str) -> pa.DataType:
    """Inverse of `type_name`.

    Raises:
        ValueError: If it is no name of a type.
    """
    if name == _UUID:
        return pa.uuid()
    if found := _LIST.fullmatch(name):
        return pa.list_(type_of(found[1]))
    if found := _ZONED.fullmatch(name):
        return pa.timestamp(found[1], tz=found[2])
    if found := _DECIMAL.fullmatch(name):
        return getattr(pa, found[1])(int(found[2]), int(found[3]))
    if found := _FIXED.fullmatch(name):
        return pa.binary(int(found[1]))
    return pa.type_for_alias(name)


def is_string(kind: pa.DataType) -> bool:
    """Whether a type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type holds bytes, which may be text of a writer that does not say so."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds lists."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds numbers; booleans are none."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_datetime(kind: pa.DataType) -> bool:
    """Whether a type holds datetimes or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_time_span(kind: pa.DataType) -> bool:
    """Whether a type holds times of day or durations."""
    return bool(pa.types.is_time(kind) or pa.types.is_duration(kind))


def is_groupable(kind: pa.DataType) -> bool:
    """Whether equal values of a type can be told, so that they may be categories, keys, segments or ids."""
    kind = value_type(kind)
    is_plain = is_string(kind) or is_binary(kind) or is_number(kind) or is_datetime(kind) or is_time_span(kind)
    return bool(is_plain or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def may_differ(kind: pa.DataType, other: pa.DataType) -> bool:
    """Whether equal values of two types could have different canonical texts, such as 3 and the text `3.0`."""
    return not (_families(kind) & _families(other) or pa.types.is_null(kind) or pa.types.is_null(other))


def common_type(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds a column's values where some files have one type and some another; None where none does.

    Widths and layouts may differ, and a file in which every value is missing may have no type: equal values stay equal.
    """
    if kind == other or pa.types.is_null(other):
        return kind
    if pa.types.is_null(kind):
        return other
    first, second = value_type(kind), value_type(other)
    if is_string(first) and is_string(second):
        return first if first == second else pa.large_string()
    if is_list(first) and is_list(second):
        is_alike = not may_differ(first.value_type, second.value_type)
    else:
        is_alike = not may_differ(first, second)
    try:
        pair = [pa.schema([("x", first)]), pa.schema([("x", second)])]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type if is_alike else None
    except pa.ArrowTypeError:
        return None


# In the field's metadata, because the type cannot tell: integers of a text file equal the same digits in text, while
# integers of a Parquet file stand beside text of any spelling.
_DIGITS = {b"qin": b"digits of text"}


def digits_field(name: str, kind: pa.DataType) -> pa.Field:
    """A column of a text file; if its type is an integer, each value's text is its plain digits."""
    return pa.field(name, kind, metadata=_DIGITS if pa.types.is_integer(kind) else None)


def is_digits_of_text(field: pa.Field) -> bool:
    """Whether a column holds integers that were text, so that they equal the same digits in a column of text."""
    return pa.types.is_integer(field.type) and (field.metadata or {}).get(b"qin") == _DIGITS[b"qin"]


def _families(kind: pa.DataType) -> frozenset[str]:
    """The families of types in which equal values have equal canonical texts; a type may be in two."""
    if isinstance(kind, pa.UuidType):
        return frozenset({"text", "bytes"})
    plain = value_type(kind)
    return next((families for is_kind, families in _FAMILIES if is_kind(plain)), frozenset({str(plain)}))


def _is_wide_number(kind: pa.DataType) -> bool:
    return is_number(kind) and not pa.types.is_float16(kind)


def _has_zone(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)


# The first that fits holds. Fixed-size bytes are no text: a digest is not the text of its hexadecimal digits. Half
# floats have three digits, so that their tenths are not those of wider floats.
_FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], frozenset[str]], ...] = (
    (pa.types.is_fixed_size_binary, frozenset({"bytes"})),
    (is_binary, frozenset({"text", "bytes"})),
    (is_string, frozenset({"text"})),
    (_is_wide_number, frozenset({"number"})),
    (_has_zone, frozenset({"instant"})),
    (is_datetime, frozenset({"datetime"})),
    (pa.types.is_time, frozenset({"time"})),
)
