"""The trees stage's work: the held-out fit that is judged, and the one on every row that is deployed."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qin.config import Params
from qin.metrics.definitions import AP, AUC, LOG_LOSS, Rows, values
from qin.runtime.progress import Progress, log
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.files import RowReader, read_labels
from qin.shards.folds import TRAIN, VALIDATION, Folds, selection_rows
from qin.trees.artifact import TreesArtifact
from qin.trees.columns import Mask
from qin.trees.fit import fit_trees, sampled
from qin.trees.fitted import FittedTrees

Curve = list[dict[str, float]]

# No plot has room for more.
_CURVE_POINTS = 200


def fit_heldout(
    params: Params, rows: RowReader, fold: Folds, *, is_report: Mask
) -> tuple[TreesArtifact, ScoredRows, Curve]:
    """Fit on the train fold, stopped by the selection half of the validation fold.

    1. Rows to fit are sampled where `trees.max_rows` bounds them; those that decide are never.
    2. Trees grow until the selection half's loss has not fallen for `trees.patience` of them.
    3. The whole validation fold is scored; figures and curve are of the selection half alone.

    Args:
        params: Sections trees and train.
        rows: Prepared train file with the statistics of the train fold.
        fold: Fold of each row.
        is_report: Rows of the report half, `(num_rows,)`.

    Returns:
        The trees, their logits of the whole validation fold, and the selection half's log loss by number of trees.
    """
    label = read_labels(rows)
    is_val = fold == VALIDATION
    decides = selection_rows(label, is_val=is_val, is_report=is_report)
    is_fitted = sampled(rows, fold == TRAIN, params=params.trees)
    curve: Curve = []
    with Progress(params.trees.max_rounds, label="trees", unit="trees") as progress:

        def on_round(number: int, loss: float) -> None:
            curve.append({"trees": number, "val_log_loss": loss})
            progress.advance(1, note=f"loss {loss:.4f}")

        trees = fit_trees(
            rows,
            label,
            is_train=is_fitted,
            stop=decides,
            params=params.trees,
            num_threads=params.train.num_threads,
            on_round=on_round,
        )
    logit = trees.logit(rows, is_val).astype(np.float32)
    # Of the whole fold, as the network's, though `max_rows` may leave some out. Trees know neither weights nor a sample
    # of negatives, so their logits need no offset.
    prior = TrainingPrior(base_rate=float(label[fold == TRAIN].mean()))
    scored = ScoredRows(
        row=np.flatnonzero(is_val),
        logit=logit,
        label=label[is_val],
        is_report=is_report[is_val].astype(np.uint8),
        prior=prior,
    )
    figures = _figures(trees, logit[decides[is_val]], label[decides], num_rows=int(np.count_nonzero(is_fitted)))
    log.info(
        "trees: %(num_rounds)d of %(num_leaves)d leaves on %(rows)d rows; selection half: log loss %(val_log_loss).5f, "
        "AP %(val_ap).5f, AUC %(val_auc).5f",
        figures,
    )
    provenance = {"settings": params.trees.model_dump(), "metrics": figures}
    return TreesArtifact(trees, rows.schema, provenance), scored, _thinned(curve)


def fit_on_all(params: Params, rows: RowReader, is_fitted: Mask, heldout: TreesArtifact) -> TreesArtifact:
    """Grow as many trees on every row as the held-out fit chose.

    Args:
        params: Sections trees and train.
        rows: Prepared train file with the statistics of these rows.
        is_fitted: Rows of the train and the validation fold, `(num_rows,)`.
        heldout: The held-out fit.
    """
    trees = fit_trees(
        rows,
        read_labels(rows),
        is_train=sampled(rows, is_fitted, params=params.trees),
        # As many, though there are more rows: a tree reads all rows, where a step of the network reads a batch.
        stop=heldout.trees.num_rounds,
        # As large, too: `auto` would count the clicks of both folds.
        params=params.trees.model_copy(update={"num_leaves": heldout.trees.num_leaves}),
        num_threads=params.train.num_threads,
    )
    return TreesArtifact(trees, rows.schema, {**heldout.provenance, "refit": True})


def _figures(
    trees: FittedTrees, logit: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], *, num_rows: int
) -> dict[str, Any]:
    """Of the selection half, as training's are: the report half is evaluate's."""
    rows = Rows(logit.astype(np.float64), label)
    return {
        "rows": num_rows,
        "num_columns": len(trees.columns.names),
        "num_leaves": trees.num_leaves,
        "num_rounds": trees.num_rounds,
        "val_log_loss": LOG_LOSS.statistic(rows),
        **{f"val_{name}": value for name, value in values((AP, AUC), rows).items()},
    }


def _thinned(curve: Curve) -> Curve:
    """At most so many points, the best among them."""
    step = -(-len(curve) // _CURVE_POINTS)
    best = min(range(len(curve)), key=lambda number: curve[number]["val_log_loss"])
    return [point for number, point in enumerate(curve) if number % step == 0 or number == best]
