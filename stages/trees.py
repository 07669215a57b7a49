"""Stage 4: gradient boosted trees on the rows that the network reads: a member of the model, and its baseline.

python -m stages trees
"""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer

from qin.config import Params, load_params
from qin.features.artifact import Statistics
from qin.features.joined import open_rows
from qin.labels.stage import runs_by_label
from qin.runtime import paths
from qin.runtime.chain import Artifact, Origin, origin_of, read_artifact
from qin.runtime.files import atomic_directory, fingerprint, write_csv, write_json
from qin.runtime.folded import FoldStore, fold_places, of_folds, write_index
from qin.runtime.parent import end_with_dvc
from qin.runtime.progress import log
from qin.runtime.provenance import code_fingerprint, library_versions
from qin.runtime.stage import StageReport, run_stage
from qin.shards.folds import EXCLUDED, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.trees.artifact import save_trees
from qin.trees.run import fit_heldout, fit_on_all

app = typer.Typer(add_completion=False)

_OUTPUTS = (paths.TREES, paths.TREES_VALIDATION)


@app.command()
def main() -> None:
    """Fit on the train fold, stopped by the selection half of the validation fold; then on every row where wanted."""
    if runs_by_label("trees"):
        return
    with run_stage("trees") as report:
        params = load_params(paths.PARAMS)
        settings = params.model_dump(mode="json")
        inputs = report.reads(paths.PREPARED_TRAIN, paths.FOLDS, paths.STATISTICS, settings=settings)
        if params.split.num_folds > 1:
            _fit_folds(report, params, settings, inputs)
        else:
            _fit_one(report, params, settings, inputs)


def _fit_one(report: StageReport, params: Params, settings: dict[str, Any], inputs: list[Artifact]) -> None:
    """Fit the trees of one model, and then those on every row where that is wanted."""
    rows = open_rows(paths.PREPARED_TRAIN, paths.heldout(paths.STATISTICS))
    rows.verify()
    if params.refits:
        Statistics(paths.STATISTICS).verify()  # now, though they are read when the first fit has ended
    fold = read_folds(paths.FOLDS, num_rows=rows.num_rows)
    facts = RowFacts.read(paths.FOLDS, num_rows=rows.num_rows)
    is_report = report_half(facts.unit, seed=params.split.seed)
    heldout, scored, curve = fit_heldout(params, rows, fold, is_report=is_report)
    deployed = heldout
    if params.refits:
        deployed = fit_on_all(params, open_rows(paths.PREPARED_TRAIN, paths.STATISTICS), fold != EXCLUDED, heldout)
    origin = origin_of("trees", settings, artifacts=inputs)
    with atomic_directory(paths.TREES) as folder:
        save_trees(folder, deployed, origin=origin)
        if params.refits:
            save_trees(paths.heldout_place(folder, refit=True), heldout, origin=origin)
        report.check_inputs()
    with atomic_directory(paths.TREES_VALIDATION) as folder:
        scored.write(folder, origin=origin_of("trees", settings, artifacts=[read_artifact(paths.TREES)]))
    write_csv(paths.PLOTS / "trees.csv", curve)
    write_json(paths.METRICS / "trees.json", {**heldout.provenance["metrics"], "warnings": report.warnings})
    report.num_rows = int((fold != EXCLUDED).sum())


def _fit_folds(report: StageReport, params: Params, settings: dict[str, Any], inputs: list[Artifact]) -> None:
    """Fit the trees of each fold's model; a killed run goes on in the fold where it was."""
    folds = list(zip(fold_places(paths.FOLDS), fold_places(paths.STATISTICS), strict=True))
    origin = origin_of("trees", settings, artifacts=inputs)
    store = _open_store(origin)
    for number, (fold, statistics) in enumerate(folds, start=1):
        if store.has(number):
            log.info("fold %d of %d: finished before", number, len(folds))
            store.take_warnings(number, report.warnings)
            continue
        log.info("fold %d of %d", number, len(folds))
        known = len(report.warnings)
        with atomic_directory(store.place(number)) as folder:
            facts = _fit_fold(params, fold, statistics, folder)
            store.write_facts(folder, {**facts, "warnings": report.warnings[known:]})
    told = store.all_facts(len(folds))
    report.check_inputs()
    with atomic_directory(paths.TREES) as trees, atomic_directory(paths.TREES_VALIDATION) as scored:
        for place, folder in zip(_OUTPUTS, (trees, scored), strict=True):
            store.hand_over(place.name, folder, num_folds=len(folds))
        # The trees' index first, as the logits' names its checksum.
        write_index(paths.TREES, trees, num_folds=len(folds), origin=origin)
        of_trees = origin_of("trees", settings, artifacts=[read_artifact(paths.TREES, at=trees)])
        write_index(paths.TREES_VALIDATION, scored, num_folds=len(folds), origin=of_trees)
    write_csv(paths.PLOTS / "trees.csv", told[0]["curve"])
    figures = of_folds([fold["figures"] for fold in told])
    write_json(paths.METRICS / "trees.json", {**figures, "warnings": report.warnings})
    store.remove()
    report.num_rows = sum(fold["num_rows"] for fold in told)


def _open_store(origin: Origin) -> FoldStore:
    """The finished folds of this run, claimed."""
    versions = {**library_versions(), "lightgbm": version("lightgbm")}
    name = fingerprint("trees", asdict(origin), code_fingerprint("qin/trees/run.py"), versions)
    store = FoldStore(paths.CHECKPOINTS, name, parts=[place.name for place in _OUTPUTS])
    store.claim()
    return store


def _fit_fold(params: Params, fold_folder: Path, statistics: Path, folder: Path) -> dict[str, Any]:
    """Fit one fold's trees into a folder; returns what is told of them."""
    for place in _OUTPUTS:
        (folder / place.name).mkdir()
    rows = open_rows(paths.PREPARED_TRAIN, statistics)
    rows.verify()
    fold = read_folds(fold_folder, num_rows=rows.num_rows)
    unit = RowFacts.read(paths.FOLDS, num_rows=rows.num_rows).unit
    fitted, scored, curve = fit_heldout(params, rows, fold, is_report=report_half(unit, seed=params.split.seed))
    save_trees(folder / paths.TREES.name, fitted)
    scored.write(folder / paths.TREES_VALIDATION.name)
    num_rows = int((fold != EXCLUDED).sum())
    return {"figures": fitted.provenance["metrics"], "curve": curve, "num_rows": num_rows}


if __name__ == "__main__":
    end_with_dvc()
    app()
