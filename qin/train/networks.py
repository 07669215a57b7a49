"""As many networks as there are seeds, each trained as if it were alone; their logits are averaged."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import Params
from qin.distributed.ranks import ONE, Ranks
from qin.model.artifact import TrainedModel
from qin.model.scoring import mean_logit
from qin.scored import ScoredRows
from qin.shards.files import RowReader
from qin.shards.folds import FoldRule, Folds
from qin.train.fit import Trained, fit_model, refit_model
from qin.train.warm_start import Earlier
from qin.train.watch import SILENT, Watch

_SEEDS = 2**63  # that there are


def fit_models(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    is_report: npt.NDArray[np.bool_],
    checkpoints: Path,
    watch: Watch,
    ranks: Ranks = ONE,
    earlier: Earlier | None = None,
) -> tuple[list[Trained], ScoredRows]:
    """Fit a network with each of `model.seeds` seeds, from `train.seed` on; see `fit_model`.

    Each stops where the selection half is best for it alone. A run with one of these as its `train.seed` gives the same
    network, and goes on from the same checkpoint.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file.
        fold: Fold of each row.
        is_report: Rows of the report half, `(num_rows,)`.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of the first network's steps and checks.
        ranks: The processes that train each of them together.
        earlier: A model whose networks they go on from.

    Returns:
        The runs, and the mean of their logits of the whole validation fold.
    """
    runs: list[Trained] = []
    scored: list[ScoredRows] = []
    for number in range(params.model.seeds):
        run, rows = fit_model(
            with_seed(params, number),
            reader,
            fold,
            is_report=is_report,
            checkpoints=checkpoints,
            watch=SILENT if number else watch,
            ranks=ranks,
            start=None if earlier is None else earlier.start(number, is_heldout=True),
        )
        runs.append(run)
        scored.append(rows)
    return runs, replace(scored[0], logit=mean_logit([rows.logit for rows in scored]))


def refit_models(
    params: Params,
    reader: RowReader,
    fold: Folds,
    *,
    heldout: Sequence[Trained],
    checkpoints: Path,
    watch: Watch = SILENT,
    ranks: Ranks = ONE,
    earlier: Earlier | None = None,
) -> list[Trained]:
    """Train each network anew on every row, for as many passes as its own held-out run chose; see `refit_model`.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file, its statistics fitted on every row of both folds.
        fold: Fold of each row.
        heldout: The held-out runs.
        checkpoints: Root folder of checkpoints.
        watch: Who is told of the first network's steps.
        ranks: The processes that train each of them together.
        earlier: A model whose networks they go on from.
    """
    return [
        refit_model(
            with_seed(params, number),
            reader,
            fold,
            heldout=run,
            checkpoints=checkpoints,
            watch=SILENT if number else watch,
            ranks=ranks,
            start=None if earlier is None else earlier.start(number, is_heldout=False),
        )
        for number, run in enumerate(heldout)
    ]


def with_seed(params: Params, number: int) -> Params:
    """The settings of a network, the first being 0."""
    if number == 0:
        return params
    train = params.train.model_copy(update={"seed": (params.train.seed + number) % _SEEDS})
    return params.model_copy(update={"train": train})


def as_model(runs: Sequence[Trained], params: Params, schema: Schema, rule: FoldRule | None = None) -> TrainedModel:
    """The networks of some runs as one model, with the provenance of the first, and beside it that of the others.

    Args:
        runs: The runs.
        params: Section model.
        schema: The columns they were trained on.
        rule: How their rows were chosen, for a run that goes on from them.
    """
    others = {"other_seeds": [run.provenance for run in runs[1:]]} if len(runs) > 1 else {}
    networks = tuple(run.network for run in runs)
    optimizers = tuple(run.optimizer for run in runs if run.optimizer is not None)
    folds = {} if rule is None else {"folds": asdict(rule)}
    provenance = {**runs[0].provenance, **others, **folds}
    return TrainedModel(networks, schema, params.model.network, provenance, optimizers)


def figures_of(runs: Sequence[Trained]) -> dict[str, Any]:
    """The figures of the first run, and beside them those of the others."""
    others = {"other_seeds": [run.figures for run in runs[1:]]} if len(runs) > 1 else {}
    return {**runs[0].figures, **others}
