"""The scorer against the predict stage, byte for byte, in every form that rows come in."""

import csv
import doctest
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import qin
from qin.calibrate.shifts import SegmentShifts
from qin.columns.types import type_of
from qin.raw.hashing import hash_column
from qin.runtime.errors import ArtifactError, DataError, SchemaError
from qin.serving import scorer as module
from qin.serving.columns import SEGMENT, Column, columns_of, problems_of
from qin.serving.scorer import Scorer
from qin.serving.tables import to_table
from tests.project import ROOT


@pytest.fixture(scope="module", params=["sampled", "rich"])
def project(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def scorer(project: Path) -> Scorer:
    return Scorer.load(project / "artifacts", num_threads=1)


@pytest.fixture(scope="module")
def table(project: Path) -> pa.Table:
    return pq.read_table(project / "data/test.parquet")


def submitted(project: Path) -> np.ndarray[Any, Any]:
    with (project / "outputs/submission.csv").open(newline="", encoding="utf-8") as file:
        return np.array([row[1] for row in csv.reader(file)][1:], np.float32)


def test_scores_are_those_of_the_predict_stage(project: Path, scorer: Scorer, table: pa.Table) -> None:
    expected = submitted(project)
    found = scorer.score(table)
    assert found.dtype == np.float64
    assert np.array_equal(found.astype(np.float32), expected)  # which is what the submission's digits hold
    assert found.std() > 0


def test_both_members_have_a_say(scorer: Scorer) -> None:
    """Or half of what is tested here would not be."""
    assert all(member.weight > 0.0 for member in scorer._deployed.folds[0].members.blend.members.values())


def test_every_form_of_the_rows_gives_the_same_bytes(scorer: Scorer, table: pa.Table) -> None:
    expected = scorer.score(table)
    [batch] = table.combine_chunks().to_batches()
    mixed = pa.concat_tables([table.slice(0, 5), table.slice(5)])
    shuffled = table.select(list(reversed(table.column_names)))
    for rows in (batch, mixed, shuffled, table.to_pandas(), pl.from_arrow(table), table.to_pylist()):
        assert np.array_equal(scorer.score(rows), expected), type(rows)


def test_a_row_is_scored_alike_alone_and_among_others(rich: Path, sampled: Path) -> None:
    """Where rows are compared with those of their request, a request is what is scored alone."""
    whole = pq.read_table(sampled / "data/test.parquet")
    one = Scorer.load(sampled / "artifacts", num_threads=1)
    expected = one.score(whole)
    for start, size in ((0, 1), (3, 1), (10, 8), (17, 20), (100, 130)):
        assert np.array_equal(one.score(whole.slice(start, size)), expected[start : start + size])
    whole = pq.read_table(rich / "data/test.parquet")
    compared = Scorer.load(rich / "artifacts", num_threads=1)
    expected = compared.score(whole)
    request = np.array(whole["request"])
    rows = np.flatnonzero(request == request[50])
    assert np.array_equal(compared.score(whole.take(rows)), expected[rows])


def test_threads_and_their_number_change_nothing(scorer: Scorer, table: pa.Table) -> None:
    expected = scorer.score(table)
    assert np.array_equal(scorer.with_threads(2).score(table), expected)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: scorer.score(table), range(8)):
            assert np.array_equal(found, expected)


def test_a_prior_moves_the_odds_of_every_row_alike(scorer: Scorer, table: pa.Table) -> None:
    natural, shifted = scorer.score(table), scorer.score(table, prior=0.3)
    moved = np.log(shifted / (1 - shifted)) - np.log(natural / (1 - natural))
    base = scorer.base_rate
    np.testing.assert_allclose(moved, np.log(0.3 / 0.7) - np.log(base / (1 - base)), atol=1e-9)
    assert np.array_equal(scorer.score(table, prior=0.5), scorer.score(table, prior="balanced"))
    with pytest.raises(ValueError, match="prior"):
        scorer.score(table, prior="even")  # type: ignore[arg-type]


def test_logits_are_what_the_calibrator_reads(scorer: Scorer, table: pa.Table) -> None:
    logit = scorer.logits(table)
    assert logit.dtype == np.float32
    assert np.corrcoef(logit, np.log(scorer.score(table)))[0, 1] > 0.5


def test_no_rows_give_no_scores(scorer: Scorer, table: pa.Table) -> None:
    assert scorer.score(table.slice(0, 0)).shape == (0,)
    assert scorer.score([], on_missing="null").shape == (0,)


def test_columns_say_what_rows_must_have(rich: Path) -> None:
    columns = Scorer.load(rich / "artifacts").columns
    assert {name: (column.kind, column.type) for name, column in columns.items()} == {
        "shop": ("categorical", "string"),
        "item": ("categorical", "int64"),
        "user": ("categorical", "string"),
        "day": ("categorical", "timestamp[us]"),
        "cost": ("categorical", "decimal128(9, 2)"),
        "price": ("numeric", "float"),
        "views": ("numeric", "int32"),
        "second": ("numeric", "int64"),
        "seq": ("sequence", "string"),
        "recent": ("sequence", "list<int64>"),
        "request": ("impression", ""),
        "place": ("impression", "string"),  # which the calibrator shifts by as well
    }


def test_all_problems_of_columns_come_at_once(rich: Path) -> None:
    scorer = Scorer.load(rich / "artifacts")
    table = pq.read_table(rich / "data/test.parquet")
    bad = table.drop_columns(["shop", "request"]).set_column(0, "item", pa.array(["x"] * 300))
    bad = bad.drop_columns(["price"]).append_column("price", pa.array(["1"] * 300))
    with pytest.raises(SchemaError) as error:
        scorer.score(bad)
    assert str(error.value).splitlines() == [
        "rows: column shop: missing",
        "rows: column request: missing",
        "rows: column price: type string cannot be numeric",
        "rows: column item: type string, but the model was trained on int64; equal values would be encoded apart",
    ]


def test_columns_that_the_model_compares_must_hold_numbers(rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pq.read_table(rich / "data/test.parquet")
    moments = table.set_column(table.column_names.index("place"), "place", pa.array([0] * 300, pa.timestamp("s")))
    scorer = Scorer.load(rich / "artifacts")
    with pytest.raises(SchemaError, match=r"^rows: column place: type timestamp\[s\], but the calibrator's segments "):
        scorer.score(moments)
    monkeypatch.setitem(scorer._deployed.columns, "place", Column("place", "impression", ""))
    with pytest.raises(SchemaError, match=r"^rows: column place: type timestamp\[s\] holds no numbers$"):
        scorer.score(moments)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_segments_are_found_whatever_type_of_text_they_have(rich: Path, kind: pa.DataType) -> None:
    table = pq.read_table(rich / "data/test.parquet")
    at = table.column_names.index("place")
    scorer = Scorer.load(rich / "artifacts")
    assert scorer._deployed.folds[0].calibration.deployed.segments is not None
    column = table["place"].combine_chunks()
    other = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
    if pa.types.is_binary(kind):  # whose numbers nothing compares
        assert not scorer._deployed.problems(table.set_column(at, "place", other).schema, may_miss=False, name="rows")
        return
    assert np.array_equal(scorer.score(table.set_column(at, "place", other)), scorer.score(table))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.decimal128(9, 2), pa.bool_()])
def test_segments_of_another_type_are_no_new_segments_in_silence(rich: Path, kind: pa.DataType) -> None:
    """A text `3.0` beside numbers would be another segment than 3, shifted by nothing."""
    table = pq.read_table(rich / "data/test.parquet")
    at = table.column_names.index("place")
    other = pa.array([1] * 300).cast(kind) if kind != pa.decimal128(9, 2) else pa.array(["1.00"] * 300).cast(kind)
    scorer = Scorer.load(rich / "artifacts")
    with pytest.raises(SchemaError) as caught:
        scorer.score(table.set_column(at, "place", other))
    line = f"rows: column place: type {kind}, but the calibrator's segments are of string; equal values would be two "
    assert str(caught.value) == f"{line}segments"
    [row] = table.slice(0, 1).to_pylist()
    with pytest.raises(SchemaError, match="rows: column place, row 0: 3 is not of type string"):
        scorer.score([{**row, "place": 3}])


def test_a_calibrator_of_before_types_were_recorded_is_read(rich: Path) -> None:
    table = pq.read_table(rich / "data/test.parquet")
    tree = json.loads((rich / "artifacts/temperature.json").read_text())
    segments = {key: value for key, value in tree["segments"].items() if key != "type"}
    assert SegmentShifts.from_dict(segments) == replace(SegmentShifts.from_dict(tree["segments"]), type="")
    columns = columns_of(Scorer.load(rich / "artifacts")._deployed.schema, None, Column("place", SEGMENT, ""))
    fields = Scorer.load(rich / "artifacts")._deployed.schema.columns
    assert columns["place"] == Column("place", SEGMENT, "")
    assert not problems_of(table.schema, columns, fields, segment="place", may_miss=False, known=[], name="rows")


def test_a_uuid_of_json_is_text(rich: Path) -> None:
    texts = [f"6f1e2d3c-0a1b-4c5d-8e9f-00112233445{number}" for number in range(3)]
    column = Column("user", "categorical", "uuid")
    table = to_table([{"user": text} for text in texts], {"user": column}, may_miss=False, name="rows")
    stored = pa.array([UUID(text).bytes for text in texts], pa.binary(16)).cast(pa.uuid())
    assert np.array_equal(hash_column(table["user"].combine_chunks()).unseeded, hash_column(stored).unseeded)


@pytest.mark.parametrize(
    "kind", ["uuid", "list<int64>", "timestamp[us, tz=Asia/Seoul]", "decimal128(9, 2)", "null", "bool"]
)
def test_a_missing_value_of_json_has_any_type(kind: str) -> None:
    columns = {"x": Column("x", "categorical", kind)}
    table = to_table([{"x": None}, {"x": None}], columns, may_miss=False, name="rows")
    assert table["x"].null_count == 2
    assert table["x"].type == type_of(kind)


def test_a_value_where_training_had_none_is_a_value() -> None:
    columns = {"x": Column("x", "categorical", "null")}
    assert to_table([{"x": 3}], columns, may_miss=False, name="rows")["x"].to_pylist() == [3]


def test_a_history_must_have_the_tokens_of_training(rich: Path) -> None:
    table = pq.read_table(rich / "data/test.parquet")
    days = pa.array([[1]] * 300, pa.list_(pa.int32())).cast(pa.list_(pa.date32()))
    with pytest.raises(
        SchemaError, match=r"^rows: column seq: type list<date32\[day\]>, but the model was trained on "
    ):
        Scorer.load(rich / "artifacts").score(table.set_column(table.column_names.index("seq"), "seq", days))


def test_a_missing_column_may_be_null_but_not_misspelt(rich: Path) -> None:
    scorer = Scorer.load(rich / "artifacts")
    table = pq.read_table(rich / "data/test.parquet")
    nulls = table.set_column(table.column_names.index("shop"), "shop", pa.nulls(300, pa.string()))
    without = table.drop_columns(["shop"])
    assert np.array_equal(scorer.score(without, on_missing="null"), scorer.score(nulls))
    assert np.array_equal(scorer.score(without.to_pylist(), on_missing="null"), scorer.score(nulls))
    assert not np.array_equal(scorer.score(nulls), scorer.score(table))
    misspelt = table.rename_columns(["Shop" if name == "shop" else name for name in table.column_names])
    with pytest.raises(SchemaError, match=r"^rows: column Shop: the model has no such column$"):
        scorer.score(misspelt, on_missing="null")
    more = table.append_column("stranger", pa.nulls(300))
    assert np.array_equal(scorer.score(table), scorer.score(more))  # and what was right for that is no answer to this
    with pytest.raises(SchemaError, match=r"^rows: column stranger: the model has no such column$"):
        scorer.score(more, on_missing="null")
    known = table.append_column("noise_1", pa.nulls(300))  # which data.ignore names
    assert np.array_equal(scorer.score(known, on_missing="null"), scorer.score(table))


def test_values_of_json_have_the_types_of_training(rich: Path) -> None:
    """A moment and a decimal as text, whole numbers where floats are meant, lists where text was."""
    scorer = Scorer.load(rich / "artifacts")
    [row] = pq.read_table(rich / "data/test.parquet").slice(7, 1).to_pylist()
    row = {**row, "price": 2.0, "seq": "3,4"}
    expected = scorer.score([row])
    written = {**row, "day": row["day"].isoformat(), "cost": str(row["cost"]), "price": 2, "seq": [3, 4]}
    assert np.array_equal(scorer.score([written]), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": "a7"}, "rows: column item, row 1: 'a7' is not of type int64"),
        ({"item": 2.5}, "rows: column item, row 1: 2.5 is not of type int64"),
        ({"shop": 7}, "rows: column shop, row 1: 7 is not of type string"),
        ({"day": "soon"}, "rows: column day, row 1: 'soon' is not of type timestamp"),
        ({"price": [1]}, r"rows: column price, row 1: \[1\] is not of type float"),
        ({"price": float("inf")}, "rows: column price, row 1: infinite: inf"),
        ({"place": "far"}, "rows: column place, row 1: not a number: 'far'"),
        ({"seq": "3,x"}, "rows: column seq, row 1: .*x"),
    ],
)
def test_a_bad_value_is_named(rich: Path, changes: dict[str, Any], message: str) -> None:
    scorer = Scorer.load(rich / "artifacts")
    rows = pq.read_table(rich / "data/test.parquet").slice(0, 3).to_pylist()
    rows[1] |= changes
    with pytest.raises((SchemaError, DataError), match=f"^{message}"):
        scorer.score(rows)


def test_a_number_beyond_64_bits_is_named_in_a_data_frame_too(rich: Path) -> None:
    rows = pq.read_table(rich / "data/test.parquet").slice(0, 3).to_pandas()
    rows["item"] = [1, 2**70, 3]
    with pytest.raises(SchemaError, match=r"^rows: column item: values of several types"):
        Scorer.load(rich / "artifacts").score(rows)


def test_rows_that_are_no_rows_are_refused(rich: Path) -> None:
    scorer = Scorer.load(rich / "artifacts")
    with pytest.raises(TypeError, match="rows: expected a pyarrow Table"):
        scorer.score(7)
    with pytest.raises(TypeError, match="rows: a Series has no columns"):
        scorer.score(pq.read_table(rich / "data/test.parquet")["item"].to_pandas())
    with pytest.raises(SchemaError, match="rows: column item, row 1: missing"):
        scorer.score([{"item": 1}, {"shop": "a"}])
    with pytest.raises(ValueError, match="on_missing"):
        scorer.score([], on_missing="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_missing"):
        scorer.score_candidates({}, [], on_missing="drop")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="rows: column item: values of several types"):
        scorer.score(pd.DataFrame({"item": [1, "x"]}))


ITEM_COLUMNS = ["item", "shop", "price", "cost", "place"]


def test_candidates_of_a_user_are_scored_as_rows_written_out(rich: Path) -> None:
    scorer = Scorer.load(rich / "artifacts", num_threads=1)
    table = pq.read_table(rich / "data/test.parquet")
    items = table.select(ITEM_COLUMNS).slice(0, 90)
    for row in (0, 5, 9, 33):  # with and without histories
        user = table.drop_columns([*ITEM_COLUMNS, "ID"]).slice(row, 1)
        written_out = [{**user.to_pylist()[0], **item} for item in items.to_pylist()]
        expected = scorer.score(written_out)
        assert np.array_equal(scorer.score_candidates(user, items), expected)
        assert np.array_equal(scorer.score_candidates(user.to_pylist()[0], items.to_pandas()), expected)
    assert scorer.score_candidates(user, items.slice(0, 0)).shape == (0,)
    with pytest.raises(ValueError, match="the user must be one row, got 2"):
        scorer.score_candidates(table.slice(0, 2), items)
    with pytest.raises(SchemaError, match="the user and the items both have the columns item, price"):
        scorer.score_candidates(table.slice(0, 1), items.select(["item", "price"]))


@pytest.fixture
def artifacts(rich: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rich / "artifacts", tmp_path / "artifacts")


def test_artifacts_are_enough_and_may_lie_anywhere(artifacts: Path, rich: Path) -> None:
    """Without what only training and evaluating read, the columns of the train file's rows above all."""
    for name in ("validation", "trees_validation", "scored"):
        shutil.rmtree(artifacts / name)
    (artifacts / "statistics/columns.bin").unlink()
    table = pq.read_table(rich / "data/test.parquet")
    scorer, other = Scorer.load(artifacts), Scorer.load(rich / "artifacts")
    assert scorer.version == other.version
    assert np.array_equal(scorer.score(table), other.score(table))


def test_artifacts_of_different_runs_are_refused(artifacts: Path, sampled: Path) -> None:
    shutil.rmtree(artifacts / "statistics")
    shutil.copytree(sampled / "artifacts/statistics", artifacts / "statistics")
    with pytest.raises(ArtifactError, match="run `dvc repro`"):
        Scorer.load(artifacts)


def test_damaged_or_missing_artifacts_are_refused(artifacts: Path) -> None:
    weights = artifacts / "model/weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        Scorer.load(artifacts)
    (artifacts / "blend.json").unlink()
    with pytest.raises(ArtifactError, match=r"blend\.json"):
        Scorer.load(artifacts)


def test_warm_up_scores_rows_of_the_right_types(scorer: Scorer) -> None:
    scorer.warm_up()
    scorer.warm_up(3)


def test_the_package_is_light_until_the_scorer_is_asked_for() -> None:
    program = (
        "import sys, qin; heavy = {'torch', 'numba', 'pyarrow', 'lightgbm', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "qin.Scorer; assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert qin.Scorer is Scorer
    with pytest.raises(AttributeError, match="no attribute 'Score'"):
        qin.Score  # type: ignore[attr-defined]  # noqa: B018


@pytest.fixture
def in_project(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sampled)


@pytest.mark.usefixtures("in_project")
def test_the_examples_of_the_docstrings_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted > 15
    assert results.failed == 0
