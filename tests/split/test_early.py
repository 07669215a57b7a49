"""What later stages would stumble over, found by the columns alone."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qin.config import load_params
from qin.features.artifact import Statistic
from qin.runtime.errors import SchemaError
from qin.split.early import check_later_columns
from tests.config.test_params import write_params

COLUMNS = {"a": pa.string(), "b": pa.string(), "x": pa.float64(), "clicked": pa.int8()}


def check(folder: Path, columns: dict[str, pa.DataType], **changes: Any) -> None:
    """Check settings of a small log."""
    names = [name for name in columns if name != "clicked"]
    base = {
        "data.drop": [],
        "features.categorical": [name for name in names if columns[name] == pa.string()],
        "features.numeric": [name for name in names if columns[name] != pa.string()],
        "features.sequences": [],
        "features.target": ["a"],
        "features.num_buckets_of": {},
    }
    params = load_params(write_params(folder, {**base, **changes}))
    check_later_columns(params, train=pa.schema(list(columns.items())), test=None)


@pytest.mark.parametrize("name", ["stat.a.rate", "stat.b.share", "stat.a:b.rate"])
def test_a_column_that_is_called_as_a_statistic_is_named(tmp_path: Path, name: str) -> None:
    pairs = {"features.statistics.pairs": [["a", "b"]]}
    message = f"^data/train.parquet: column {name}: this is the name of a statistic; rename it, or set "
    with pytest.raises(SchemaError, match=message):
        check(tmp_path, {**COLUMNS, name: pa.float64()}, **pairs)
    check(tmp_path, {**COLUMNS, name: pa.float64()}, **pairs, **{"features.statistics.enable": False})


def test_a_column_that_no_statistic_is_called_is_a_column(tmp_path: Path) -> None:
    check(tmp_path, {**COLUMNS, "stat.x.rate": pa.float64(), "stat.a": pa.float64(), "a:b": pa.string()})


def test_every_statistic_has_a_name_of_its_own() -> None:
    fields = [("a:b",), ("a", "b"), ("a:", "b"), ("a", ":b"), ("a\\", "b"), ("a\\:b",), ("a", "b:c"), ("a:b", "c")]
    names = [Statistic(one, ("rate",)).names for one in fields]
    assert len(set(names)) == len(names)
    assert names[1] == ("stat.a:b.rate",)
