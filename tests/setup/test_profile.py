"""What a column's profile says of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from qin.raw.values import refuse_rounded
from qin.runtime.errors import DataError
from qin.setup.kinds import kind_of
from qin.setup.profile import ColumnProfile, LogProfile


def column(values: pa.Array) -> ColumnProfile:
    found = ColumnProfile("code", values.type)
    found.add(values)
    return found


def kind_of_column(values: pa.Array) -> str:
    profile = column(values)
    log = LogProfile("log", len(values), {"code": profile}, pa.table({"code": values}))
    return kind_of(log, profile)[0]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "power"), [(np.float16, 11), (np.float32, 24), (np.float64, 53)])
def test_what_prepare_would_refuse_as_a_category_is_a_measure(dtype: type, power: int, sign: int) -> None:
    values: npt.NDArray[Any] = np.arange(20, dtype=dtype)
    assert kind_of_column(pa.array(values)) == "categorical"
    refuse_rounded(pa.array(values), file="log", column="code", first_row=0)
    values[7] = sign * 2.0**power
    assert column(pa.array(values)).is_rounded
    assert kind_of_column(pa.array(values)) == "numeric"
    with pytest.raises(DataError, match="which are rounded from"):
        refuse_rounded(pa.array(values), file="log", column="code", first_row=0)


def test_a_column_whose_values_the_sample_has_not_met_is_guessed_without_a_warning() -> None:
    profile = ColumnProfile("x", pa.int64())
    profile.add(pa.array([*range(0, 2000, 10), *[None] * 800]))
    log = LogProfile("log", 1000, {"x": profile}, pa.table({"x": pa.nulls(10, pa.int64())}))
    kind, reason, is_guess = kind_of(log, profile)
    assert (kind, is_guess) == ("categorical", True)
    assert reason.endswith("too rare to see how they are spread")


def test_columns_that_hold_no_floats_are_not_rounded() -> None:
    assert not column(pa.array([2**60, 1])).is_rounded
    assert not column(pa.nulls(3, pa.float32())).is_rounded
    assert not column(pa.array([None, np.inf, 3.0])).is_rounded
