"""Settings as YAML that `strict_yaml` reads back as they are."""

from typing import Any

import yaml

from qin.config.strict_yaml import resolve_scalar


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes text that YAML 1.2 reads as a number, such as the name `1e5`, and text with any end of a line, too.

    PyYAML knows the numbers of YAML 1.1, and does not read all of its own folded lines back.
    """

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


class _IndentingDumper(_Dumper):
    """Indents the items of a list below its key, as params.yaml does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _is_text(value) else '"')


def _is_text(value: str) -> bool:
    """Whether a text stands for itself without double quotes, or in such as PyYAML chooses."""
    try:
        return value.isprintable() and isinstance(resolve_scalar(value), str)
    except ValueError:  # a number of very many digits
        return False


_Dumper.add_representer(str, _text)


def yaml_text(tree: Any, *, indents: bool = False, width: int = 80) -> str:
    """Plain values as block YAML, keys in their order.

    Args:
        tree: The values.
        indents: Whether the items of a list are indented below its key.
        width: Of a line, where text can be folded.
    """
    dumper = _IndentingDumper if indents else _Dumper
    return str(yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=True, width=width))
