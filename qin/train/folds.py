"""Cross-validation: a model for each fold, every one trained as if it were alone, the finished ones kept."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qin.config import Params
from qin.distributed.ranks import Ranks
from qin.model.artifact import save_model
from qin.runtime.chain import Origin
from qin.runtime.files import fingerprint
from qin.runtime.folded import FoldStore
from qin.runtime.paths import MODEL, STATISTICS, VALIDATION
from qin.runtime.progress import log
from qin.runtime.provenance import code_fingerprint, library_versions
from qin.shards.folds import TRAIN, read_folds, report_half
from qin.train.fit import computed_by
from qin.train.networks import FittedNetworks, as_model, fit_models
from qin.train.processes import output_of_first
from qin.train.statistics import SharedFit
from qin.train.watch import Watch

_PARTS = (STATISTICS.name, MODEL.name, VALIDATION.name)


def open_store(params: Params, origin: Origin, *, checkpoints: Path, ranks: Ranks) -> FoldStore:
    """The finished folds of this run, claimed by the first process.

    Args:
        params: Section train.
        origin: What the outputs of training are made from, but for the statistics.
        checkpoints: Root folder of checkpoints.
        ranks: The processes that train together.
    """
    code, by = code_fingerprint("qin/train/folds.py"), computed_by(params.train, ranks)
    name = fingerprint("train", asdict(origin), code, library_versions(), by)
    store = FoldStore(checkpoints, name, parts=_PARTS)
    if ranks.rank == 0:
        store.claim()
    return store


def fit_folds(
    params: Params,
    fitting: SharedFit,
    folds: Sequence[Path],
    store: FoldStore,
    *,
    checkpoints: Path,
    watch_of: Callable[[int], Watch],
    warned: list[str],
) -> None:
    """Fit statistics and networks of each fold that is not finished yet, and keep them in the store.

    Args:
        params: Sections features, split, model, imbalance, hnm, train.
        fitting: Of the statistics.
        folds: Where each model's folds are.
        store: Holds the finished ones.
        checkpoints: Root folder of checkpoints.
        watch_of: Who is told of the first network's steps and checks, by the number of the fold.
        warned: What has been warned of; a finished fold's warnings are added, so that they stand in the metrics.
    """
    for number, place in enumerate(folds, start=1):
        # One process looks for all: on shared disks others may see a folder a moment later, and would part ways.
        if fitting.ranks.from_first(lambda number=number: store.has(number)):  # type: ignore[misc]
            log.info("fold %d of %d: finished before", number, len(folds))
            if fitting.ranks.rank == 0:
                store.take_warnings(number, warned)
            continue
        log.info("fold %d of %d", number, len(folds))
        known = len(warned)
        with output_of_first(store.place(number), fitting.ranks) as folder:
            trained, facts = _fit_fold(params, fitting, place, folder, checkpoints=checkpoints, watch=watch_of(number))
            store.write_facts(folder, {**facts, "warnings": warned[known:]})
        if fitting.ranks.rank == 0:
            # Now that the fold is kept: between the two, a kill leaves both rather than none.
            trained.remove_checkpoints()


def _fit_fold(
    params: Params, fitting: SharedFit, fold_folder: Path, folder: Path, *, checkpoints: Path, watch: Watch
) -> tuple[FittedNetworks, dict[str, Any]]:
    """Fit one fold into a folder; returns its runs and what is told of them."""
    for name in _PARTS:
        (folder / name).mkdir()
    fold = read_folds(fold_folder, num_rows=fitting.reader.num_rows)
    statistics, rows = fitting.statistics(fold == TRAIN, folder / STATISTICS.name)
    trained, scored = fit_models(
        params,
        rows,
        fold,
        is_report=report_half(fitting.facts.unit, seed=params.split.seed),
        checkpoints=checkpoints,
        watch=watch,
        ranks=fitting.ranks,
    )
    if fitting.ranks.rank == 0:
        save_model(folder / MODEL.name, as_model(trained.runs, trained.params, rows.schema))
        scored.write(folder / VALIDATION.name)
    figures = {**trained.to_json(), "statistics": statistics.to_json()}
    return trained, {
        "figures": figures,
        "curve": trained.runs[0].result.history,
        "num_rows": trained.num_rows_seen,
    }
