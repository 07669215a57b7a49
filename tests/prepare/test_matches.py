"""The row's own value in its history, against a loop over the tokens, in every form that histories have."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.columns.schema import Field, FieldKind
from qin.prepare.matches import Matches, match_history
from qin.prepare.sequences import encode_sequence
from qin.prepare.tokens import token_rules
from qin.raw.hashing import hash_values, seed_of

SEED = seed_of("item", 0)
ITEMS = st.integers(-3, 5) | st.sampled_from([2**53, 10**18, 10**25, -(10**19)])
HISTORIES = st.lists(st.tuples(ITEMS, st.lists(ITEMS, max_size=12)), min_size=1, max_size=8)


def match(own: pa.Array, histories: pa.Array, **rules: Any) -> Matches:
    settings = {"tokens": "number", "max_len": 2, **rules}
    field = Field("seq", FieldKind.SEQUENCE, vocabulary="item", num_buckets=99, **settings)
    encode_sequence(histories, field, seed=SEED, out=np.zeros((len(histories), 2), np.uint16))  # accepted as it is
    return match_history(histories, token_rules(field, SEED), *hash_values(own, SEED))


def expected(own: list[Any], histories: list[list[Any]]) -> list[tuple[int, int]]:
    return [
        (history.count(item), history[::-1].index(item) if item in history and item is not None else -1)
        for item, history in zip(own, histories, strict=True)
    ]


def pairs(matches: Matches) -> list[tuple[int, int]]:
    return list(zip(matches.hits.tolist(), matches.since.tolist(), strict=True))


@settings(deadline=None)  # the first call compiles
@given(HISTORIES)
def test_text_is_matched_as_a_loop_would(log: list[tuple[int, list[int]]]) -> None:
    own = pa.array([str(item) for item, _ in log])
    wanted = expected([item for item, _ in log], [history for _, history in log])
    for form in (
        ",".join,
        lambda tokens: " , ".join(tokens) + ("," if tokens else ""),
        lambda tokens: ",".join(f"+{token}" if token[0] != "-" else token for token in tokens),
        lambda tokens: f"[{', '.join(tokens)}]",
    ):
        histories = pa.array([form([str(token) for token in history]) for _, history in log])
        assert pairs(match(own, histories)) == wanted


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5) | st.none(), max_size=9)), min_size=1))
def test_lists_are_matched_as_a_loop_would(log: list[tuple[int, list[int | None]]]) -> None:
    own = pa.array([item for item, _ in log])
    wanted = expected([item for item, _ in log], [history for _, history in log])
    histories = pa.array([history for _, history in log], pa.list_(pa.int64()))
    assert pairs(match(own, histories)) == wanted
    assert pairs(match(own, pa.array([json.dumps(history) for _, history in log]))) == wanted


def test_other_separators_padding_and_text() -> None:
    own = pa.array(["i7", "i7", "007"])
    histories = pa.array(["i7|i8|none|i7|i9", "none|none", "7|007"])
    assert pairs(match(own, histories, separator="|", padding="none", tokens="text")) == [(2, 1), (0, -1), (1, 0)]
    zeros = pa.array(["0 7  8 0", "7 7", ""])
    assert pairs(match(pa.array([7, 7, 7]), zeros, separator=" ", padding="0")) == [(1, 1), (2, 0), (0, -1)]


def test_values_that_share_a_bucket_are_told_apart() -> None:
    own = pa.array(np.arange(300))  # in 97 buckets
    others = pa.array([",".join(str(token) for token in range(300) if token != item) for item in range(300)])
    assert not match(own, others).hits.any()


def test_nothing_is_found_in_nothing() -> None:
    own = pa.array([None, 3, 3], pa.int64())
    assert pairs(match(own, pa.array(["3,3", None, "  "]))) == [(0, -1)] * 3
    assert pairs(match(own, pa.nulls(3))) == [(0, -1)] * 3
    lists = pa.array([[None, 3], None, []], pa.list_(pa.int64()))
    assert pairs(match(own, lists)) == [(0, -1)] * 3


def test_tokens_that_are_not_kept_are_read_too() -> None:
    assert pairs(match(pa.array([5]), pa.array(["5,1,2,3"]))) == [(1, 3)]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_the_type_of_a_column_changes_nothing(kind: pa.DataType) -> None:
    own = pa.array(["3", "4"])
    histories = pa.array(["3,4,3", "3"])
    assert pairs(match(own, histories.cast(kind) if kind != pa.string_view() else pa.array(["3,4,3", "3"], kind))) == [
        (2, 0),
        (0, -1),
    ]


def test_lists_of_a_dictionary_are_matched_as_they_are() -> None:
    values = pa.array([[1, 2, 1], [3]])
    histories = pa.DictionaryArray.from_arrays(pa.array([1, 0, 0, None], pa.int8()), values)
    assert pairs(match(pa.array([3, 1, 2, 3]), histories)) == [(1, 0), (2, 0), (1, 1), (0, -1)]
