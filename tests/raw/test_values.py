"""Labels, and ids that must not have been rounded."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qin.raw.values import encode_label, refuse_rounded
from qin.runtime.errors import DataError


@pytest.mark.parametrize(
    "kind",
    [pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(38), pa.decimal32(3, 1)],
    ids=str,
)
def test_labels_of_every_type_of_number(kind: pa.DataType) -> None:
    values = [Decimal(1), Decimal(0)] if pa.types.is_decimal(kind) else [1, 0]
    array = pa.array(values, pa.int8()).cast(kind) if pa.types.is_boolean(kind) else pa.array(values, kind)
    assert encode_label(array, file="log", column="y", first_row=0).tolist() == [1, 0]


def test_a_decimal_label_between_the_classes_is_refused() -> None:
    array = pa.array([Decimal("1.0"), Decimal("0.5")])
    with pytest.raises(DataError, match=r"^log: column y, row 8: label must be 0 or 1: Decimal\('0.5'\)$"):
        encode_label(array, file="log", column="y", first_row=7)


@pytest.mark.parametrize(("kind", "power"), [(pa.float16(), 11), (pa.float32(), 24), (pa.float64(), 53)])
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_that_may_have_been_rounded_are_refused(kind: pa.DataType, power: int, sign: int) -> None:
    exact = [0.0, sign * (2.0**power - 1), None, float("nan"), 0.5]
    refuse_rounded(pa.array(exact, kind), file="log", column="c", first_row=0)
    refuse_rounded(pa.array([exact, None], pa.list_(kind)), file="log", column="c", first_row=0)
    rule = (
        f"an id in {kind.bit_width}-bit floats, which are rounded from 2^{power} on; store the column as integers or "
        f"text: {sign * 2.0**power!r}"
    )
    for array in (
        pa.array([1.0, sign * 2.0**power], kind),
        pa.array([[1.0, 2.0], [sign * 2.0**power]], pa.list_(kind)),
    ):
        with pytest.raises(DataError) as caught:
            refuse_rounded(array, file="log", column="c", first_row=10)
        assert str(caught.value) == f"log: column c, row 11: {rule}"


def test_a_dictionary_hides_neither_a_label_nor_a_rounded_id() -> None:
    labels = pa.array([1, 0, None]).dictionary_encode()
    assert encode_label(labels.slice(0, 2), file="log", column="y", first_row=0).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"^log: column y, row 9: label must be 0 or 1: None$"):
        encode_label(labels, file="log", column="y", first_row=7)
    ids = pa.array([1.0, 2.0**53, 1.0]).dictionary_encode()
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), ids)
    views = pa.ListViewArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([1, 2], pa.int32()), ids)
    for array in (ids, lists, views):
        with pytest.raises(DataError, match=r"^log: column c, row 1: an id in 64-bit floats"):
            refuse_rounded(array, file="log", column="c", first_row=0)


@pytest.mark.parametrize("lists", [[None, [], [1.0], [2.0, float("inf")]], [[1.0], None, [2.0], [float("-inf"), 3.0]]])
def test_an_infinite_token_is_named_with_its_row(lists: list[Any]) -> None:
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32())):
        with pytest.raises(DataError, match=r"^log: column c, row 3: infinite: -?inf$"):
            refuse_rounded(pa.array(lists, kind), file="log", column="c", first_row=0)


@pytest.mark.parametrize(
    "array", [pa.array([2**62]), pa.array(["9007199254740993"]), pa.array([Decimal(2**60)]), pa.nulls(2)]
)
def test_other_types_keep_every_digit(array: pa.Array) -> None:
    refuse_rounded(array, file="log", column="c", first_row=0)


def test_integers_and_floats_agree_up_to_the_limit() -> None:
    assert np.float64(2**53 - 1) + 1 != np.float64(2**53 - 1)
    assert np.float64(2**53) + 1 == np.float64(2**53)
