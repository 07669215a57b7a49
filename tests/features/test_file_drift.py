"""A file beside the rows of training: silent on more of the same, loud on what moved, whatever the batches."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qin.features.file_drift import FileDrift, ScoreReference, in_one_line
from qin.features.reference import Reference, chunks, fit_reference
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, VALIDATION
from tests.planted import SCHEMA, write_planted

NUM_ROWS = 6000
FIRST, SECOND = np.arange(NUM_ROWS) < NUM_ROWS // 2, np.arange(NUM_ROWS) >= NUM_ROWS // 2
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("drift") / "log", num_rows=NUM_ROWS)


@pytest.fixture(scope="module")
def reference(reader: ShardReader) -> Reference:
    fold = np.where(FIRST, TRAIN, 2).astype(np.uint8)
    fold[: NUM_ROWS // 4] = VALIDATION
    return fit_reference(reader, fold, with_validation=True)


def scores(shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=NUM_ROWS // 2) + shift).astype(np.float32)


def compared(reference: Reference, arrays: Arrays, logit: np.ndarray, *, batch_rows: int = 1000) -> dict[str, Any]:
    drift = FileDrift(SCHEMA, reference, ScoreReference.of(scores()))
    for start in range(0, len(logit), batch_rows):
        rows = slice(start, start + batch_rows)
        drift.update({name: array[rows] for name, array in arrays.items()})
        drift.add_scores(logit[rows], 1 / (1 + np.exp(-logit[rows])))
    return drift.summary(base_rate=0.5)


@pytest.fixture
def later(reader: ShardReader) -> Arrays:
    [arrays] = list(chunks(reader, SECOND))
    return {name: array.copy() for name, array in arrays.items() if name != "label"}


def test_more_of_the_same_is_silent(reference: Reference, later: Arrays) -> None:
    found = compared(reference, later, scores())
    assert found["large"] == []
    assert found["num_rows"] == NUM_ROWS // 2
    assert found["scores"]["psi"] == 0.0
    assert set(found["columns"]) == {field.name for field in SCHEMA.fields}
    assert all(facts["psi"] < 0.05 for facts in found["columns"].values() if "psi" in facts)


def test_batches_change_nothing(reference: Reference, later: Arrays) -> None:
    first, second = (compared(reference, later, scores(), batch_rows=rows) for rows in (1000, 77))
    for name, facts in first["columns"].items():
        for key, value in facts.items():
            assert second["columns"][name][key] == pytest.approx(value)


def test_what_moved_is_named(reference: Reference, later: Arrays) -> None:
    moved, nulls = SCHEMA.numeric[0].name, SCHEMA.categorical[0].name
    later["numeric"][:, 0] += 5.0
    later["categorical"][::3, 0] = 1
    found = compared(reference, later, scores(1.0))
    assert f"{nulls} 33% null (0% in train)" in found["large"]
    assert any(line.startswith(f"{moved} moved (PSI ") for line in found["large"])
    assert any(line.startswith("scores moved (PSI ") for line in found["large"])
    assert found["columns"][moved]["shift"] > 1.0
    assert found["scores"]["mean_logit"] == pytest.approx(1.0, abs=0.1)


def test_new_values_are_named_beyond_those_of_validation(reference: Reference, later: Arrays) -> None:
    field = SCHEMA.categorical[0]
    known = np.zeros(field.num_buckets, np.bool_)
    known[2] = True
    fresh = replace(reference, used={**reference.used, field.vocabulary: known}, new_share={**reference.new_share})
    fresh.new_share[field.name] = 0.0
    later["categorical"][:, 0] = 2
    assert not any(" new (" in line for line in compared(fresh, later, scores())["large"])
    later["categorical"][::2, 0] = 3
    found = compared(fresh, later, scores())
    share = 0.5 / (1 - known[2:].mean())
    assert found["columns"][field.name]["new"] == pytest.approx(share)
    assert f"{field.name} {share:.0%} new (0% in validation)" in found["large"]


def test_a_few_rows_alarm_no_one(reference: Reference, later: Arrays) -> None:
    few = {name: array[:12] for name, array in later.items()}
    assert compared(reference, few, scores()[:12])["large"] == []


def test_nulls_are_compared_with_the_fitted_rows_however_few_validated(reference: Reference, later: Arrays) -> None:
    """A share of nulls is of all fitted rows; only that of new values is of the validation fold."""
    number, field = SCHEMA.numeric[0].name, SCHEMA.categorical[0].name
    later["numeric"][::3, 0] = np.nan
    later["categorical"][::3, 0] = 1
    large = compared(replace(reference, num_held=3), later, scores())["large"]
    assert [line.split()[0] for line in large if " null (" in line] == [field, number]
    assert not any(" null (" in line for line in compared(replace(reference, num_rows=3), later, scores())["large"])


def test_one_line_names_the_first() -> None:
    assert in_one_line(["a moved", "b moved"]) == "a moved, b moved"
    assert in_one_line([f"c{i}" for i in range(9)]) == "c0, c1, c2, c3, c4, and 4 more"
