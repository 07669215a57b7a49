"""Equal values give the same prepared bytes, whatever type, width or layout wrote them."""

from pathlib import Path

import pyarrow as pa
import pytest

from qin.config import PrepareParams
from qin.prepare.file import prepare_file
from tests.logs import Columns, log_schema, make_log, write_log

NUM_ROWS = 300


def prepared(folder: Path, columns: Columns) -> dict[str, bytes]:
    folder.mkdir()
    prepare_file(
        write_log(folder.parent / f"{folder.name}.parquet", columns),
        folder,
        schema=log_schema(make_log(4)),
        with_label=True,
        knobs=PrepareParams(shard_rows=128, batch_rows=50, num_threads=2),
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def log() -> Columns:
    return make_log(NUM_ROWS)


@pytest.mark.parametrize(
    ("column", "kinds"),
    [
        ("item", ["int8", "uint8", "int32", "uint64", "float32", "float64", "float16"]),
        ("item", [pa.decimal128(20), pa.decimal128(22, 2), pa.decimal256(40), pa.decimal64(7, 1), pa.string()]),
        ("shop", [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]),
        ("shop", [pa.dictionary(pa.int32(), pa.string())]),
        ("views", ["int64", "float32", "float64", pa.decimal128(20, 3), pa.decimal32(6, 0)]),
        ("price", ["float64", pa.dictionary(pa.int16(), pa.float32())]),
        ("item", [pa.dictionary(pa.int16(), pa.int64())]),
        ("clicked", ["int8", "uint64", "float32", pa.bool_(), pa.decimal128(38)]),
    ],
)
def test_a_column_in_another_type(tmp_path: Path, log: Columns, column: str, kinds: list[pa.DataType | str]) -> None:
    expected = prepared(tmp_path / "as_it_is", log)
    for number, kind in enumerate(kinds):
        array = log[column]
        if pa.types.is_dictionary(kind) if isinstance(kind, pa.DataType) else False:
            array = array.dictionary_encode()
        elif isinstance(kind, pa.DataType) and pa.types.is_decimal(kind):
            array = array.cast(pa.decimal128(22, 3) if kind.scale else pa.decimal128(19)).cast(kind, safe=False)
        else:
            array = array.cast(kind)
        assert prepared(tmp_path / f"type_{number}", {**log, column: array}) == expected, kind


def test_tenths_are_one_category_in_both_widths_and_in_decimals(tmp_path: Path, log: Columns) -> None:
    tenths = [None if number % 11 == 0 else number % 90 / 10 for number in range(NUM_ROWS)]
    narrow = pa.array(tenths, pa.float32())
    decimals = pa.array(tenths).cast(pa.decimal128(9, 2))
    forms = [narrow, narrow.cast(pa.float64()), pa.array(tenths), decimals, decimals.cast(pa.decimal256(60, 20))]
    found = [prepared(tmp_path / f"{n}", {**log, "shop": form}) for n, form in enumerate(forms)]
    assert all(form == found[0] for form in found)
    texts = pa.array([None if value is None else f"{value:g}" for value in tenths])
    assert prepared(tmp_path / "text", {**log, "shop": texts}) == found[0]


@pytest.mark.parametrize("column", ["shop", "item", "price", "views"])
def test_a_column_without_a_type_is_missing_everywhere(tmp_path: Path, log: Columns, column: str) -> None:
    typed = prepared(tmp_path / "typed", {**log, column: pa.nulls(NUM_ROWS, log[column].type)})
    assert prepared(tmp_path / "untyped", {**log, column: pa.nulls(NUM_ROWS)}) == typed


def test_moments_are_one_category_in_every_unit(tmp_path: Path, log: Columns) -> None:
    days = pa.array([None if n % 7 == 0 else n % 40 + 19000 for n in range(NUM_ROWS)], pa.int32()).cast(pa.date32())
    forms = [days, days.cast(pa.date64()), *(days.cast(pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns"))]
    forms.append(days.cast(pa.string()))
    found = [prepared(tmp_path / f"{n}", {**log, "shop": form}) for n, form in enumerate(forms)]
    assert all(form == found[0] for form in found)
    instants = [days.cast(pa.timestamp("us")).cast(pa.timestamp(*how)) for how in (("s", "UTC"), ("ns", "Asia/Seoul"))]
    zoned = [prepared(tmp_path / f"zoned_{n}", {**log, "shop": form}) for n, form in enumerate(instants)]
    assert zoned[0] == zoned[1] != found[0]
