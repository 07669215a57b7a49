"""Fitting gradient boosted trees on the train fold, streamed into bins, stopped by rows they were not fitted on.

LightGBM keeps one byte per value, whatever the file's types, so ten million rows of 150 columns take 1.6 GB; raw rows
pass through in chunks. With `deterministic` and row-wise histograms the trees are the same at every run with the same
number of threads.

Source: Friedman (2001), Greedy function approximation: a gradient boosting machine; Ke et al. (2017), LightGBM: a
highly efficient gradient boosting decision tree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import TreeParams
from qin.shards.files import Arrays, RowReader
from qin.trees.columns import CHUNK_ROWS, Mask, Matrix, TreeColumns

# Rows whose values decide the limits of the bins.
_BIN_SAMPLE_ROWS = 100_000
# Fewest rows of the rarer class that a leaf should see on average; sets the number of leaves of small logs.
_CLASS_ROWS_PER_LEAF = 120
_LEAVES = (7, 31)
_SAMPLE = 0  # stream of the trees' seed


@dataclass(frozen=True)
class FittedTrees:
    """Fitted trees and the columns they read.

    Attributes:
        booster: LightGBM's model, cut at its best round.
        columns: What it reads.
        num_leaves: Of one tree.
        num_threads: To score with.
    """

    booster: lgb.Booster
    columns: TreeColumns
    num_leaves: int
    num_threads: int

    @property
    def num_rounds(self) -> int:
        """Trees."""
        return int(self.booster.num_trees())

    def logit(
        self, rows: RowReader, is_selected: Mask | None = None, *, on_rows: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float64]:
        """Logits of the selected rows of a file in its order, `(num_selected,)`, on the natural scale.

        Args:
            rows: The file.
            is_selected: Its rows to score; None for all.
            on_rows: Called with the number of rows that were scored since the last call.
        """
        source = _Rows(rows, self.columns, is_selected)
        out = np.empty(len(source))
        for start in range(0, len(source), CHUNK_ROWS):
            chunk = out[start : start + CHUNK_ROWS]
            chunk[:] = self._predict(source[start : start + CHUNK_ROWS])
            if on_rows is not None:
                on_rows(chunk.size)
        return out

    def logit_of(self, schema: Schema, arrays: Arrays) -> npt.NDArray[np.float64]:
        """Logits of rows in memory, `(num_rows,)`; arguments as of `TreeColumns.of_arrays`."""
        return self._predict(self.columns.of_arrays(schema, arrays))

    def _predict(self, matrix: Matrix) -> npt.NDArray[np.float64]:
        return np.asarray(self.booster.predict(matrix, raw_score=True, num_threads=self.num_threads))


def sampled(is_train: Mask, *, max_rows: int | None, seed: int) -> Mask:
    """At most so many of the rows, drawn at random whatever their label."""
    rows = np.flatnonzero(is_train)
    if max_rows is None or rows.size <= max_rows:
        return is_train
    out = np.zeros_like(is_train)
    out[np.random.default_rng((seed, _SAMPLE)).choice(rows, max_rows, replace=False)] = True
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
        num_threads: To use; the trees do not depend on it.
        on_round: Called with the number of trees and the stopping rows' log loss, after each tree.
    """
    columns = TreeColumns.choose(rows, is_train)
    num_leaves = _leaves_for(label[is_train]) if params.num_leaves == "auto" else params.num_leaves
    parameters = _parameters(params, num_leaves, num_threads)
    train = _dataset(rows, columns, label, is_train, parameters)
    if isinstance(stop, int):
        booster = lgb.train(parameters, train, num_boost_round=stop)
        return FittedTrees(booster, columns, num_leaves, num_threads)
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
    best = lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    return FittedTrees(best, columns, num_leaves, num_threads)


def _leaves_for(label: npt.NDArray[np.uint8]) -> int:
    """Leaves that the rarer class can fill: between 7 and 31."""
    rarer = min(int(label.sum()), int(label.size - label.sum()))
    return int(np.clip(2 ** math.floor(math.log2(max(rarer / _CLASS_ROWS_PER_LEAF, 2.0))) - 1, *_LEAVES))


def _parameters(params: TreeParams, num_leaves: int, num_threads: int) -> dict[str, Any]:
    seed = params.seed % 2**31  # LightGBM's own are 32-bit
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "num_leaves": num_leaves,
        "learning_rate": params.learning_rate,
        "feature_fraction": params.column_share,
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
        on_round(environment.iteration + 1, float(environment.evaluation_result_list[0][2]))

    return callback


class _Rows(lgb.Sequence):
    """Selected rows of a file as LightGBM's data source: whole ranges, or one row at a time in ascending order."""

    batch_size = CHUNK_ROWS

    def __init__(self, rows: RowReader, columns: TreeColumns, is_selected: Mask | None) -> None:
        self._rows, self._columns = rows, columns
        self._selected = None if is_selected is None else np.flatnonzero(is_selected)
        self._chunk = (-1, np.empty((0, 0)))

    def __len__(self) -> int:
        return self._rows.num_rows if self._selected is None else self._selected.size

    def __getitem__(self, index: Any) -> Matrix:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._range(start, stop)
        number, position = divmod(int(index), CHUNK_ROWS)
        if number != self._chunk[0]:  # sampled rows come in ascending order: each chunk is read once
            start = number * CHUNK_ROWS
            self._chunk = (number, self._range(start, min(start + CHUNK_ROWS, len(self))))
        row: Matrix = self._chunk[1][position]
        return row

    def _range(self, start: int, stop: int) -> Matrix:
        if self._selected is None:
            return self._columns.matrix(self._rows, start, stop)
        wanted = self._selected[start:stop]
        out = np.empty((wanted.size, len(self._columns.names)))
        # Selected rows may lie far apart (a small fold): read the file by ranges that hold some of them.
        cuts = np.flatnonzero(np.diff(wanted // CHUNK_ROWS)) + 1
        for part in np.split(np.arange(wanted.size), cuts):
            if part.size:
                first, last = int(wanted[part[0]]), int(wanted[part[-1]])
                out[part] = self._columns.matrix(self._rows, first, last + 1)[wanted[part] - first]
        return out
