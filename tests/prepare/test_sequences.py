"""Sequence parsing against `str.split` and plain Python integers."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qin.columns.buckets import NULL_BUCKET
from qin.columns.schema import Field, FieldKind
from qin.prepare.sequences import BadTokenError, encode_sequence
from qin.raw.hashing import bucket_of, hash_values, seed_of

NUM_BUCKETS = 50_000
SEED = seed_of("seq", 3)
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


class BadReferenceError(Exception):
    """A kept token that cannot be read: (token)."""


@functools.cache
def bucket(text: str) -> int:
    """The bucket of a value by its canonical text."""
    hashes, _ = hash_values(pa.array([text]), SEED)
    return int(bucket_of(hashes[0], np.uint64(NUM_BUCKETS - 2)))


def value_of(token: str, tokens: str) -> str:
    """The canonical text of a token."""
    if tokens == "text":
        if not token:
            raise BadReferenceError(token)
        return token
    if not re.fullmatch(r"[-+]?[0-9]+(\.0*)?", token):
        raise BadReferenceError(token)
    whole, point, _ = token.partition(".")
    if point and abs(int(whole)) >= 2**53:
        raise BadReferenceError(token)
    return str(int(whole))


def is_padding(token: str, padding: str | None, tokens: str) -> bool:
    """Whether a token means nothing, in whatever spelling."""
    try:
        return padding is not None and (token == padding or value_of(token, tokens) == value_of(padding, tokens))
    except BadReferenceError:
        return False


def parse(
    text: str | None, max_len: int, *, separator: str = ",", padding: str | None = None, tokens: str = "number"
) -> tuple[list[int], int]:
    """Kept buckets and the number of all tokens: the slow, obvious way."""
    if text is None or not text.strip(" \t"):
        return [], 0
    if separator in " \t":
        found = re.split("[ \t]+", text.strip(" \t"))
    else:
        found = [token.strip(" \t") for token in text.split(separator)]
        if not found[-1]:
            found.pop()
    found = [token for token in found if not is_padding(token, padding, tokens)]
    return [bucket(value_of(token, tokens)) for token in found[-max_len:]], len(found)


def history(max_len: int, *, separator: str = ",", padding: str | None = None, tokens: Any = "number") -> Field:
    return Field(
        "seq",
        FieldKind.SEQUENCE,
        vocabulary="seq",
        num_buckets=NUM_BUCKETS,
        max_len=max_len,
        separator=separator,
        padding=padding,
        tokens=tokens,
    )


def encode(array: pa.Array, max_len: int, **settings: Any) -> tuple[npt.NDArray[np.uint16], list[int]]:
    out = np.zeros((len(array), max_len), np.uint16)
    lengths = encode_sequence(array, history(max_len, **settings), seed=SEED, out=out)
    assert lengths.dtype == np.int64
    return out, lengths.tolist()


def check_against_reference(texts: list[str | None], max_len: int, kind: pa.DataType, **settings: Any) -> None:
    """Encode, and expect what the reference finds, or its first bad token."""
    expected: list[tuple[list[int], int]] = []
    bad = None
    for row, text in enumerate(texts):
        try:
            expected.append(parse(text, max_len, **settings))
        except BadReferenceError as error:
            bad = row, str(error)
            break
    if bad is None:
        out, lengths = encode(pa.array(texts, kind), max_len, **settings)
        assert out.tolist() == padded([kept for kept, _ in expected], max_len)
        assert lengths == [count for _, count in expected]
        return
    with pytest.raises(BadTokenError) as caught:
        encode(pa.array(texts, kind), max_len, **settings)
    assert (caught.value.row, caught.value.token.decode()) == bad


def padded(rows: Sequence[list[int]], max_len: int) -> list[list[int]]:
    return [row + [0] * (max_len - len(row)) for row in rows]


NUMBERS = st.integers(-(10**25), 10**25) | st.integers(-5, 99) | st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**18])
GOOD_TOKENS = st.builds(
    lambda number, zeros, plus, before, after: (
        before + ("-" if number < 0 else plus) + "0" * zeros + str(abs(number)) + after
    ),
    NUMBERS,
    st.integers(0, 3) | st.just(30),
    st.sampled_from(["", "+"]),
    st.sampled_from(["", " ", "\t", "  "]),
    st.sampled_from(["", " ", "\t "]),
)
GOOD_ROWS = st.builds(
    lambda tokens, end: ",".join(tokens) + end,
    st.lists(GOOD_TOKENS, min_size=1, max_size=8),
    st.sampled_from(["", ",", ", "]),
)
BLANK_ROWS = st.sampled_from(["", " ", "\t "]) | st.none()


@settings(max_examples=80, deadline=None)
@given(st.lists(GOOD_ROWS | BLANK_ROWS, min_size=1, max_size=6), st.integers(1, 6), st.sampled_from(TEXT_TYPES))
def test_good_rows_equal_the_reference(texts: list[str | None], max_len: int, kind: pa.DataType) -> None:
    out, lengths = encode(pa.array(texts, kind), max_len)
    expected = [parse(text, max_len) for text in texts]
    assert out.tolist() == padded([kept for kept, _ in expected], max_len)
    assert lengths == [count for _, count in expected]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text("012+-,, \tx.\n٣", max_size=9) | BLANK_ROWS, min_size=1, max_size=4), st.integers(1, 4))
@example([","], 2)
@example([" , "], 1)
@example([",,"], 1)
@example(["1,,"], 1)
@example(["1,,"], 2)
@example(["x,1"], 1)
@example(["1,x,"], 1)
@example(["-"], 1)
def test_any_text_equals_the_reference_or_is_refused(texts: list[str | None], max_len: int) -> None:
    check_against_reference(texts, max_len, pa.string())


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.text("0012.ab|, \t", max_size=12) | BLANK_ROWS, min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([",", "|", " ", "a"]),
    st.sampled_from([None, "0", "00", "", "b", "a0"]),
    st.sampled_from(["number", "text"]),
)
@example(["0,0,0,12,7"], 8, ",", "0", "number")
@example(["0,0,"], 8, ",", "0", "number")
@example([",,3"], 8, ",", "", "text")
@example([","], 8, ",", "", "text")
@example(["1  2\t3 "], 2, " ", None, "number")
@example(["12.0,7.,1.5"], 2, ",", None, "number")
@example(["00012,7,007"], 3, ",", None, "text")
def test_separators_padding_and_text_equal_the_reference(
    texts: list[str | None], max_len: int, separator: str, padding: str | None, tokens: str
) -> None:
    check_against_reference(texts, max_len, pa.large_string(), separator=separator, padding=padding, tokens=tokens)


def test_tokens_that_are_not_kept_are_counted_but_not_read() -> None:
    out, lengths = encode(pa.array(["x, ,1.5,7,8", "bad,,9,10,"]), 2)
    assert out.tolist() == [[bucket("7"), bucket("8")], [bucket("9"), bucket("10")]]
    assert lengths == [5, 4]


def test_the_refused_token_is_named() -> None:
    with pytest.raises(BadTokenError, match=r"^row 2: bad token: b'2\.5'$"):
        encode(pa.array(["1", None, "5, 2.5,z,7,"]), 3)


def test_a_long_row_keeps_its_end() -> None:
    numbers = list(range(20_000))
    out, lengths = encode(pa.array([",".join(map(str, numbers)), "1"]), 100)
    assert lengths == [20_000, 1]
    assert out[0].tolist() == [bucket(str(number)) for number in numbers[-100:]]
    assert out[1].tolist() == [bucket("1")] + [0] * 99


def test_spellings_of_an_integer_are_one_value() -> None:
    out, _ = encode(pa.array(["7", "007", "+7", " 7 ", "0" * 40 + "7"]), 1)
    assert set(out[:, 0].tolist()) == {bucket("7")}
    out, _ = encode(pa.array(["0", "-0", "+00", "-" + "0" * 40]), 1)
    assert set(out[:, 0].tolist()) == {bucket("0")}


def test_a_whole_number_of_a_float_column_is_its_integer_unless_it_may_have_been_rounded() -> None:
    out, _ = encode(pa.array(["7", "7.0", "+007.", f"{2**53 - 1}.0"]), 1)
    assert set(out[:3, 0].tolist()) == {bucket("7")}
    assert out[3, 0] == bucket(str(2**53 - 1))
    for text in (f"{2**53}.0", "1.5", ".0", ".", "1e3", "1.0.0"):
        with pytest.raises(BadTokenError):
            encode(pa.array([text]), 1)


def test_text_tokens_are_hashed_as_text_columns_are() -> None:
    tokens = ["00042", "42", "i12", "New York", "+7", "7.0", "\u0435"]
    out, lengths = encode(pa.array([",".join(tokens), "x"]), 8, tokens="text")
    assert out.tolist() == padded([[bucket(token) for token in tokens], [bucket("x")]], 8)
    assert lengths == [7, 1]
    assert encode(pa.array([tokens, ["x"]]), 8, tokens="text")[0].tolist() == out.tolist()


def test_bytes_that_are_no_utf8_are_text_or_shown_escaped() -> None:
    values = pa.array([b"1,\xff\xfe,5"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, values.buffers())
    for array in (values, text):
        assert encode(array, 3, tokens="text")[1] == [3]
        with pytest.raises(BadTokenError) as caught:
            encode(array, 3)
        assert caught.value.token == b"\xff\xfe"


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("[1,2,3]", "number", ["1", "2", "3"]),
        ("[ 1 , 2.0 ]", "number", ["1", "2"]),
        ("(1,)", "number", ["1"]),
        ("{7}", "number", ["7"]),
        ('["1", "02"]', "number", ["1", "2"]),
        ('["i1", "02"]', "text", ["i1", "02"]),
        ("['i1', 'a b']", "text", ["i1", "a b"]),
        ("[a, b]", "text", ["a", "b"]),
        ("[]", "number", []),
        (" [ ] ", "text", []),
        ("[1, null, nan, None, NaN]", "number", ["1", None, None, None, None]),
        ('["null"]', "text", ["null"]),
    ],
)
def test_lists_in_brackets(kind: pa.DataType, text: str, tokens: str, expected: list[str | None]) -> None:
    out, lengths = encode(pa.array([text, "5"], kind), 5, tokens=tokens)
    row = [NULL_BUCKET if token is None else bucket(token) for token in expected]
    assert out.tolist() == padded([row, [bucket("5")]], 5)
    assert lengths == [len(expected), 1]


@pytest.mark.parametrize(
    "text", ["[1,2", "[", '["a]', '["a"b]', '["a\\"b"]', "[[a],[b]]", "['a\"]", "[a,,b]", '{"a":1}']
)
def test_brackets_and_quotes_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(BadTokenError):
        encode(pa.array(["1", text]), 5, tokens="text")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 2**60), min_size=1, max_size=40),
    st.sampled_from([",", ", ", " ,", " , ", ",  "]),
    st.sampled_from(["{}", "[{}]", "( {} )", "[{},]"]),
    st.integers(1, 6),
    st.sampled_from(["number", "text"]),
)
def test_blanks_and_brackets_change_nothing(
    numbers: list[int], between: str, around: str, max_len: int, tokens: str
) -> None:
    plain = ",".join(map(str, numbers))
    out, lengths = encode(pa.array([plain, around.format(between.join(map(str, numbers)))]), max_len, tokens=tokens)
    assert out[0].tolist() == out[1].tolist()
    assert lengths == [len(numbers)] * 2


@pytest.mark.parametrize("padding", ["0", "0.0"])
def test_padding_in_lists_and_brackets_is_left_out(padding: str) -> None:
    expected = [[bucket("12"), bucket("7")], [], [bucket("3")]]
    rows = [[0, 0, 12, 7], [0, 0], [3, 0, 0]]
    floats = pa.array([[float(item) for item in row] for row in rows])
    texts = pa.array([[str(item) for item in row] for row in rows])
    brackets = pa.array([str(row) for row in rows])
    for array in (pa.array(rows), floats, texts, brackets, pa.array(rows, pa.list_(pa.int64()))):
        out, lengths = encode(array, 2, padding=padding)
        assert out.tolist() == padded(expected, 2)
        assert lengths == [2, 0, 1]


def test_a_word_may_pad_numbers() -> None:
    out, lengths = encode(pa.array(["<pad>,<pad>,12"]), 2, padding="<pad>")
    assert (out.tolist(), lengths) == ([[bucket("12"), 0]], [1])
    array = pa.array([["<pad>", "012"], ["x"]])
    assert encode(array.slice(0, 1), 2, padding="<pad>")[0].tolist() == [[bucket("12"), 0]]
    with pytest.raises(BadTokenError, match="row 1: bad token: b'x'"):
        encode(array, 2, padding="<pad>")


def test_columns_without_a_type_are_empty_histories() -> None:
    out, lengths = encode(pa.nulls(2), 3)
    assert (out.tolist(), lengths) == ([[0, 0, 0]] * 2, [0, 0])
    out, lengths = encode(pa.array([[], [None]]), 3)
    assert (out.tolist(), lengths) == ([[0, 0, 0], [NULL_BUCKET, 0, 0]], [0, 1])


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_slices_of_text(kind: pa.DataType) -> None:
    array = pa.array(["9,9", "1,2,3", None, "", "4"], kind)
    out, lengths = encode(array.slice(1, 3), 2)
    assert out.tolist() == [[bucket("2"), bucket("3")], [0, 0], [0, 0]]
    assert lengths == [3, 0, 0]


def test_text_behind_a_null_is_not_read() -> None:
    valid = pa.py_buffer(b"\x01")
    whole = pa.array(["1", "not,numbers"])
    array = pa.Array.from_buffers(pa.string(), 2, [valid, *whole.buffers()[1:]])
    assert array.to_pylist() == ["1", None]
    out, lengths = encode(array, 2)
    assert out.tolist() == [[bucket("1"), 0], [0, 0]]
    assert lengths == [1, 0]


def list_arrays(rows: list[list[Any] | None], value: pa.DataType) -> list[pa.Array]:
    return [pa.array(rows, kind) for kind in (pa.list_(value), pa.large_list(value))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=6), min_size=1),
    st.integers(1, 4),
    st.sampled_from([pa.int64(), pa.string()]),
)
def test_lists_equal_the_reference(rows: list[list[int | None] | None], max_len: int, value: pa.DataType) -> None:
    texts = [None if row is None else [None if item is None else str(item) for item in row] for row in rows]
    kept = [[NULL_BUCKET if item is None else bucket(item) for item in (row or [])[-max_len:]] for row in texts]
    for array in list_arrays(rows if value == pa.int64() else texts, value):
        for start in (0, len(rows) // 2):
            out, lengths = encode(array.slice(start), max_len)
            assert out.tolist() == padded(kept[start:], max_len)
            assert lengths == [len(row or []) for row in rows[start:]]


def test_lists_of_fixed_size() -> None:
    array = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int32(), 2))
    for start in (0, 1):
        out, lengths = encode(array.slice(start), 3)
        rows = [[bucket("1"), bucket("2"), 0], [0, 0, 0], [bucket("3"), NULL_BUCKET, 0]]
        assert out.tolist() == rows[start:]
        assert lengths == [2, 0, 2][start:]


def test_values_behind_a_null_list_are_left_out() -> None:
    values = pa.array([1, 2, 3, 4])
    array = pa.ListArray.from_arrays(pa.array([0, 1, 3, 4], pa.int32()), values, mask=pa.array([False, True, False]))
    out, lengths = encode(array, 2)
    assert out.tolist() == [[bucket("1"), 0], [0, 0], [bucket("4"), 0]]
    assert lengths == [1, 0, 1]


def test_lists_of_dictionaries_and_floats() -> None:
    values = pa.array(["1", "shop", None, "1"]).dictionary_encode()
    array = pa.ListArray.from_arrays(pa.array([0, 3, 4], pa.int32()), values)
    out, _ = encode(array, 3, tokens="text")
    assert out.tolist() == [[bucket("1"), bucket("shop"), NULL_BUCKET], [bucket("1"), 0, 0]]
    floats = pa.array([[1.0, float("nan")]], pa.list_(pa.float64()))
    assert encode(floats, 2)[0].tolist() == [[bucket("1"), NULL_BUCKET]]


def test_no_rows() -> None:
    for array in (pa.array([], pa.string()), pa.array([], pa.list_(pa.int64()))):
        out, lengths = encode(array, 3)
        assert out.shape == (0, 3)
        assert lengths == []


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.int64())])
def test_equal_histories_are_encoded_once_and_alike(kind: pa.DataType) -> None:
    """A dictionary whose unused values cannot be read is no row's business; of a used one the first row is named."""
    texts = ["1,2,3", None, "x", "7", "9,9,9,9"] if kind == pa.string() else [[1, 2, 3], None, [], [7], [9, 9, 9, 9]]
    codes = [0, 4, None, 3, 1, 0, 3, 4]
    array = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(texts, kind))
    expected = encode(pa.array([None if code is None else texts[code] for code in codes], kind), 3)
    found = encode(array, 3)
    assert np.array_equal(found[0], expected[0])
    assert found[1] == expected[1] == [3, 4, 0, 1, 0, 3, 1, 4]
    if kind == pa.string():
        bad = pa.DictionaryArray.from_arrays(pa.array([0, 3, 2, 2, 0, 0], pa.int8()), pa.array(texts, kind))
        with pytest.raises(BadTokenError) as error:
            encode(bad, 3)
        assert (error.value.row, error.value.token) == (2, b"x")
