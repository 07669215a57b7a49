"""Gradient boosted trees on the same rows: the row that a network has to beat.

A seeded, bounded sample of the train fold at its natural click rate is fitted with scikit-learn's histogram gradient
boosting on the fields that the network reads. Few-valued categorical fields are categories, the others enter by their
click rate, cross-fitted so that no row sees its own label. A sequence enters by its length, its last item, and how
often the target item is in it, where the two share a vocabulary.

Source: Friedman (2001), Greedy function approximation: a gradient boosting machine; Ke et al. (2017), LightGBM (the
histogram algorithm); Micci-Barreca (2001), A preprocessing scheme for high-cardinality categorical attributes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import OrdinalEncoder, TargetEncoder
from threadpoolctl import threadpool_limits

from qin.config import Params
from qin.errors import FewClicksError
from qin.evaluate.fold import JudgedFold
from qin.metrics.definitions import AP, AUC, LOG_LOSS, WLL, Metric
from qin.metrics.logits import BoolArray, Float64Array, FloatArray, IntArray, LabelArray
from qin.metrics.paired import Difference, compare_logits
from qin.raw.hashing import hash_values, seed_of
from qin.runtime.progress import log
from qin.schema import Schema
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, Folds, read_folds
from qin.shards.loader import Batch, iterate_in_order, read_batch

# Categories of a field that trees divide one by one; beyond them, their click rates are compared.
MAX_CATEGORIES = 64

# Of each class in the sample, so that every part of the cross-fitting and of the early stopping sees it.
MIN_CLASS_ROWS = 10

_RANKING: tuple[Metric, ...] = (AP, AUC)
_PROBABILITY: tuple[Metric, ...] = (LOG_LOSS, WLL)
_LOSSES = frozenset(metric.name for metric in (*_RANKING, *_PROBABILITY) if metric.lower_is_better)


def sample_rows(fold: Folds, *, max_rows: int, seed: int) -> IntArray:
    """Draw rows of the train fold by a seeded hash of their number, ascending.

    Args:
        fold: fold of each row, `(num_rows,)`.
        max_rows: rows to draw at most.
        seed: seed of the hash.
    """
    rows = np.flatnonzero(fold == TRAIN)
    if rows.size <= max_rows:
        return rows
    hashes, _ = hash_values(pa.array(rows), seed_of("baseline", seed))
    smallest = np.argpartition(hashes, max_rows - 1)[:max_rows]
    return np.sort(rows[smallest])


def tabulate(batch: Batch, schema: Schema) -> tuple[IntArray, Float64Array]:
    """Return what trees can read of a batch.

    Returns:
        Categories `(n, num_categorical + num_sequences)`: the buckets of the fields and of each sequence's last item, 0
        for an empty sequence. Numbers `(n, num_numeric + num_sequences + num_shared)`: the numeric fields with NaN
        where missing, the lengths, and for each sequence that shares a field's vocabulary how often it holds that
        field's bucket.
    """
    categorical = batch.categorical.numpy().astype(np.int64)
    position = {field.name: column for column, field in enumerate(schema.categorical)}
    categories, numbers = [categorical], [batch.numeric.numpy().astype(np.float64)]
    for field, tensor in zip(schema.sequences, batch.sequences, strict=True):
        items = tensor.numpy()
        is_valid = items != 0
        last = is_valid.shape[1] - 1 - np.argmax(is_valid[:, ::-1], axis=1)  # of an empty sequence: any, all are 0
        categories.append(items[np.arange(len(items)), last][:, None].astype(np.int64))
        numbers.append(is_valid.sum(axis=1, dtype=np.float64)[:, None])
        if field.vocabulary in position:
            item = categorical[:, position[field.vocabulary], None]
            numbers.append((is_valid & (items == item)).sum(axis=1, dtype=np.float64)[:, None])
    return np.hstack(categories), np.hstack(numbers)


class Trees:
    """Fitted trees and the encoding of their inputs.

    Args:
        batch: rows to fit, with labels.
        schema: names and kinds of its fields.
        seed: of the cross-fitting and of the rows held out to stop early.
    """

    def __init__(self, batch: Batch, schema: Schema, *, seed: int) -> None:
        assert batch.label is not None
        label = batch.label.numpy()
        self._schema = schema
        categories, numbers = tabulate(batch, schema)
        is_few = np.array([np.unique(column).size <= MAX_CATEGORIES for column in categories.T])
        folds = StratifiedKFold(5, shuffle=True, random_state=seed % 2**32)
        self._encoder = ColumnTransformer(
            [
                ("code", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), is_few),
                ("rate", TargetEncoder(target_type="binary", cv=folds), ~is_few),
            ]
        )
        encoded = self._encoder.fit_transform(categories, label)
        self._model = HistGradientBoostingClassifier(
            categorical_features=np.arange(is_few.sum()),
            learning_rate=0.05,
            max_iter=300,
            l2_regularization=1.0,
            early_stopping=True,
            validation_fraction=0.1,
            n_iter_no_change=20,
            random_state=seed % 2**32,
        ).fit(np.hstack([encoded, numbers]), label)

    def logit(self, batch: Batch) -> Float64Array:
        """Return the logits of a batch, `(n,)`."""
        categories, numbers = tabulate(batch, self._schema)
        encoded = self._encoder.transform(categories)
        logit: Float64Array = self._model.decision_function(np.hstack([encoded, numbers]))
        return logit


def baseline_logits(
    reader: ShardReader, fold: Folds, rows: IntArray, *, max_rows: int, seed: int, batch_size: int, num_threads: int
) -> tuple[int, Float64Array]:
    """Fit trees on a sample of the train fold and score other rows with them.

    Args:
        reader: the prepared train file.
        fold: fold of each row, `(num_rows,)`.
        rows: ascending numbers of the rows to score, `(n,)`.
        max_rows: rows to fit at most.
        seed: of the sample and of the fit.
        batch_size: rows scored at a time.
        num_threads: threads to use; the result does not depend on them.

    Returns:
        Rows fitted, and logits `(n,)`.

    Raises:
        FewClicksError: the sample holds fewer than `MIN_CLASS_ROWS` rows of a class.
    """
    train = read_batch(reader, sample_rows(fold, max_rows=max_rows, seed=seed))
    assert train.label is not None
    num_clicks = int(train.label.sum())
    if min(num_clicks, train.rows.size - num_clicks) < MIN_CLASS_ROWS:
        raise FewClicksError(
            f"params.yaml: evaluate.baseline_rows: {train.rows.size} sampled rows hold {num_clicks} clicks, "
            f"each class needs {MIN_CLASS_ROWS}; give more rows, or 0 for no baseline"
        )
    is_selected = np.zeros(reader.num_rows, dtype=np.bool_)
    is_selected[rows] = True
    with threadpool_limits(num_threads):
        trees = Trees(train, reader.schema, seed=seed)
        batches = iterate_in_order(reader, is_selected=is_selected, batch_size=batch_size)
        logit, position = np.empty(rows.size), 0
        for batch in batches:
            logit[position : position + batch.rows.size] = trees.logit(batch)
            position += batch.rows.size
    return train.rows.size, logit


def baseline_figures(
    baseline: FloatArray,
    network: FloatArray,
    label: LabelArray,
    *,
    ranking: FloatArray,
    is_judge: BoolArray,
    cluster: IntArray | None = None,
) -> dict[str, Any]:
    """Compare the network with the baseline on the same rows; a warning says where it is clearly worse.

    Args:
        baseline: logits of the trees, `(n,)`, as fitted: at the natural click rate, without a calibrator.
        network: calibrated logits of the network, `(n,)`, from a calibrator that was not fitted on the judging half.
        label: labels, `(n,)`.
        ranking: the network's logits before calibration, `(n,)`, which rank all rows.
        is_judge: rows on which probabilities are judged, `(n,)`.
        cluster: see `qin.metrics.paired.compare_logits`.

    Returns:
        The baseline's `ap`, `auc`, `log_loss` and `wll`, and under `difference` the network's minus the baseline's,
        each with its paired standard error `_se` and the ends `_lower` and `_upper` of its 95% interval, None where it
        cannot be estimated.
    """
    of_judged = None if cluster is None else cluster[is_judge]
    compared = {
        **compare_logits(baseline, ranking, label, cluster=cluster, metrics=_RANKING),
        **compare_logits(
            baseline[is_judge], network[is_judge], label[is_judge], cluster=of_judged, metrics=_PROBABILITY
        ),
    }
    for name, found in compared.items():
        if _is_worse(found, lower_is_better=name in _LOSSES):
            log.warning(
                "the network is worse than gradient boosted trees: %s %.4g instead of %.4g, difference %.2g +- %.2g",
                name,
                found.second,
                found.first,
                found.difference,
                found.standard_error,
            )
    difference: dict[str, float | None] = {}
    for name, found in compared.items():
        difference |= {name: found.difference, f"{name}_se": found.standard_error}
        difference |= {f"{name}_lower": found.lower, f"{name}_upper": found.upper}
    return {**{name: found.first for name, found in compared.items()}, "difference": difference}


def _is_worse(found: Difference, *, lower_is_better: bool) -> bool:
    """Whether the network's value is worse by more than chance explains."""
    if found.lower is None or found.upper is None:
        return False
    return found.lower > 0.0 if lower_is_better else found.upper < 0.0


def compare_with_baseline(params: Params, judged: JudgedFold, *, prepared: Path, folds: Path) -> dict[str, Any]:
    """Fit trees on a sample of the train fold and compare the network with them on the validation fold.

    Args:
        params: Sections evaluate and train.
        judged: The validation fold.
        prepared: Folder of the prepared train file.
        folds: Folder of the folds.

    Returns:
        `rows`, those fitted, and what `baseline_figures` returns.

    Raises:
        FewClicksError: see `baseline_logits`.
        ArtifactError: If a file is missing or damaged.
    """
    reader = ShardReader(prepared)
    num_rows, logit = baseline_logits(
        reader,
        read_folds(folds, num_rows=reader.num_rows),
        judged.scored.row,
        max_rows=params.evaluate.baseline_rows,
        seed=params.evaluate.seed,
        batch_size=params.train.eval_batch_size,
        num_threads=params.train.num_threads,
    )
    figures = baseline_figures(
        logit,
        judged.calibrated,
        judged.scored.label,
        ranking=judged.scored.logit,
        is_judge=judged.is_judge,
        cluster=judged.cluster,
    )
    return {"rows": num_rows, **figures}
