"""Stage 4: gradient boosted trees on the rows that the network reads: a member of the model, and its baseline.

python -m stages trees
"""

import typer

from qin.config import load_params
from qin.features.artifact import Statistics
from qin.features.joined import open_rows
from qin.runtime import paths
from qin.runtime.chain import origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.shards.folds import EXCLUDED, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.trees.artifact import save_trees
from qin.trees.run import fit_heldout, fit_on_all

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Fit on the train fold, stopped by the selection half of the validation fold; then on every row where wanted."""
    with run_stage("trees") as report:
        params = load_params(paths.PARAMS)
        settings, refit = params.model_dump(mode="json"), params.train.refit == "all"
        inputs = report.reads(paths.PREPARED_TRAIN, paths.FOLDS, paths.STATISTICS, settings=settings)
        rows = open_rows(paths.PREPARED_TRAIN, paths.heldout(paths.STATISTICS))
        rows.verify()
        if refit:
            Statistics(paths.STATISTICS).verify()  # now, though they are read when the first fit has ended
        fold = read_folds(paths.FOLDS, num_rows=rows.num_rows)
        facts = RowFacts.read(paths.FOLDS, num_rows=rows.num_rows)
        is_report = report_half(facts.unit, seed=params.split.seed)
        heldout, scored, curve = fit_heldout(params, rows, fold, is_report=is_report)
        deployed = heldout
        if refit:
            deployed = fit_on_all(params, open_rows(paths.PREPARED_TRAIN, paths.STATISTICS), fold != EXCLUDED, heldout)
        origin = origin_of("trees", settings, artifacts=inputs)
        with atomic_directory(paths.TREES) as folder:
            save_trees(folder, deployed, origin=origin)
            if refit:
                save_trees(paths.heldout_place(folder, refit=refit), heldout, origin=origin)
            report.check_inputs()
        with atomic_directory(paths.TREES_VALIDATION) as folder:
            scored.write(folder, origin=origin_of("trees", settings, artifacts=[read_artifact(paths.TREES)]))
        write_csv(paths.PLOTS / "trees.csv", curve)
        write_json(paths.METRICS / "trees.json", {**heldout.provenance["metrics"], "warnings": report.warnings})
        report.num_rows = int((fold != EXCLUDED).sum())


if __name__ == "__main__":
    end_with_dvc()
    app()
