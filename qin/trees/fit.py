"""Fitting gradient boosted trees on the train fold, streamed into bins, stopped by rows they were not fitted on.

LightGBM keeps every value as a byte, once by column and once by row, so ten million rows of 190 columns took 5 GB; raw
rows pass through in chunks. `trees.max_rows: auto` fits as many rows as stay within a bound. With `deterministic` and
row-wise histograms the trees are the same at every run with the same number of threads.

Source: Friedman (2001), Greedy function approximation: a gradient boosting machine; Ke et al. (2017), LightGBM: a
highly efficient gradient boosting decision tree.
"""

import math
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from qin.config import TreeParams
from qin.runtime.progress import log
from qin.shards.files import RowReader
from qin.trees.columns import CHUNK_ROWS, Mask, TreeColumns
from qin.trees.fitted import FittedTrees, SelectedRows
from qin.trees.forest import Forest

# Rows whose values decide the limits of the bins.
_BIN_SAMPLE_ROWS = 100_000
# Fewest rows of the rarer class that a leaf should see on average; sets the number of leaves of small logs.
_CLASS_ROWS_PER_LEAF = 120
# With twice as many leaves, trees lost on ML-1M and on the sample log and gained nowhere.
_LEAVES = (7, 31)
_SAMPLE = 0  # stream of the trees' seed


# Measured on ten million rows: two copies of each value and what goes with them; gradients, scores, places of a row.
_BYTES_PER_VALUE, _BYTES_PER_ROW = 2.5, 40
AUTO_BYTES = 3 << 29  # with what the process has before, under 2.5 GiB


def sampled(rows: RowReader, is_train: Mask, *, params: TreeParams) -> Mask:
    """At most `max_rows` of the rows, drawn at random whatever their label; see section trees.

    Args:
        rows: Prepared train file.
        is_train: Rows that may be drawn, `(num_rows,)`.
        params: Section trees.
    """
    most, numbers = params.max_rows, np.flatnonzero(is_train)
    if most == "auto":
        most = max(1, int(AUTO_BYTES / (_BYTES_PER_VALUE * len(rows.schema.fields) + _BYTES_PER_ROW)))
    if most is None or numbers.size <= most:
        return is_train
    log.info("trees: fitted to %d of %d rows, drawn at random (trees.max_rows)", most, numbers.size)
    out = np.zeros_like(is_train)
    out[np.random.default_rng((params.seed, _SAMPLE)).choice(numbers, most, replace=False)] = True
    return out


def fit_trees(
    rows: RowReader,
    label: npt.NDArray[np.uint8],
    *,
    is_train: Mask,
    stop: Mask | int,
    params: TreeParams,
    num_threads: int,
    on_round: Callable[[int, float], None] | None = None,
) -> FittedTrees:
    """Fit on the train fold.

    1. Choose the columns by the train fold's values.
    2. Sample rows for the limits of the bins, then stream every row into its bins.
    3. Grow trees until the stopping rows' log loss has not fallen for `patience` trees; keep the best number.

    Args:
        rows: Prepared train file.
        label: `(num_rows,)`, 0 or 1.
        is_train: Rows to fit, `(num_rows,)`.
        stop: Rows that decide when to stop, `(num_rows,)`, or the number of trees to grow.
        params: Section trees.
        num_threads: To use; sums inside LightGBM, and so the trees, may depend on it.
        on_round: Called with the number of trees and the stopping rows' log loss, after each tree.
    """
    columns = TreeColumns.choose(rows, is_train)
    num_leaves = _leaves_for(label[is_train]) if params.num_leaves == "auto" else params.num_leaves
    parameters = _parameters(params, num_leaves, num_threads)
    train = _dataset(rows, columns, label, is_train, parameters)
    if isinstance(stop, int):
        booster = lgb.train(parameters, train, num_boost_round=stop)
        return FittedTrees(Forest(booster.model_to_string()), columns, num_leaves, num_threads)
    # In the bins of the train rows, by whose numbers the trees divide.
    stopping = _dataset(rows, columns, label, stop, parameters, reference=train)
    callbacks: list[Callable[..., Any]] = [lgb.early_stopping(params.patience, verbose=False)]
    if on_round is not None:
        callbacks.append(_report(on_round))
    booster = lgb.train(
        parameters,
        train,
        num_boost_round=params.max_rounds,
        valid_sets=[stopping],
        valid_names=["selection"],
        callbacks=callbacks,
    )
    # Through the text, cut at the best round: what scores now is what will be read back, to the last digit.
    best = lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    return FittedTrees(Forest(best.model_to_string()), columns, num_leaves, num_threads)


def _leaves_for(label: npt.NDArray[np.uint8]) -> int:
    """Leaves that the rarer class can fill: between 7 and 31."""
    rarer = min(int(label.sum()), int(label.size - label.sum()))
    # In powers of two, so that a few more rows seldom mean trees of another size.
    return int(np.clip(2 ** math.floor(math.log2(max(rarer / _CLASS_ROWS_PER_LEAF, 2.0))) - 1, *_LEAVES))


def _parameters(params: TreeParams, num_leaves: int, num_threads: int) -> dict[str, Any]:
    seed = params.seed % 2**31  # LightGBM's own are 32-bit
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "num_leaves": num_leaves,
        "learning_rate": params.learning_rate,
        "feature_fraction": params.column_share,
        # Above LightGBM's 20 rows of a leaf and 10 of a category: at a click rate of 2%, so few rows hold no click at
        # all.
        "min_data_in_leaf": 50,
        "lambda_l2": params.l2,
        "cat_l2": 10.0,
        "cat_smooth": 20.0,
        "bin_construct_sample_cnt": _BIN_SAMPLE_ROWS,
        "seed": seed,
        "data_random_seed": seed,
        "feature_fraction_seed": seed,
        # Same bytes at every run: no choice of histogram layout by timing, no sums in the order of threads.
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": num_threads,
        "verbosity": -1,
    }


def _dataset(
    rows: RowReader,
    columns: TreeColumns,
    label: npt.NDArray[np.uint8],
    is_selected: Mask,
    parameters: dict[str, Any],
    *,
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    data = lgb.Dataset(
        _Rows(rows, columns, is_selected),
        label=label[is_selected],
        reference=reference,
        feature_name=[f"c{position}" for position in range(len(columns.names))],  # LightGBM refuses some characters
        categorical_feature=columns.category_positions,
        params=parameters,
        free_raw_data=True,
    )
    return data.construct()


def _report(on_round: Callable[[int, float], None]) -> Callable[..., None]:
    def callback(environment: Any) -> None:
        # Of each result: rows, metric, value, direction. There are one set of rows and one metric.
        on_round(environment.iteration + 1, float(environment.evaluation_result_list[0][2]))

    return callback


class _Rows(SelectedRows, lgb.Sequence):
    """Selected rows of a file as LightGBM's data source."""

    batch_size = CHUNK_ROWS
