"""Comments and rules of settings, in words."""

import pytest
from pydantic import BaseModel

from qin.config import Params
from tools.settings_page import allowed, comments


def test_a_comment_belongs_to_the_key_below_it() -> None:
    text = """# The file.

section:
  # First, on
  # two lines.
  first: 1
  second: 2
  # Third.
  third:
    - name: a
    # Inner.
    - inner: 3
  nested:
    # Deep.
    deep: 4
other:
  # Same name elsewhere.
  first: 5
"""
    assert comments(text) == {
        "section.first": "First, on two lines.",
        "section.third": "Third.",
        "section.nested.deep": "Deep.",
        "other.first": "Same name elsewhere.",
    }


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("data", "label", "text or one or more of text"),
        ("data", "drop", "list of text"),
        ("features", "target", "one or more of text"),
        ("features", "num_buckets_of", "mapping of names to whole number ≥ 3 and ≤ 2147483647"),
        ("split", "method", "`stratified`, `group_user`, `group_session`, `time`"),
        ("split", "group_key", "text or `null`"),
        ("split", "val_ratio", "number > 0 and < 1"),
        ("model", "target_values", "`true`, `false`"),
        ("model", "attention_score", "`product`, `mlp`"),
        ("imbalance", "pos_weight", "number ≥ 1e-06 and ≤ 1000000.0 or `auto` or `null`"),
    ],
)
def test_rules_in_words(section: str, key: str, words: str) -> None:
    schema = Params.model_json_schema()
    model = Params.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    assert allowed(schema["$defs"][model.__name__]["properties"][key], schema) == words
