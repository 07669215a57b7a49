"""YAML 1.2 (core schema) as plain values, for settings: what could surprise or never end is refused in one line.

PyYAML reads YAML 1.1, to which `1e-05`, as `dvc exp run -S train.lr=1e-5` writes it, is text, `off` is false, `010` is
8 and `12:30` is 750. Its parser is used for the grammar alone, and the rules of YAML 1.2 say what each scalar means.

Source: YAML 1.2.2, section 10.3.2, Core Schema: Tag Resolution.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from qin.runtime.errors import ConfigError

# Ten nested lists of ten aliases each would be 10^10 values: aliases share their value here, but its readers would not.
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MAX_DIGITS = 400  # no setting has as many, and Python refuses to print integers of some thousands

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # without libyaml PyYAML has the latter alone, ten times slower

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"(?P<decimal>[-+]?[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hex>[0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

_TAG_PREFIX = "tag:yaml.org,2002:"
_COLLECTION_TAGS = {"map": MappingStartEvent, "seq": SequenceStartEvent}


def read_yaml(path: Path) -> Any:
    """Read a file of one YAML document.

    Args:
        path: The file, in UTF-8.

    Returns:
        Dicts with text as keys, lists, and scalars; None where the file holds no value.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or holds what settings may not: a key twice, a key that is
            no text, an alias of itself, more than a million values or 32 levels, a tag beyond the core schema.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: file not found") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str | bytes, *, source: str) -> Any:
    """The value of one YAML document; see `read_yaml`.

    Args:
        text: The document.
        source: What messages call it.

    Raises:
        ConfigError: If it is not YAML, or holds what settings may not.
    """
    try:
        return _document(yaml.parse(text, Loader=_LOADER))
    except (yaml.YAMLError, _RefusedError) as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def resolve_scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar without a tag.

    Raises:
        ValueError: If it is an integer of more than `MAX_DIGITS` digits.
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    if found := _INT.fullmatch(text):
        return _integer(found)
    if _FLOAT.fullmatch(text):
        return float(text)
    if found := _INFINITY.fullmatch(text):
        return float(f"{found[1]}inf")
    return float("nan") if _NAN.fullmatch(text) else text


def _integer(found: re.Match[str]) -> int:
    if len(found[0]) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(found[0])} digits")
    if found["octal"]:
        return int(found["octal"], 8)
    return int(found["hex"], 16) if found["hex"] else int(found["decimal"])


class _RefusedError(Exception):
    """What YAML allows and settings do not; names the line."""

    def __init__(self, event: Event, problem: str) -> None:
        super().__init__(f"line {event.start_mark.line + 1}: {problem}")


@dataclass
class _Anchor:
    """A value that aliases may repeat.

    Attributes:
        value: The value itself, which its aliases share.
        size: Values in it, aliases expanded.
        depth: Its levels of lists and mappings.
        is_whole: False while it is being read, when an alias of it would be circular.
    """

    value: Any = None
    size: int = 0
    depth: int = 0
    is_whole: bool = False


@dataclass
class _Reader:
    """Builds values from the parser's events; recursion is bounded by `MAX_DEPTH`."""

    events: Iterator[Event]
    anchors: dict[str, _Anchor] = field(default_factory=dict)

    def read(self, event: Event, depth: int) -> _Anchor:
        """The value that begins with an event, `depth` levels below the document."""
        if isinstance(event, AliasEvent):
            return self._repeated(event, depth)
        assert isinstance(event, NodeEvent)
        found = _Anchor()
        if event.anchor is not None:
            # Known before it is read, so that an alias of itself is told from one of nothing.
            self.anchors[event.anchor] = found
        if isinstance(event, ScalarEvent):
            found.value, found.size = _scalar(event), 1
        else:
            self._collect(event, found, depth)
        found.is_whole = True
        return found

    def _repeated(self, event: AliasEvent, depth: int) -> _Anchor:
        known = self.anchors.get(event.anchor)
        if known is None:
            raise _RefusedError(event, f"alias *{event.anchor} of an unknown anchor")
        if not known.is_whole:
            raise _RefusedError(event, f"alias *{event.anchor} is inside what it stands for")
        self._check(event, known.size, depth + known.depth)
        return known

    def _collect(self, event: Event, found: _Anchor, depth: int) -> None:
        assert isinstance(event, CollectionStartEvent)
        self._check(event, found.size, depth + 1)
        if event.tag is not None and _COLLECTION_TAGS.get(event.tag.removeprefix(_TAG_PREFIX)) is not type(event):
            raise _RefusedError(event, f"tag {event.tag} is not one of YAML 1.2's core schema")
        parts = self._pairs(depth) if isinstance(event, MappingStartEvent) else self._items(depth)
        found.value, found.size = ({}, 1) if isinstance(event, MappingStartEvent) else ([], 1)
        for key, part in parts:
            if isinstance(found.value, dict):
                found.value[key] = part.value
            else:
                found.value.append(part.value)
            found.size, found.depth = found.size + part.size, max(found.depth, part.depth)
            # At every value and not at the end: each line of aliases may be ten times as many as the one before.
            self._check(event, found.size, depth)
        found.depth += 1

    def _items(self, depth: int) -> Iterator[tuple[str, _Anchor]]:
        while not isinstance(event := next(self.events), SequenceEndEvent):
            yield "", self.read(event, depth + 1)

    def _pairs(self, depth: int) -> Iterator[tuple[str, _Anchor]]:
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise _RefusedError(event, "a key must be text")
            if event.value in lines:
                raise _RefusedError(event, f"key {event.value} occurs twice, first in line {lines[event.value]}")
            lines[event.value] = event.start_mark.line + 1
            yield event.value, self.read(next(self.events), depth + 1)

    @staticmethod
    def _check(event: Event, size: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _RefusedError(event, f"more than {MAX_DEPTH} levels of lists and mappings")
        if size > MAX_VALUES:
            raise _RefusedError(event, f"more than {MAX_VALUES} values, aliases expanded")


def _document(events: Iterator[Event]) -> Any:
    """The value of the only document, or None if there is none."""
    reader, value, num_documents = _Reader(events), None, 0
    for event in events:
        if isinstance(event, DocumentStartEvent):
            num_documents += 1
            if num_documents > 1:
                raise _RefusedError(event, "a second document begins")
            value = reader.read(next(events), 0).value
    return value


def _scalar(event: ScalarEvent) -> Any:
    tag = None if event.tag is None else event.tag.removeprefix(_TAG_PREFIX)
    if tag in ("str", "!") or (tag is None and not event.implicit[0]):  # said to be text, or quoted
        return event.value
    if tag is None:
        try:
            return resolve_scalar(event.value)
        except ValueError as error:
            raise _RefusedError(event, str(error)) from error
    raise _RefusedError(event, f"tag {event.tag}: write the value without it")
