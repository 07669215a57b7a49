"""Settings by dotted key, and with some of their values changed and checked again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from qin.config import Params
from qin.config.problems import problem_lines
from qin.runtime.errors import ConfigError


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of sections by dotted key, in their order; a section without keys is a value, an empty one.

    Args:
        tree: Sections of sections.
        prefix: Of every key.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(base: Params, changes: Mapping[str, Any]) -> Params:
    """The settings with other values.

    Args:
        base: The settings.
        changes: Values as params.yaml would have them, by dotted key such as `features.impression.key`.

    Raises:
        ConfigError: If a key is unknown or a value breaks a rule; a line per problem, as of params.yaml.
    """
    tree = base.model_dump(mode="json")
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        node: Any = tree
        for section in sections:
            node = node.setdefault(section, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"{dotted}: unknown key, {'.'.join(sections)} is no section")
        node[key] = value
    try:
        # The whole is checked, not the value alone: rules join keys and sections.
        return Params.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError(*problem_lines(error, Params)) from error
