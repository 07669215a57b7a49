"""Overlays: files with only the settings that differ from params.yaml, put into it with its comments kept.

An overlay has the sections and keys of params.yaml. A value takes the place of the whole value there, also where it
is a list or holds names of columns. So a new setting touches params.yaml alone, and no example.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode

from qin.config import Params, load_params
from qin.config.strict_yaml import read_yaml
from qin.config.yaml_text import yaml_text
from qin.runtime.errors import ConfigError, shortened
from qin.runtime.files import atomic_file


def apply_overlays(overlays: list[Path], *, params: Path) -> Params:
    """Put overlays into a params file, the last one winning; it is written only if the result obeys every rule.

    Args:
        overlays: Files of sections with keys and values.
        params: The file to change.

    Returns:
        The new settings.

    Raises:
        ConfigError: If a file cannot be read, an overlay names a setting that `params` does not have, or a value breaks
            a rule.
    """
    text = _text_of(params)
    for overlay in overlays:
        text = overlaid(text, _sections(overlay), source=str(overlay))
    return _put(text, params=params, named=f"{params} with {', '.join(map(str, overlays))}")


def apply_values(values: Mapping[str, Any], *, params: Path) -> Params:
    """Put values into a params file, whose comments stay; it is written only if the result obeys every rule.

    Args:
        values: Values by dotted key.
        params: The file to change.

    Returns:
        The new settings.

    Raises:
        ConfigError: If it has no such key, or a value breaks a rule.
    """
    text = replaced(_text_of(params), values, source=str(params))
    return _put(text, params=params, named=str(params))


def _text_of(params: Path) -> str:
    """The text of a params file that has sections; the reader's errors name the line."""
    tree = read_yaml(params)
    if not isinstance(tree, dict):
        raise ConfigError(f"{params}: expected sections such as `data:` and `train:`, got {shortened(repr(tree))}")
    return params.read_text(encoding="utf-8")


def _put(text: str, *, params: Path, named: str) -> Params:
    with atomic_file(params) as staging:
        staging.write_text(text, encoding="utf-8")
        try:
            return load_params(staging)
        except ConfigError as error:
            raise ConfigError(*(line.replace(str(staging), named) for line in error.args)) from error


def overlaid(base: str, overlay: Mapping[str, Mapping[str, Any]], *, source: str) -> str:
    """The text of a params file with the values of an overlay.

    Args:
        base: The text, block style down to the keys of the sections.
        overlay: Values by section and key.
        source: The overlay's name, for messages.

    Raises:
        ConfigError: If the base has no such section or key.
    """
    values = {f"{section}.{key}": value for section, keys in overlay.items() for key, value in keys.items()}
    return replaced(base, values, source=source)


def replaced(base: str, values: Mapping[str, Any], *, source: str) -> str:
    """The text of a params file with other values, at any depth of its sections.

    Args:
        base: The text, block style down to the keys that are replaced.
        values: Values by dotted key.
        source: What messages call them.

    Raises:
        ConfigError: If the base has no such key.
    """
    places = dict(_values(yaml.compose(base, Loader=yaml.SafeLoader)))
    if missing := [f"{source}: {key}: params.yaml has no such key" for key in values if key not in places]:
        raise ConfigError(*missing)
    for key in sorted(values, key=places.__getitem__, reverse=True):  # from the end: earlier places stay
        start, stop = places[key]
        base = f"{base[:start]}{_block(values[key], depth=key.count('.'))}{base[stop:]}"
    return base


def _sections(overlay: Path) -> dict[str, dict[str, Any]]:
    tree = read_yaml(overlay)
    if not isinstance(tree, dict) or not all(isinstance(keys, dict) for keys in tree.values()):
        raise ConfigError(f"{overlay}: expected sections such as `data:` with keys and values")
    return tree


def _values(root: Node | None, prefix: str = "") -> Iterator[tuple[str, tuple[int, int]]]:
    """Dotted keys below the sections, and where the text after a key's colon begins and ends."""
    assert isinstance(root, MappingNode), "params.yaml has sections"
    for key, value in root.value:
        dotted = f"{prefix}{key.value}"
        if prefix:
            yield dotted, (key.end_mark.index + 1, _end(value))
        if isinstance(value, MappingNode) and not value.flow_style:
            yield from _values(value, f"{dotted}.")


def _end(node: Node) -> int:
    """Where the text of a value ends: a block's own mark lies behind the comments that follow it."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last if isinstance(node, SequenceNode) else last[1])
    return int(node.end_mark.index)


def _block(value: Any, *, depth: int) -> str:
    """A value as it stands behind the colon of a key so many levels below the sections."""
    text = yaml_text({"key": value}, indents=True, width=1000)
    return text.removeprefix("key:").rstrip("\n").replace("\n", "\n" + "  " * depth)
