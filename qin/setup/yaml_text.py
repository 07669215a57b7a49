"""A params file as text: sections whose keys are replaced with their comments, everything else as it stands."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode

from qin.runtime.errors import ConfigError, printable

_WIDTH = 120
_LONGEST_KEY = 1000
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
# Words that YAML 1.1 reads as something else, as many programs still do.
_RESERVED = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


@dataclass(frozen=True)
class Entry:
    """A key with its comments.

    Attributes:
        comments: Sentences above it, wrapped.
        lines: The key and its value, as lines of a section.
    """

    comments: Sequence[str]
    lines: Sequence[str]

    def text(self) -> list[str]:
        """Its lines inside a section."""
        return [
            *(line for one in self.comments for line in commented(one, "  ")),
            *(f"  {line}" for line in self.lines),
        ]


def scalar(value: str | float | bool | None) -> str:
    """A value as YAML of either version reads it back; text that could be anything else is quoted."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return "".join(char if char.isprintable() else _escaped(char) for char in json.dumps(value, ensure_ascii=False))


def entry(key: str, value: str) -> list[str]:
    """A key of a mapping with its value, as lines: YAML takes no more than 1,024 characters before a colon."""
    shown = scalar(key)
    return [f"{shown}: {value}"] if len(shown) < _LONGEST_KEY else [f"? {shown}", f": {value}"]


def _escaped(char: str) -> str:
    """A character that YAML forbids, or takes for the end of a line, as it stands between double quotes."""
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"


def listed(key: str, names: Iterable[str], reasons: Mapping[str, str]) -> list[str]:
    """A list with the reason behind each item."""
    items = [f"  - {scalar(name)}{_behind(reasons.get(name, ''))}" for name in names]
    return [f"{key}:", *items] if items else [f"{key}: []"]


def commented(text: str, indent: str) -> list[str]:
    """A sentence as lines of comment."""
    return textwrap.wrap(
        printable(" ".join(text.split())),
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
    )


def rewritten(base: str, header: Sequence[str], sections: Mapping[str, Mapping[str, Entry]], *, source: str) -> str:
    """The text of a params file with other entries.

    Args:
        base: A params file in block style.
        header: Sentences at its top, instead of those there.
        sections: Entries by section and key; what the base does not have goes to the end of the section.
        source: The base's name, for messages.

    Raises:
        ConfigError: If the base is not in block style, or has no such section.
    """
    lines = base.splitlines()
    root = yaml.compose(base, Loader=yaml.SafeLoader)
    if not isinstance(root, MappingNode) or root.flow_style:
        raise ConfigError(f"{source}: expected sections such as `data:`, one below the other")
    starts = _starts(root, lines)
    if missing := [name for name in sections if name not in starts]:
        raise ConfigError(f"{source}: no section {', '.join(missing)}")
    out = [line for one in header for line in commented(one, "")] + [""]
    order = list(starts)
    for number, (key, node) in enumerate(root.value):
        name = str(key.value)
        stop = starts[order[number + 1]] if number + 1 < len(order) else len(lines)
        if name in sections:
            if not isinstance(node, MappingNode) or node.flow_style:
                raise ConfigError(f"{source}: section {name}: expected one key per line")
            out += _section(name, node, lines[:stop], sections[name])
        else:
            out += lines[starts[name] : stop]
    return "\n".join(out).rstrip("\n") + "\n"


def _section(name: str, node: MappingNode, lines: list[str], entries: Mapping[str, Entry]) -> list[str]:
    starts = _starts(node, lines)
    keys, body = list(starts), [f"{name}:"]
    written = set()
    for number, key in enumerate(keys):
        if key in entries:
            body += entries[key].text()
            written.add(key)
        else:
            stop = starts[keys[number + 1]] if number + 1 < len(keys) else len(lines)
            body += _without_blank_end(lines[starts[key] : stop])
    for key, entry in entries.items():
        if key not in written:
            body += entry.text()
    return [*body, ""]


def _starts(node: MappingNode, lines: list[str]) -> dict[str, int]:
    """The first line of each key, its comments included."""
    starts = {}
    for key, _ in node.value:
        first = key.start_mark.line
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        starts[str(key.value)] = first
    return starts


def _without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def _behind(reason: str) -> str:
    return f"  # {printable(' '.join(reason.split()))}" if reason else ""
