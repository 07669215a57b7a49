"""Columns against the lists of params.yaml: what resolves, and the text of each refusal."""

import re
import time
from typing import Any

import pyarrow as pa
import pytest

from qin.columns.resolve import check_test_columns, resolve_schema, scalar_columns
from qin.columns.schema import FieldKind, Schema
from qin.config import SequenceParams
from qin.runtime.errors import SchemaError
from tests.logs import data_params, feature_params, log_schema, make_log


def log_columns(**changes: pa.DataType | None) -> pa.Schema:
    """The small log's columns, some with another type, added, or (None) left out."""
    types = {name: array.type for name, array in make_log(4).items()}
    return pa.schema([(name, kind) for name, kind in {**types, **changes}.items() if kind is not None])


def problems(columns: pa.Schema, *, data: dict[str, Any] | None = None, **features: Any) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        resolve_schema(columns, data=data_params(**(data or {})), features=feature_params(**features))
    return str(caught.value).splitlines()


def test_fields_of_the_small_log() -> None:
    schema = log_schema(make_log(4))
    assert [(f.name, f.kind, f.vocabulary, f.num_buckets, f.max_len) for f in schema.fields] == [
        ("shop", FieldKind.CATEGORICAL, "shop", 12, 0),
        ("item", FieldKind.CATEGORICAL, "item", 40, 0),
        ("price", FieldKind.NUMERIC, "", 0, 0),
        ("views", FieldKind.NUMERIC, "", 0, 0),
        ("seq", FieldKind.SEQUENCE, "seq", 70000, 4),
        ("recent", FieldKind.SEQUENCE, "item", 40, 3),
    ]
    assert [field.type for field in schema.fields] == ["string", "int64", "float", "int32", "string", "list<int64>"]
    assert schema.vocabularies == {"shop": 12, "item": 40, "seq": 70000}
    assert (schema.target, schema.label, schema.id, schema.hash_seed) == (("item",), "clicked", "ID", 7)


def test_json_gives_the_schema_back() -> None:
    schema = log_schema(make_log(4))
    assert Schema.from_json(schema.to_json()) == schema
    assert [field.type for field in Schema.from_json(schema.to_json()).fields] == [f.type for f in schema.fields]


def test_fields_have_the_order_of_the_settings_and_of_names_inside_a_glob() -> None:
    columns = log_columns(x_2=pa.int8(), x_10=pa.int8(), x_1=pa.string(), x_3=pa.float64())
    data, features = data_params(drop=["x_3"]), feature_params(categorical=["x_*", "shop", "item"])
    for order in (columns, pa.schema(reversed(list(columns)))):
        schema = resolve_schema(order, data=data, features=features)
        assert [field.name for field in schema.categorical] == ["x_1", "x_2", "x_10", "shop", "item"]
        assert [field.name for field in schema.numeric] == ["price", "views"]
        assert scalar_columns(order.names, data=data, features=features) == [
            *("x_1", "x_2", "x_10", "shop", "item", "price", "views")
        ]


def test_a_name_is_first_itself_then_a_glob() -> None:
    columns = log_columns(**{"price[usd]": pa.float32(), "item[0]": pa.int8(), "f(x)*": pa.int8(), "priceu": pa.int8()})
    data = data_params(ignore=["f(x)*"])
    features = feature_params(categorical=["shop", "item*"], numeric=["price[usd]", "price", "views", "priceu"])
    schema = resolve_schema(columns, data=data, features=features)
    assert [field.name for field in schema.numeric] == ["price[usd]", "price", "views", "priceu"]
    assert [field.name for field in schema.categorical] == ["shop", "item", "item[0]"]
    assert problems(columns, data={"ignore": ["f(x)*"]}, numeric=["price[abc]", "price*", "views"]) == [
        "train.parquet: column item[0]: in no list; add it to features.categorical, features.numeric, "
        "features.sequences or data.ignore",
        "train.parquet: features.numeric: price[abc] matches no column",
    ]


def test_many_columns_take_no_time_that_grows_with_their_square() -> None:
    names = [f"x_{number}" for number in range(20_000)]
    columns = log_columns(**dict.fromkeys(names, pa.float32()))
    started = time.process_time()
    schema = resolve_schema(columns, data=data_params(), features=feature_params(numeric=["price", "views", *names]))
    test = log_columns(clicked=None, **dict.fromkeys(names, pa.float32()))
    check_test(test, schema, train=columns, numeric=["price", "views", *names])
    assert len(schema.numeric) == 20_002
    assert time.process_time() - started < 10.0  # minutes with one comparison for each pair


def test_tokens_are_read_as_the_column_whose_vocabulary_they_share() -> None:
    def rules(**changes: pa.DataType) -> list[str]:
        columns = log_columns(**changes)
        return [f.tokens for f in resolve_schema(columns, data=data_params(), features=feature_params()).sequences]

    assert rules() == ["", "number"]  # of its own vocabulary, only the file tells
    texts = {"recent": pa.list_(pa.string())}
    assert rules(item=pa.string(), recent=pa.string()) == ["", "text"]
    assert rules(item=pa.dictionary(pa.int8(), pa.string()), seq=pa.list_(pa.string()), **texts) == ["text", "text"]
    assert rules(item=pa.decimal128(20, 0), recent=pa.string()) == ["", "number"]
    assert rules(seq=pa.list_(pa.float64())) == ["number", "number"]
    sequence = SequenceParams(name="seq", max_len=4, num_buckets=9, tokens="text", separator="|", padding=0)
    schema = resolve_schema(log_columns(recent=None), data=data_params(), features=feature_params(sequences=[sequence]))
    [field] = schema.sequences
    assert (field.tokens, field.separator, field.padding) == ("text", "|", "0")


def test_a_column_in_no_list_is_named() -> None:
    assert problems(log_columns(extra=pa.int8())) == [
        "train.parquet: column extra: in no list; add it to features.categorical, features.numeric, "
        "features.sequences or data.ignore"
    ]


def test_a_column_in_two_lists_is_named_with_both() -> None:
    assert problems(log_columns(), numeric=["price", "views", "item"]) == [
        "train.parquet: column item: in 2 lists: features.categorical, features.numeric"
    ]
    assert problems(log_columns(), categorical=["shop", "item", "clicked"]) == [
        "train.parquet: column clicked: in 2 lists: data.label, features.categorical"
    ]


def test_a_glob_means_no_label() -> None:
    columns = log_columns(is_new=pa.int8(), is_liked=pa.int8())
    both, features = data_params(label=["clicked", "is_liked"]), feature_params(numeric=["price", "views", "is_*"])
    schema = resolve_schema(columns, data=both, features=features)
    assert [field.name for field in schema.numeric] == ["price", "views", "is_new"]
    assert (schema.label, schema.other_labels, schema.labels) == ("clicked", ("is_liked",), ("clicked", "is_liked"))
    assert Schema.from_json(schema.to_json()) == schema
    assert scalar_columns(columns.names, data=both, features=features) == ["shop", "item", "price", "views", "is_new"]
    one = resolve_schema(columns, data=data_params(label="is_liked", ignore=["clicked"]), features=features)
    assert one.fields == schema.fields
    assert "other_labels" not in one.to_json()
    assert problems(columns, data={"label": "is_liked", "ignore": ["clicked", "is_new"]}, numeric=["is_l*"]) == [
        "train.parquet: column price: in no list; add it to features.categorical, features.numeric, "
        "features.sequences or data.ignore",
        "train.parquet: column views: in no list; add it to features.categorical, features.numeric, "
        "features.sequences or data.ignore",
        "train.parquet: features.numeric: is_l* matches no column",
    ]


def test_every_label_must_be_a_column_and_no_feature() -> None:
    columns = log_columns(liked=pa.int8())
    assert problems(columns, data={"label": ["clicked", "liked", "shared", "saved"]}) == [
        "train.parquet: data.label: no column shared",
        "train.parquet: data.label: no column saved",
    ]
    assert problems(columns, data={"label": ["clicked", "liked"]}, numeric=["price", "views", "liked"]) == [
        "train.parquet: column liked: in 2 lists: data.label, features.numeric"
    ]


def test_a_test_log_may_hold_labels_and_needs_none() -> None:
    train, data = log_columns(is_liked=pa.int8(), is_new=pa.int8()), data_params(label=["clicked", "is_liked"])
    features = feature_params(numeric=["price", "views", "is_*"])
    schema = resolve_schema(train, data=data, features=features)
    for test in (train, log_columns(clicked=None, is_new=pa.int8())):
        check_test_columns(test, schema, data=data, features=features, train=train)


def test_a_dropped_column_may_match_a_glob_but_not_be_listed() -> None:
    columns = log_columns(x_1=pa.int8(), x_2=pa.int8())
    features = feature_params(categorical=["shop", "item", "x_*"])
    schema = resolve_schema(columns, data=data_params(ignore=["x_1"]), features=features)
    assert [field.name for field in schema.categorical] == ["shop", "item", "x_2"]
    assert problems(columns, data={"drop": ["x_2"]}, categorical=["shop", "item", "x_1", "x_2"]) == [
        "train.parquet: column x_2: in 2 lists: features.categorical, data.drop"
    ]


def test_names_that_match_nothing_are_all_reported() -> None:
    columns = log_columns(views=None, recent=None, clicked=None)
    assert problems(columns, data={"drop": ["gone"]}) == [
        "train.parquet: data.label: no column clicked",
        "train.parquet: data.drop: no column gone",
        "train.parquet: features.numeric: views matches no column",
        "train.parquet: features.sequences: recent matches no column",
    ]


def test_types_must_fit_their_list() -> None:
    columns = log_columns(
        price=pa.string(), shop=pa.list_(pa.int8()), seq=pa.int64(), item=pa.struct([("a", pa.int8())])
    )
    assert problems(columns) == [
        "train.parquet: column shop: type list<item: int8> cannot be categorical",
        "train.parquet: column item: type struct<a: int8> cannot be categorical",
        "train.parquet: column price: type string cannot be numeric",
        "train.parquet: column seq: type int64 cannot be sequence; text of divided tokens or a list of numbers or text "
        "can",
    ]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(pa.list_(pa.int8())), pa.list_(pa.struct([("a", pa.int8())])), pa.map_(pa.string(), pa.int8())),
        *(pa.struct([("a", pa.int8())]), pa.list_(pa.map_(pa.string(), pa.int8())), pa.bool_()),
    ],
    ids=str,
)
def test_nested_values_are_no_sequences(kind: pa.DataType) -> None:
    [line] = problems(log_columns(seq=kind))
    assert line.startswith(f"train.parquet: column seq: type {kind} cannot be sequence; ")


@pytest.mark.parametrize(
    "kind",
    [pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.large_string(), pa.string_view(), pa.date32(),
     pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)  # fmt: skip
def test_scalars_may_be_categorical(kind: pa.DataType) -> None:
    schema = resolve_schema(log_columns(shop=kind), data=data_params(), features=feature_params())
    assert schema.categorical[0].name == "shop"


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.large_list(pa.string()), pa.list_(pa.int32(), 3), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_text_and_lists_may_be_sequences(kind: pa.DataType) -> None:
    schema = resolve_schema(log_columns(seq=kind), data=data_params(), features=feature_params())
    assert schema.sequences[0].name == "seq"


def test_a_dictionary_is_what_its_values_are() -> None:
    numbers, texts = (pa.dictionary(pa.int8(), kind) for kind in (pa.float64(), pa.string()))
    schema = resolve_schema(log_columns(price=numbers), data=data_params(), features=feature_params())
    assert schema.numeric[0].name == "price"
    assert problems(log_columns(price=texts)) == [
        "train.parquet: column price: type dictionary<values=string, indices=int8, ordered=0> cannot be numeric"
    ]


def test_a_repeated_column_is_named() -> None:
    columns = log_columns()
    assert problems(columns.append(columns.field("item"))) == ["train.parquet: column item: occurs 2 times"]


def test_references_must_be_categorical_columns() -> None:
    sequences = [SequenceParams(name="seq", max_len=4, num_buckets=9)]
    sequences.append(SequenceParams(name="recent", max_len=3, vocabulary_of="price"))
    lines = problems(log_columns(), target=["seq"], num_buckets_of={"views": 9}, sequences=sequences)
    assert lines == [
        "params.yaml: features.target: seq is not a categorical column",
        "params.yaml: features.num_buckets_of: views is not a categorical column",
        "params.yaml: features.sequences.recent.vocabulary_of: price is not a categorical column",
    ]


@pytest.mark.parametrize("token", [pa.int64(), pa.float64(), pa.bool_(), pa.date32()], ids=str)
def test_tokens_and_the_column_whose_vocabulary_they_share_must_agree(token: pa.DataType) -> None:
    columns = log_columns(item=pa.string(), recent=pa.list_(token))
    assert problems(columns) == [
        f"train.parquet: column recent: a list of {token}, but column item, whose vocabulary it shares, is string; "
        "equal values would be encoded apart, so store both as one type"
    ]


@pytest.mark.parametrize(
    ("item", "token"),
    [
        (pa.int32(), pa.float64()),
        (pa.float32(), pa.uint8()),
        (pa.int64(), pa.string()),
        (pa.string(), pa.string()),
        (pa.string(), pa.dictionary(pa.int8(), pa.large_string())),
    ],
)
def test_tokens_of_another_width_agree_with_their_column(item: pa.DataType, token: pa.DataType) -> None:
    columns = log_columns(item=item, recent=pa.large_list(token))
    assert resolve_schema(columns, data=data_params(), features=feature_params()).sequences[1].vocabulary == "item"


def check_test(columns: pa.Schema, schema: Schema, *, train: pa.Schema, **features: Any) -> None:
    check_test_columns(columns, schema, data=data_params(), features=feature_params(**features), train=train)


def test_a_test_file_needs_the_id_and_the_inputs_but_no_label() -> None:
    schema = log_schema(make_log(4))
    train = log_columns()
    check_test(log_columns(clicked=None, unrelated=pa.int8()), schema, train=train)
    bad = log_columns(ID=None, shop=None, price=pa.string())
    bad = bad.append(bad.field("item"))
    with pytest.raises(SchemaError) as caught:
        check_test(bad, schema, train=train)
    assert str(caught.value).splitlines() == [
        "test.parquet: column ID: missing",
        "test.parquet: column shop: missing",
        "test.parquet: column item: occurs 2 times",
        "test.parquet: column price: type string cannot be numeric",
    ]


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.float64(), pa.null(), pa.struct([("a", pa.int8())])], ids=str)
def test_an_id_must_have_one_text(kind: pa.DataType) -> None:
    bad, train = log_columns(ID=kind), log_columns()
    message = f"test.parquet: column ID: type {kind} cannot be an id; store ids as integers or text"
    with pytest.raises(SchemaError, match=f"^{re.escape(message)}$"):
        check_test(bad, log_schema(make_log(4)), train=train)


def test_an_input_that_only_the_test_file_has_is_named() -> None:
    train, schema = log_columns(), log_schema(make_log(4))
    test = log_columns(clicked=None, item_2=pa.int8(), price_2=pa.int8(), other=pa.int8(), views_2=pa.int8())
    features = {"categorical": ["shop", "item*"], "numeric": ["price", "price_*", "views"]}
    with pytest.raises(SchemaError) as caught:
        check_test(test, schema, train=train, **features)
    assert str(caught.value).splitlines() == [
        f"test.parquet: column {name}: features.{key} lists it ({pattern}), but train.parquet has no such column; "
        "add it there, or to data.ignore"
        for name, key, pattern in (("item_2", "categorical", "item*"), ("price_2", "numeric", "price_*"))
    ]
    ignored = data_params(ignore=["*_2"])
    check_test_columns(test, schema, data=ignored, features=feature_params(**features), train=train)


@pytest.mark.parametrize(
    ("train", "test", "is_refused"),
    [
        (pa.int64(), pa.int8(), False),
        (pa.int64(), pa.float32(), False),
        (pa.string(), pa.dictionary(pa.int8(), pa.large_string()), False),
        (pa.int64(), pa.string(), True),
        (pa.dictionary(pa.int8(), pa.string()), pa.float64(), True),
        (pa.bool_(), pa.int8(), True),
        (pa.timestamp("us"), pa.timestamp("ms"), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), True),
        (pa.string(), pa.null(), False),
        (pa.string(), pa.binary(), False),
        (pa.timestamp("us"), pa.timestamp("us"), False),
    ],
    ids=str,
)
def test_a_categorical_column_has_one_kind_of_value(train: pa.DataType, test: pa.DataType, is_refused: bool) -> None:
    """In train and test; or 3.0 as text and as a number would be two values."""
    columns, others, schema = log_columns(item=train), log_columns(item=test), log_schema(make_log(4))
    if not is_refused:
        check_test(others, schema, train=columns)
        return
    with pytest.raises(SchemaError) as caught:
        check_test(others, schema, train=columns)
    values = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (test, train)]
    assert str(caught.value) == (
        f"test.parquet: column item: type {values[0]}, but {values[1]} in the train file; "
        "equal values would be encoded apart, so store both as one type"
    )


@pytest.mark.parametrize(
    ("train", "test", "tokens", "is_refused"),
    [
        (pa.list_(pa.int64()), pa.list_(pa.float32()), "auto", False),
        (pa.list_(pa.int64()), pa.string(), "auto", False),  # which is read as numbers then: 12, 012 and 12.0 are one
        (pa.list_(pa.int64()), pa.list_(pa.string()), "auto", False),
        (pa.list_(pa.int64()), pa.string(), "text", True),
        (pa.list_(pa.string()), pa.list_(pa.int64()), "auto", True),
        (pa.list_(pa.string()), pa.list_(pa.int64()), "number", False),
        (pa.list_(pa.string()), pa.string(), "auto", False),
        (pa.list_(pa.date32()), pa.list_(pa.int32()), "auto", True),
        (pa.list_(pa.date32()), pa.string(), "auto", True),
        (pa.list_(pa.timestamp("us")), pa.list_(pa.timestamp("s")), "auto", False),
        (pa.list_(pa.bool_()), pa.list_(pa.int8()), "auto", True),
        (pa.list_(pa.null()), pa.list_(pa.int8()), "auto", False),
        (pa.string(), pa.list_(pa.int8()), "auto", False),  # what the text holds is not known yet
        (pa.null(), pa.string(), "auto", False),
    ],
    ids=str,
)
def test_a_history_has_one_kind_of_token(train: pa.DataType, test: pa.DataType, tokens: Any, is_refused: bool) -> None:
    """In train and test, as of a categorical column."""
    columns, others = log_columns(seq=train, recent=None), log_columns(seq=test, recent=None)
    features = {"sequences": [SequenceParams(name="seq", max_len=4, num_buckets=9, tokens=tokens)]}
    schema = resolve_schema(columns, data=data_params(), features=feature_params(**features))
    if not is_refused:
        check_test(others, schema, train=columns, **features)
        return
    with pytest.raises(SchemaError) as caught:
        check_test(others, schema, train=columns, **features)
    assert str(caught.value) == (
        f"test.parquet: column seq: type {test}, but {train} in the train file; "
        "equal values would be encoded apart, so store both as one type"
    )
