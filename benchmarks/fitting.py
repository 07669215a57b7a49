"""A prepared log with the statistics of its train fold, and networks fitted on it outside of the pipeline.

What is fitted here is fitted as the stages do it, by the same functions, but without a refit on every row: it is judged
on the report half of the validation fold and deployed nowhere.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.profile import changed
from qin.config import Params
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.metrics.definitions import LOG_LOSS, Rows, ranking_metrics, values
from qin.network.qin import QIN
from qin.runtime import paths
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.files import RowReader, ShardReader
from qin.shards.folds import TRAIN, Folds, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.train.networks import fit_models
from qin.train.statistics import fit_train_statistics
from qin.train.watch import Watch


@dataclass(frozen=True)
class PreparedLog:
    """What a run reads.

    Attributes:
        rows: Prepared train file with the statistics of the train fold.
        fold: Fold of each row.
        is_report: Rows of the half that decides nothing, `(num_rows,)`.
    """

    rows: RowReader
    fold: Folds
    is_report: npt.NDArray[np.bool_]


def open_log(project: Path, params: Params) -> PreparedLog:
    """The prepared log of a project, its statistics fitted into a new folder there.

    Args:
        project: Where `prepare` and `split` have run.
        params: Sections features and split.
    """
    folds = project / paths.FOLDS
    reader = ShardReader(project / paths.PREPARED_TRAIN)
    fold = read_folds(folds, num_rows=reader.num_rows)
    facts = RowFacts.read(folds, num_rows=reader.num_rows)
    folder = Path(tempfile.mkdtemp(prefix="statistics", dir=project))
    fit_train_statistics(params, reader, fold == TRAIN, facts, folder)
    return PreparedLog(JoinedRows(reader, Statistics(folder)), fold, report_half(facts.unit, seed=params.split.seed))


def fit_network(params: Params, log: PreparedLog, folder: Path) -> tuple[QIN, dict[str, Any]]:
    """A fitted network in the form that suits the log, and what it did.

    Of as many as `model.seeds` says it is the first, and the figures are of their mean.

    Args:
        params: Settings.
        log: The log.
        folder: For checkpoints, which are removed.
    """
    once = changed(params, {"train.refit": "none"}, params.train.seed)
    fitted, scored = fit_models(
        once,
        log.rows,
        log.fold,
        is_report=log.is_report,
        checkpoints=folder / "checkpoints",
        watch=Watch(),
    )
    fitted.remove_checkpoints()
    run = fitted.runs[0]
    names = ("batch_size", "num_steps", "best_step", "best_epoch")
    return run.network, {**report_figures(scored), **{name: run.figures[name] for name in names}}


def report_figures(scored: ScoredRows) -> dict[str, float]:
    """AP, AUC and natural log loss of the report half."""
    return _figures(scored, scored.is_report == 1)


def whole_figures(scored: ScoredRows) -> dict[str, float]:
    """The same of the whole validation fold, half of which chose: of half the variance, and what other work reports."""
    return _figures(scored, np.ones(len(scored.row), bool))


def true_figures(scored: ScoredRows, truth: Path) -> dict[str, float] | None:
    """Figures of the true probability on the report half, of a generated log; None without the file that holds it."""
    if not truth.exists():
        return None
    probability = pq.read_table(truth, columns=["probability"]).column(0).to_numpy()[scored.row]
    logit = (np.log(probability) - np.log1p(-probability)).astype(np.float32)
    return report_figures(replace(scored, logit=logit, prior=TrainingPrior(base_rate=scored.prior.base_rate)))


def _figures(scored: ScoredRows, rows: npt.NDArray[np.bool_]) -> dict[str, float]:
    return values((*ranking_metrics(), LOG_LOSS), Rows(scored.natural[rows], scored.label[rows]))
