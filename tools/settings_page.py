"""docs/settings.md, made from the comments of params.yaml, the checks of `qin.config` and the stages of dvc.yaml.

`python -m tools.settings_page` prints the page, `python -m tools.settings_page --write` writes it, and the defaults
that reports compare a run's settings with.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from qin.config import Params
from qin.config.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/settings.md"
DEFAULTS = ROOT / "qin/report/defaults.json"

# They say which log it is, not how it is learned.
_OF_THE_LOG = (
    "data.",
    *(f"features.{key}" for key in ("categorical", "numeric", "sequences", "target", "num_buckets_of")),
)

_INTRODUCTION = """# Settings

<!-- made by python -m tools.settings_page -->

Every setting is a key of `params.yaml`; the text below is its comment there. Unknown keys and wrong values are refused,
all at once, each with its path, its value and the nearest valid key. Change a value in the file, or for one experiment
with `dvc exp run -S train.lr=5e-4`.

A change reruns the stages that read the key, and those after them whose inputs change with it. A key that no stage
reads as an input changes speed, memory or when a checkpoint is written, never an output.
"""

_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):")


def main(*, write: Annotated[bool, typer.Option("--write", help="Write docs/settings.md.")] = False) -> None:
    """Print or write the page of settings."""
    if write:
        PAGE.write_text(page(), encoding="utf-8")
        DEFAULTS.write_text(json.dumps(defaults(), indent=2) + "\n", encoding="utf-8")
    else:
        print(page(), end="")


def page() -> str:
    """The whole page in Markdown."""
    values: dict[str, Any] = read_yaml(ROOT / "params.yaml")
    explained = comments((ROOT / "params.yaml").read_text(encoding="utf-8"))
    readers = readers_of_keys()
    schema = Params.model_json_schema()
    parts = [_INTRODUCTION]
    for name, value in values.items():
        section = _resolved(schema["properties"][name], schema)
        parts.append(f"## {name}\n\n{section['description']}\n")
        for dotted, default, node in _leaves(name, value, section, schema):
            stages = readers.get(dotted, [])
            facts = [
                f"Default: `{default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)}`",
                f"allowed: {allowed(node, schema)}",
                f"read by: {', '.join(f'`{stage}`' for stage in stages) or 'no stage as an input'}",
            ]
            parts.append(f"### `{dotted}`\n\n{explained.get(dotted, '')}\n\n{'; '.join(facts)}.\n")
    return "\n".join(parts)


def defaults() -> dict[str, Any]:
    """Every setting of params.yaml that is not of the log, by dotted path down to the keys of the sections."""
    sections: dict[str, dict[str, Any]] = read_yaml(ROOT / "params.yaml")
    dotted = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return {key: value for key, value in dotted.items() if not key.startswith(_OF_THE_LOG)}


def comments(text: str) -> dict[str, str]:
    """The comment above each key of a params file, by dotted path; lines are joined."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    lines: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            lines.append(stripped.removeprefix("#").strip())
            continue
        match = _KEY.match(line)
        if match:
            depth = len(match["indent"])
            parents = [(indent, key) for indent, key in parents if indent < depth] + [(depth, match["key"])]
            if lines:
                found[".".join(key for _, key in parents)] = " ".join(lines)
        lines = []
    return found


def readers_of_keys() -> dict[str, list[str]]:
    """Stages that list a key, or the section that it is in, by dotted path."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    readers: dict[str, list[str]] = {}
    for dotted in _paths(Params.model_json_schema()):
        readers[dotted] = [
            name
            for name, stage in stages.items()
            if any(f"{dotted}.".startswith(f"{param}.") for param in stage["params"])
        ]
    return readers


def _paths(schema: dict[str, Any], prefix: str = "", node: dict[str, Any] | None = None) -> Iterator[str]:
    resolved = _resolved(node or schema, schema)
    for name, child in resolved.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _paths(schema, f"{prefix}{name}.", child)


def _leaves(
    path: str, value: Any, node: dict[str, Any], schema: dict[str, Any]
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Path, default and rule of each key below a section, sections inside it included, in the order of the settings."""
    for name, child in node["properties"].items():
        resolved, dotted = _resolved(child, schema), f"{path}.{name}"
        default = value.get(name, child.get("default"))
        if "properties" in resolved:
            yield from _leaves(dotted, default, resolved, schema)
        else:
            yield dotted, default, child


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A rule without its reference; a description at the reference wins."""
    if "$ref" not in node:
        return node
    target: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def allowed(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """A rule of a JSON schema in words."""
    node = _resolved(node, schema)
    if "anyOf" in node:
        return " or ".join(allowed(part, schema) for part in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in node.get("enum", [node.get("const")]))
    kind: str = node["type"]
    if kind == "array":
        some = "one or more of" if node.get("minItems") else "list of"
        return f"{some} {allowed(node['items'], schema)}"
    if kind == "object" and "properties" in node:
        inner = "; ".join(f"`{name}` {allowed(child, schema)}" for name, child in node["properties"].items())
        return f"({inner})"
    if kind == "object":
        return f"mapping of names to {allowed(node['additionalProperties'], schema)}"
    words = {"string": "text", "boolean": "`true`, `false`", "null": "`null`", "integer": "whole number"}
    return words.get(kind, kind) + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [
        f"{sign} {node[key]:g}" if abs(node[key]) < 1e6 else f"{sign} {node[key]}"
        for key, sign in signs.items()
        if key in node
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


if __name__ == "__main__":
    typer.run(main)
