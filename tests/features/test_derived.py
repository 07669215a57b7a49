"""Names of what prepare derives, and what of the settings and files does not fit them."""

from typing import Any

import pyarrow as pa
import pytest

from qin.columns.resolve import resolve_schema
from qin.columns.schema import Schema
from qin.config import FeatureParams, ImpressionParams
from qin.features.derived import Impressions, check_impression_columns, with_derived
from qin.runtime.errors import SchemaError
from tests.logs import data_params, feature_params, make_log

COLUMNS = pa.schema([*((name, array.type) for name, array in make_log(4).items()), ("request", pa.string())])


def derive(columns: pa.Schema = COLUMNS, **changes: Any) -> Schema:
    features = feature_params(**changes)
    data = data_params(ignore=["request", "odd*", "seq.length"])
    return with_derived(
        resolve_schema(columns, data=data, features=features), columns=columns, features=features, file="t.parquet"
    )


def impression(**changes: Any) -> dict[str, Any]:
    return {"impression": ImpressionParams(key=["request"], **changes)}


def names(schema: Schema, source: str) -> list[str]:
    return [field.name for field in schema.numeric if field.source == source]


def test_every_history_has_a_length_and_those_of_a_column_have_matches() -> None:
    schema = derive()
    assert names(schema, "history") == ["seq.length", "recent.length", "recent.hits", "recent.since", "recent.share"]
    assert [field.name for field in schema.numeric][:2] == ["price", "views"]
    assert {field.name for field in schema.columns} == {"shop", "item", "price", "views", "seq", "recent"}
    assert not names(derive(matches=False), "history")


def test_impressions_compare_numbers_and_hits() -> None:
    assert names(derive(), "impression") == []
    compared = ["price", "views", "recent.hits", "recent.since"]
    expected = [f"impression.{name}.{measure}" for name in compared for measure in ("rank", "relative")]
    expected += [f"impression.{name}.from_last.recent" for name in ("price", "views")]
    assert names(derive(**impression()), "impression") == ["impression.size", *expected]
    listed = names(derive(**impression(columns=["item"])), "impression")
    assert listed[1:3] == ["impression.item.rank", "impression.item.relative"]


def test_a_field_survives_its_manifest() -> None:
    schema = derive(**impression())
    assert Schema.from_json(schema.to_json()) == schema


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(SchemaError, match=r"t\.parquet: features\.impression\.key: no column session"):
        derive(impression=ImpressionParams(key=["session", "request"]))
    with pytest.raises(SchemaError, match=r"features\.impression\.columns: no column rank"):
        derive(**impression(columns=["rank"]))
    with pytest.raises(SchemaError, match=r"column recent: type list.* holds no numbers"):
        derive(**impression(columns=["recent"]))
    features: FeatureParams = feature_params(**impression())
    with pytest.raises(SchemaError, match=r"test\.parquet: features\.impression\.key: no column request"):
        check_impression_columns(pa.schema([("item", pa.int64())]), features, file="test.parquet")
    check_impression_columns(pa.schema([]), feature_params(), file="test.parquet")


def test_a_name_that_is_taken_is_named() -> None:
    columns = COLUMNS.append(pa.field("seq.length", pa.int64()))
    with pytest.raises(SchemaError, match=r"column seq\.length: this is the name of a derived feature; rename it"):
        derive(columns)


def test_what_impressions_are_made_of_follows_the_settings() -> None:
    features = feature_params(**impression(columns=["item"]))
    found = Impressions.of(derive(**impression()), features.impression)
    assert found is not None
    assert (found.key, found.columns) == (("request",), ("item",))
    assert [field.name for field in found.histories] == ["recent"]
    assert Impressions.of(derive(), feature_params().impression) is None
