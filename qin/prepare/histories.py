"""What the histories of a file look like: what their tokens are, and what a user should know before they are encoded.

A sample of rows is read, not the file: its first rows and those of some row groups further on.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qin.columns.schema import Field, Schema, TokenRule
from qin.columns.types import is_list
from qin.raw.canonical import canonical_text
from qin.raw.log import RawLog, open_log, read_sample
from qin.raw.values import plain_values
from qin.runtime.sources import Source

_SAMPLE_ROWS = 1024
_SHOWN_CHARACTERS = 60
# The likeliest first. The last two also stand inside of words, so they are suggested between numbers alone.
_OTHER_SEPARATORS = ",|;^\t \x01:/_-"
_NUMBERS = re.compile(r"[-+.\d\s,|;^:/_\x01]*\Z", re.ASCII)  # whatever divides them
_BRACKETS = {"[": "]", "{": "}", "(": ")"}


def inspect_histories(source: Source | RawLog, schema: Schema) -> tuple[Schema, list[str]]:
    """Decide what the tokens of each sequence are where the settings leave it open, and look for what is odd.

    Args:
        source: The train log.
        schema: The resolved columns.

    Returns:
        The schema with the decisions, and warnings, a line each.
    """
    if not schema.sequences:
        return schema, []
    log = open_log(source)
    sample = read_sample(log, columns=[field.name for field in schema.sequences], num_rows=_SAMPLE_ROWS)
    decided: dict[str, Field] = {}
    warnings: list[str] = []
    for named in schema.sequences:
        texts = [value for value in _values(sample.column(named.name)) if value is not None]
        field = named if named.tokens else replace(named, tokens=_token_rule(texts, named))
        decided[field.name] = field
        histories = [list(_tokens(text, field)) for text in texts]
        found = [_padding_warning(histories, field), _separator_warning(texts, field)]
        warnings += [f"warning: {log}: column {field.name}: {line}" for line in found if line]
    return replace(schema, fields=tuple(decided.get(field.name, field) for field in schema.fields)), warnings


def bad_token(token: bytes, field: Field) -> str:
    """What to say of a token that cannot be read: the rule, the token, what is expected."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        shown = repr(token)  # escaped
        text = ""
    else:
        shown = repr(text)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:29]}...{shown[-29:]}"
    name, divider = f"features.sequences.{field.name}", field.separator
    if field.tokens == "text":
        rule = "a token is blank" if not token.strip() else "brackets or quotes do not match"
        return f"{rule}: {shown}; expected text such as 'a{divider}b' or '[\"a\"{divider} \"b\"]'"
    advice = ""
    others = [other for other in _OTHER_SEPARATORS if other in text.strip() and other not in (divider, "-")]
    if others and _NUMBERS.match(text):
        advice = f"; {name}.separator: {others[0]!r} would divide it"
    elif text.strip() and text[0] not in _BRACKETS:
        advice = f"; {name}.tokens: text would read text"
    return (
        f"a token is not an integer: {shown}; expected integers such as '12{divider}13' or '[12{divider} 13]'{advice}"
    )


def _values(column: pa.ChunkedArray) -> Iterator[str | list[str | None] | None]:
    """A column's values, of lists the canonical texts: Python has neither every date nor every time of Arrow's."""
    for array in map(plain_values, column.chunks):
        if is_list(array.type):
            texts = iter(canonical_text(array.flatten()).to_pylist())
            for length in pc.list_value_length(array).to_pylist():
                yield None if length is None else list(islice(texts, length))
        elif not pa.types.is_null(array.type):  # text may be no UTF-8
            for value in array.cast(pa.large_binary()).to_pylist():
                yield None if value is None else value.decode(errors="surrogateescape")


def _token_rule(texts: Sequence[Any], field: Field) -> TokenRule:
    """`number` where at least half of the histories hold nothing but numbers, whatever divides them."""
    bodies = ["".join(token for token in _tokens(text, field) if token != field.padding) for text in texts]
    bodies = [body for body in bodies if body]
    numbers = sum(_NUMBERS.match(body) is not None for body in bodies)
    # A draw is numbers: if that is wrong, the first word is refused by name, where text would take anything in silence.
    return "number" if 2 * numbers >= len(bodies) else "text"


def _tokens(value: Any, field: Field) -> Iterator[str]:
    """The tokens of one history, roughly: enough to count them."""
    if not isinstance(value, str):
        yield from ("null" if item is None else item for item in value)
        return
    text = value.strip()
    if text and _BRACKETS.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    parts = text.split() if field.separator in " \t" else text.removesuffix(field.separator).split(field.separator)
    yield from (part.strip().strip("\"'") for part in parts if text)


def _padding_warning(histories: Sequence[Sequence[str]], field: Field) -> str | None:
    """Tell where most histories begin or end with one token twice: what pads them to one length, as a rule."""
    long = [tokens for tokens in histories if len(tokens) > 1]
    if field.padding is not None or not long:
        return None
    # Twice, because a popular item may well be the first of most histories, but hardly the first two.
    for where, first, second in (("begin", 0, 1), ("end", -1, -2)):
        ends = Counter(tokens[first] for tokens in long if tokens[first] == tokens[second])
        token, count = ends.most_common(1)[0] if ends else ("", 0)
        if 2 * count > len(long):
            return (
                f"{count / len(long):.0%} of the histories {where} with {token!r} twice; if it stands for nothing, set "
                f"features.sequences.{field.name}.padding: {token}"
            )
    return None


def _separator_warning(texts: Sequence[Any], field: Field) -> str | None:
    """Tell where no history holds the separator and most hold another one."""
    plain = [text.strip().strip("[](){}") for text in texts if isinstance(text, str) and text.strip()]
    if field.tokens == "number" or any(field.separator in text for text in plain):
        return None  # numbers that are not divided are refused
    for other in _OTHER_SEPARATORS[:-2]:
        if 2 * sum(other in text for text in plain) > len(plain):
            return (
                f"no history holds the separator {field.separator!r} and most hold {other!r}; "
                f"set features.sequences.{field.name}.separator"
            )
    return None
