"""Settings that are written are read back as they are, whatever names they hold."""

import math

import pytest

from qin.config.strict_yaml import parse_yaml
from qin.config.yaml_text import yaml_text

NAMES = (
    *("1e5", "0o17", "0x1F", "1_000", "010", "12:30", "off", "no", "null", "~", "", " ", ".nan", ".inf", "-.inf", "1."),
    *("9" * 500, "a: b", "- a", "#", "{a}", "[a]", "*", "&a", "!a", "a\nb", "\x00", "\x85", "\u2028", "😀", "\ufeff"),
    *("'", '"', "\\", "x" * 3000, "=1", "<<", "?", "true", "2022-05-04", "|", ">", "%", "@", "`"),
)


@pytest.mark.parametrize("indents", [False, True])
def test_every_name_is_read_back(indents: bool) -> None:
    tree = {"list": list(NAMES), "keys": dict.fromkeys(NAMES, 1), "pairs": [[name, name] for name in NAMES]}
    assert parse_yaml(yaml_text(tree, indents=indents), source="text") == tree


def test_numbers_stay_numbers_and_lists_are_written_out() -> None:
    shared = [1e-05, 1e16, -0.0, 3, True, None]
    tree = {"a": shared, "b": shared}
    text = yaml_text(tree)
    assert "&" not in text
    found = parse_yaml(text, source="text")
    assert found == tree
    assert math.copysign(1.0, found["b"][2]) == -1.0
