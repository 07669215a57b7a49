"""The library's C interface scores as LightGBM's package does, and nothing that scores imports the package."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import lightgbm as lgb
import numpy as np
import pytest

from qin.trees.forest import Forest

ROWS, COLUMNS = 700, 5


@pytest.fixture(scope="module")
def booster() -> lgb.Booster:
    """Trees with numbers that are missing and with a category."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(ROWS, COLUMNS))
    matrix[:, 2] = generator.integers(0, 12, ROWS)
    matrix[generator.random(matrix.shape) < 0.1] = np.nan
    label = (np.nan_to_num(matrix).sum(axis=1) + generator.normal(size=ROWS) > 0.5).astype(np.uint8)
    data = lgb.Dataset(matrix, label, categorical_feature=[2])
    return lgb.train({"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}, data, 20)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    generator = np.random.default_rng(1)
    matrix = generator.normal(size=(ROWS, COLUMNS))
    matrix[:, 2] = generator.integers(-1, 15, ROWS)  # and some that were never seen
    matrix[generator.random(matrix.shape) < 0.2] = np.nan
    return matrix


@pytest.mark.parametrize("order", ["C", "F"])
def test_logits_are_those_of_the_package_to_the_bit(booster: lgb.Booster, rows: np.ndarray, order: str) -> None:
    forest = Forest(booster.model_to_string())
    expected = booster.predict(rows, raw_score=True, num_threads=1)
    assert np.ptp(expected) > 1.0
    for num_threads in (1, 2):
        found = forest.predict(np.asarray(rows, order=order), num_threads=num_threads)  # type: ignore[call-overload]
        np.testing.assert_array_equal(found, expected)
    assert forest.num_rounds == booster.num_trees()
    assert forest.predict(rows[:0], num_threads=1).shape == (0,)


def test_another_process_and_other_threads_have_the_same_trees(booster: lgb.Booster, rows: np.ndarray) -> None:
    forest = Forest(booster.model_to_string())
    expected = forest.predict(rows, num_threads=1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(forest)).predict(rows, num_threads=1), expected)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: forest.predict(rows, num_threads=1), range(16)):
            np.testing.assert_array_equal(found, expected)


def test_what_is_no_model_or_does_not_fit_is_a_value_error(booster: lgb.Booster, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="number of classes"):
        Forest("no model")
    with pytest.raises(ValueError, match="number of features"):
        Forest(booster.model_to_string()).predict(rows[:, :3], num_threads=1)


@pytest.mark.parametrize("module", ["qin.members", "stages.evaluate", "stages.predict", "qin.serving.scorer"])
def test_who_scores_pays_for_no_library_that_only_fits(module: str) -> None:
    names = ("lightgbm", "sklearn", "scipy.optimize", "scipy.stats", "scipy.sparse")
    code = f"import sys, {module}; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
