"""What a sample of histories tells about their tokens, padding and separator, and what is said of a bad one."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qin.columns.resolve import resolve_schema
from qin.columns.schema import Field
from qin.config import SequenceParams
from qin.prepare.histories import bad_token, inspect_histories
from tests.logs import data_params, feature_params, make_log, write_log

NUM_ROWS = 60


def inspect(tmp_path: Path, values: pa.Array, **settings: Any) -> tuple[Field, list[str]]:
    """The history's field and the warnings for a column of these values, repeated over a log."""
    repeated = values.take(pa.array([row % len(values) for row in range(NUM_ROWS)]))
    file = write_log(tmp_path / "log.parquet", {**make_log(NUM_ROWS), "seq": repeated}, row_group_rows=9)
    sequence = SequenceParams(**{"name": "seq", "max_len": 4, "num_buckets": 99, **settings})
    columns = pa.table({**make_log(4), "seq": values.slice(0, 1).take(pa.array([0] * 4))}).schema
    features = feature_params(sequences=[sequence])
    schema = resolve_schema(columns, data=data_params(ignore=["recent"]), features=features)
    decided, warnings = inspect_histories(file, schema)
    assert all(line.startswith(f"warning: {file}: column seq: ") for line in warnings)
    [field] = decided.sequences
    return field, [line.removeprefix(f"warning: {file}: column seq: ") for line in warnings]


@pytest.mark.parametrize(
    ("values", "settings", "tokens"),
    [
        (["1,2", "3", None, ""], {}, "number"),
        (["1,2.0", "x3", "[4]"], {}, "number"),  # a bad token is refused where it stands
        (["i12,i13", "i1"], {}, "text"),
        (["i12,i13", "7", "i1"], {}, "text"),
        (['["a", "b"]', "[]"], {}, "text"),
        (["12|13", "4|5"], {}, "number"),  # which is then refused, with the separator to set
        (["<pad>,12", "<pad>,<pad>"], {"padding": "<pad>"}, "number"),
        ([None, ""], {}, "number"),
        (["1,2"], {"tokens": "text"}, "text"),
        (["1,2"], {"num_buckets": None, "vocabulary_of": "item"}, "number"),
        (["1,2"], {"num_buckets": None, "vocabulary_of": "shop"}, "text"),
    ],
)
def test_tokens_are_what_most_histories_hold(
    tmp_path: Path, values: list[str | None], settings: dict[str, Any], tokens: str
) -> None:
    for kind in (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.binary()):
        assert inspect(tmp_path, pa.array(values, pa.string()).cast(kind), **settings)[0].tokens == tokens


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[3_000_000, 3_000_000, 1], [3_000_000, 3_000_000, 2]], pa.list_(pa.int32())).cast(
            pa.list_(pa.date32())
        ),
        pa.array([[2**50, 2**50, 1], [2**50, 2**50, 2]]).cast(pa.list_(pa.timestamp("s"))),
        pa.array([[1, 1, 2], [1, 1, 3]]).cast(pa.list_(pa.time64("ns"))),
        pa.array([[1, 1, 2], [1, 1, 3]]).cast(pa.list_(pa.duration("ns"))),
        pa.array([[1, 1, 2], [1, 1, 3]]).cast(pa.list_(pa.timestamp("us", tz="Nowhere/Nothing"))),
    ],
    ids=lambda array: str(array.type),
)
def test_values_that_python_has_not_are_tokens(tmp_path: Path, values: pa.Array) -> None:
    field, [warning] = inspect(tmp_path, values)
    assert field.tokens == "text"
    assert warning.startswith("100% of the histories begin with ")


def test_bytes_that_are_no_utf8_are_text(tmp_path: Path) -> None:
    values = pa.array([b"a\xff,b", b"c"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, values.buffers())
    assert inspect(tmp_path, text)[0].tokens == "text"
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), text)
    assert inspect(tmp_path, lists)[0].tokens == "text"


@pytest.mark.parametrize(
    ("values", "where", "token"),
    [
        (pa.array(["0,0,0,7", "0,0,1,2", "3,4,5,6"]), "begin", "0"),
        (pa.array([[0, 0, 0, 7], [0, 0, 1, 2], [3, 4, 5, 6]]), "begin", "0"),
        (pa.array(["7,-1,-1,-1", "1,2,-1,-1", "3,4,5,6"]), "end", "-1"),
        (pa.array([["a", "<pad>", "<pad>"], ["<pad>", "<pad>", "<pad>"], ["a", "b", "c"]]), "end", "<pad>"),
    ],
)
def test_a_token_that_fills_the_ends_of_most_histories_is_told(
    tmp_path: Path, values: pa.Array, where: str, token: str
) -> None:
    told = f"67% of the histories {where} with {token!r} twice; if it stands for nothing, set "
    assert inspect(tmp_path, values)[1] == [f"{told}features.sequences.seq.padding: {token}"]
    assert inspect(tmp_path, values, padding=token)[1] == []


@pytest.mark.parametrize("values", [["1,1,2", "3,4", "5,6,7"], ["7", "7", "7"], ["1,2,1", "1,3,2"], ["", None]])
def test_repeats_of_real_items_are_no_padding(tmp_path: Path, values: list[str | None]) -> None:
    assert inspect(tmp_path, pa.array(values, pa.string()))[1] == []


def test_a_separator_that_no_text_history_holds_is_told(tmp_path: Path) -> None:
    values = pa.array(["a|b|c", "a|d", "e"])
    assert inspect(tmp_path, values)[1] == [
        "no history holds the separator ',' and most hold '|'; set features.sequences.seq.separator"
    ]
    assert inspect(tmp_path, values, separator="|")[1] == []
    assert inspect(tmp_path, pa.array(["a", "b"]))[1] == []


@pytest.mark.parametrize(
    ("token", "settings", "message"),
    [
        (b"x3", {}, "a token is not an integer: 'x3'; expected integers such as '12,13' or '[12, 13]'; "
         "features.sequences.seq.tokens: text would read text"),
        (b"12|13", {}, "a token is not an integer: '12|13'; expected integers such as '12,13' or '[12, 13]'; "
         "features.sequences.seq.separator: '|' would divide it"),
        (b"1,2", {"separator": "^"}, "a token is not an integer: '1,2'; expected integers such as '12^13' or '[12^ 13]'"
         "; features.sequences.seq.separator: ',' would divide it"),
        (b"[1,2", {}, "a token is not an integer: '[1,2'; expected integers such as '12,13' or '[12, 13]'"),
        (b"\xff\xfe", {}, "a token is not an integer: b'\\xff\\xfe'; expected integers such as '12,13' or '[12, 13]'"),
        (b"", {}, "a token is not an integer: ''; expected integers such as '12,13' or '[12, 13]'"),
        (b"", {"tokens": "text"}, "a token is blank: ''; expected text such as 'a,b' or '[\"a\", \"b\"]'"),
        (b"[a", {"tokens": "text"}, "brackets or quotes do not match: '[a'; expected text such as 'a,b' or "
         "'[\"a\", \"b\"]'"),
    ],
)  # fmt: skip
def test_a_bad_token_comes_with_what_is_expected(token: bytes, settings: dict[str, Any], message: str) -> None:
    field = Field("seq", **{"kind": "sequence", "tokens": "number", **settings})
    assert bad_token(token, field) == message
