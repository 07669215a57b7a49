"""Stage 3: fit the model on the train fold; a killed run continues from its checkpoint.

python -m stages train
"""

from functools import partial

import typer

from qin.config import load_params
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.model.artifact import save_model
from qin.network.threads import fix_threads
from qin.runtime import paths
from qin.runtime.chain import origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.parent import end_with_dvc
from qin.runtime.stage import run_stage
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.tracking.tracking import Tracking, open_tracking
from qin.train.networks import as_model, figures_of, fit_models, refit_models
from qin.train.statistics import fit_train_statistics
from qin.train.watch import History, Watch

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Train, keep the best state, score the validation fold with it; then train on every row where that is wanted."""
    with run_stage("train") as report:
        params = load_params(paths.PARAMS)
        settings = params.model_dump(mode="json")
        inputs = report.reads(paths.PREPARED_TRAIN, paths.FOLDS, settings=settings)
        fix_threads(params.train.num_threads)
        reader = ShardReader(paths.PREPARED_TRAIN)
        reader.verify()
        fold = read_folds(paths.FOLDS, num_rows=reader.num_rows)
        facts = RowFacts.read(paths.FOLDS, num_rows=reader.num_rows)
        refit, track = params.train.refit == "all", params.track
        origin = origin_of("statistics", settings, artifacts=inputs)
        tracking = open_tracking(track.to, project=track.project, settings=settings, proceed=False)
        with tracking, atomic_directory(paths.STATISTICS) as fitted, atomic_directory(paths.MODEL) as model:
            heldout = paths.heldout_place(fitted, refit=refit)
            statistics = fit_train_statistics(params, reader, fold == TRAIN, facts, heldout, origin=origin)
            schema = JoinedRows(reader, Statistics(heldout)).schema
            trained, scored = fit_models(
                params,
                JoinedRows(reader, Statistics(heldout)),
                fold,
                is_report=report_half(facts.unit, seed=params.split.seed),
                checkpoints=paths.CHECKPOINTS,
                watch=Watch(partial(_tell_check, tracking), tracking.step("train/"), track.every_steps),
            )
            deployed = trained
            if refit:
                everything, kept = fold != EXCLUDED, statistics.kept
                fit_train_statistics(params, reader, everything, facts, fitted, only=kept, origin=origin)
                rows = JoinedRows(reader, Statistics(fitted))
                watch = Watch(on_step=tracking.step("refit/"), every_steps=track.every_steps)
                deployed = refit_models(params, rows, fold, heldout=trained, checkpoints=paths.CHECKPOINTS, watch=watch)
            joined = [*inputs, read_artifact(paths.STATISTICS, at=fitted)]
            origin = origin_of("train", settings, artifacts=joined)
            if refit:
                save_model(paths.heldout_place(model, refit=refit), as_model(trained, params, schema), origin=origin)
            save_model(model, as_model(deployed, params, schema), origin=origin)
            report.check_inputs()
            tracking.summarise(trained[0].figures)
        with atomic_directory(paths.VALIDATION) as folder:
            scored.write(folder, origin=origin_of("train", settings, artifacts=[read_artifact(paths.MODEL)]))
        figures = {**figures_of(trained), "statistics": statistics.to_json(), "warnings": report.warnings}
        write_json(paths.METRICS / "train.json", figures)
        for run in [*trained, *(deployed if refit else ())]:
            run.checkpoints.remove()
            report.num_rows += run.num_rows_seen


def _tell_check(tracking: Tracking, history: History) -> None:
    write_csv(paths.PLOTS / "train.csv", history)
    tracking.check(history)


if __name__ == "__main__":
    end_with_dvc()
    app()
