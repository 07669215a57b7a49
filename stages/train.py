"""Stage 3: fit the model on the train fold; a killed run continues from its checkpoint.

python -m stages train
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import typer

from qin.config import Params, TrackParams, load_params
from qin.distributed.ranks import Ranks, is_started_with_others, joined
from qin.features.reference import fit_reference
from qin.labels.stage import runs_by_label
from qin.model.artifact import save_model
from qin.model.build import choose_device
from qin.network.threads import fix_threads
from qin.runtime import paths
from qin.runtime.chain import Artifact, Origin, origin_of, read_artifact
from qin.runtime.errors import QinError
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.folded import fold_places, of_folds, write_index
from qin.runtime.parent import end_with_dvc, end_with_launcher
from qin.runtime.progress import log
from qin.runtime.stage import StageReport, errors_in_lines, run_stage
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, read_fold_rule, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.tracking.tracking import Tracking, open_tracking
from qin.train.folds import fit_folds, open_store
from qin.train.networks import as_model, fit_models, refit_models
from qin.train.processes import check_processes, count_processes, output_of_first
from qin.train.shared_stage import train_shared
from qin.train.statistics import SharedFit, chosen_statistics
from qin.train.warm_start import open_earlier
from qin.train.watch import SILENT, History, Watch

_OUTPUTS = (paths.STATISTICS, paths.MODEL, paths.VALIDATION)

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Train each form of the network, keep the best, score the validation fold; then refit on every row."""
    if not is_started_with_others() and (_trained_together() or runs_by_label("train") or _launched()):
        return
    with errors_in_lines("train"), joined() as ranks, run_stage("train", team=ranks) as report:
        _train(report, ranks)


def _trained_together() -> bool:
    """Train the labels that share a network, where the settings want that."""
    try:
        params = load_params(paths.PARAMS, warns=False)
    except QinError:  # which the stage will meet as well, and tell
        return False
    if not params.data.shares_heads:
        return False
    track = params.track
    with (
        run_stage("train") as report,
        open_tracking(
            track.to, project=track.project, settings=params.model_dump(mode="json"), proceed=False
        ) as tracking,
    ):
        train_shared(params, report, tracking)
    return True


def _launched() -> bool:
    """Start this stage as several processes and wait for their end, where the settings want several."""
    try:
        params = load_params(paths.PARAMS, warns=False).train
        num_processes = count_processes(params)
    except QinError:  # which the stage will meet as well, and tell
        return False
    if num_processes == 1:
        return False
    from qin.distributed.cluster import launch_on_ray  # noqa: PLC0415 -- a tenth of a second, for nothing in one process
    from qin.distributed.launch import launch  # noqa: PLC0415

    words = ["-m", "stages", "train"]
    if params.launcher == "local":
        launch(words, num_processes=num_processes, max_restarts=params.max_restarts)
        return True
    gpus = int(choose_device(params).type == "cuda")
    with errors_in_lines("train"):
        launch_on_ray(
            words, num_processes=num_processes, max_restarts=params.max_restarts, cpus=params.num_threads, gpus=gpus
        )
    return True


def _train(report: StageReport, ranks: Ranks) -> None:
    """Every process goes through all of it; the first alone writes."""
    params = load_params(paths.PARAMS)
    settings = params.model_dump(mode="json")
    check_processes(params, ranks)
    with ranks.first_alone():  # it puts back what an interrupted run has left
        inputs = report.reads(paths.PREPARED_TRAIN, paths.FOLDS, settings=settings)
    fix_threads(params.train.num_threads)
    reader = ShardReader(paths.PREPARED_TRAIN)
    if ranks.leads:
        reader.verify()
    facts, track = RowFacts.read(paths.FOLDS, num_rows=reader.num_rows), params.track
    fitting = SharedFit(params, reader, facts, origin_of("statistics", settings, artifacts=inputs), ranks)
    run = _Stage(report, params, settings, inputs, fitting)
    tracking = open_tracking(
        track.to if ranks.rank == 0 else [], project=track.project, settings=settings, proceed=False
    )
    with tracking:
        if params.split.num_folds > 1:
            _train_folds(run, tracking)
        else:
            _train_one(run, tracking)


@dataclass(frozen=True)
class _Stage:
    """What training one model or several starts from."""

    report: StageReport
    params: Params
    settings: dict[str, Any]
    inputs: list[Artifact]
    fitting: SharedFit

    def origin_with(self, *artifacts: Artifact) -> Origin:
        """What an output is made from, besides the stage's inputs."""
        return origin_of("train", self.settings, artifacts=[*self.inputs, *artifacts])


def _train_one(run: _Stage, tracking: Tracking) -> None:
    """Train one model, and then one on every row where that is wanted.

    1. Statistics are fitted on the train fold, and joined to the rows.
    2. The forms of the network are trained and judged; the best one scores the validation fold.
    3. With a refit, statistics and network are fitted once more, on both folds, for as long.
    4. The first process alone writes: model and statistics, the held-out ones beside them, then the logits.
    5. Checkpoints are removed when all is in its place.
    """
    params, fitting, ranks = run.params, run.fitting, run.fitting.ranks
    fold = read_folds(paths.FOLDS, num_rows=fitting.reader.num_rows)
    refit, track, rule = params.refits, params.track, read_fold_rule(paths.FOLDS)
    earlier = open_earlier(params, fitting.reader.schema, rule)
    if earlier is not None:
        earlier.check_statistics(
            chosen_statistics(params, fitting.reader.schema, has_time=fitting.facts.time is not None)
        )
    wanted = None if earlier is None else earlier.statistics
    with output_of_first(paths.STATISTICS, ranks) as fitted, output_of_first(paths.MODEL, ranks) as model:
        statistics, rows = fitting.statistics(fold == TRAIN, paths.heldout_place(fitted, refit=refit), only=wanted)
        trained, scored = fit_models(
            params,
            rows,
            fold,
            is_report=report_half(fitting.facts.unit, seed=params.split.seed),
            checkpoints=paths.CHECKPOINTS,
            watch=_watch(tracking, track, ranks, of="train/"),
            ranks=ranks,
            earlier=earlier,
        )
        # The schema of the held-out rows; a refit reads the same fields, as its statistics are those that were kept.
        deployed, chosen, schema = trained.runs, trained.params, rows.schema
        if refit:
            _, rows = fitting.statistics(fold != EXCLUDED, fitted, only=statistics.kept)
            # Its checks judge nothing, and would write over the curve of the run that was judged.
            watch = replace(_watch(tracking, track, ranks, of="refit/"), on_check=SILENT.on_check)
            deployed = refit_models(
                chosen,
                rows,
                fold,
                heldout=trained.runs,
                checkpoints=paths.CHECKPOINTS,
                watch=watch,
                ranks=ranks,
                earlier=earlier,
            )
        # The others have no place to write to.
        if ranks.rank > 0:
            return
        origin = run.origin_with(read_artifact(paths.STATISTICS, at=fitted))
        if earlier is not None:
            origin = replace(origin, made_from={**origin.made_from, **earlier.made_from})
        if refit:
            place = paths.heldout_place(model, refit=refit)
            save_model(place, as_model(trained.runs, chosen, schema, rule), origin=origin)
        save_model(model, as_model(deployed, chosen, schema, rule), origin=origin)
        fit_reference(fitting.reader, fold, with_validation=refit).write(fitted)
        run.report.check_inputs()
        tracking.summarise(trained.runs[0].figures)
    # After the model, whose checksum the logits name.
    with atomic_directory(paths.VALIDATION) as folder:
        scored.write(folder, origin=origin_of("train", run.settings, artifacts=[read_artifact(paths.MODEL)]))
    started = {} if earlier is None else {"init_from": earlier.made_from["train.init_from"]}
    figures = {**trained.to_json(), **started, "statistics": statistics.to_json(), "warnings": run.report.warnings}
    write_json(paths.METRICS / "train.json", figures)
    # When all is written: until here a killed stage goes on from them.
    trained.remove_checkpoints()
    run.report.num_rows += trained.num_rows_seen
    for network in deployed if refit else ():
        network.checkpoints.remove()
        run.report.num_rows += network.num_rows_seen


def _train_folds(run: _Stage, tracking: Tracking) -> None:
    """Train a model for each fold; a killed run goes on in the fold where it was.

    1. Each fold that is not finished is trained into the store, which outlives this process.
    2. When all are there, they are moved into the outputs, each of which gets an index of its folds.
    3. Figures of all folds are written, and the store is emptied.
    """
    params, fitting, ranks = run.params, run.fitting, run.fitting.ranks
    folds = fold_places(paths.FOLDS)
    if params.train.refit == "all":
        text = "split.num_folds %d: the folds' models are deployed, as they were judged; train.refit is not read"
        log.info(text, len(folds))
    store = open_store(params, run.origin_with(), checkpoints=paths.CHECKPOINTS, ranks=ranks)
    fit_folds(
        params,
        fitting,
        folds,
        store,
        checkpoints=paths.CHECKPOINTS,
        watch_of=partial(_watch_of_fold, tracking, params.track, ranks),
        warned=run.report.warnings,
    )
    if ranks.rank > 0:
        return
    facts = store.all_facts(len(folds))
    fold = read_folds(folds[-1], num_rows=fitting.reader.num_rows)
    # Drawn folds have seen all rows together; of time, the latest model alone is deployed.
    reference = fit_reference(fitting.reader, fold, with_validation=params.split.method != "time")
    run.report.check_inputs()
    with ExitStack() as outputs:
        places = {place: outputs.enter_context(atomic_directory(place)) for place in _OUTPUTS}
        artifacts: list[Artifact] = []
        for place, folder in places.items():
            store.hand_over(place.name, folder, num_folds=len(folds))
            origin = fitting.origin if place == paths.STATISTICS else run.origin_with(*artifacts)
            write_index(place, folder, num_folds=len(folds), origin=origin)
            artifacts.append(read_artifact(place, at=folder))
        reference.write(places[paths.STATISTICS])
    figures = of_folds([fold["figures"] for fold in facts])
    tracking.summarise(figures)
    write_json(paths.METRICS / "train.json", {**figures, "warnings": run.report.warnings})
    write_csv(paths.PLOTS / "train.csv", facts[0]["curve"])
    store.remove()
    run.report.num_rows = sum(fold["num_rows"] for fold in facts)


def _watch(tracking: Tracking, params: TrackParams, ranks: Ranks, *, of: str) -> Watch:
    """The first process tells trackers and writes the curve."""
    if ranks.rank > 0:
        return SILENT
    return Watch(partial(_tell_check, tracking), tracking.step(of), params.every_steps)


def _watch_of_fold(tracking: Tracking, params: TrackParams, ranks: Ranks, number: int) -> Watch:
    """The first fold's curve is written, and its checks are told; of the others, steps."""
    if number == 1:
        return _watch(tracking, params, ranks, of="train/")
    return replace(_watch(tracking, params, ranks, of=f"fold{number}/"), on_check=SILENT.on_check)


def _tell_check(tracking: Tracking, history: History) -> None:
    write_csv(paths.PLOTS / "train.csv", history)
    tracking.check(history)


if __name__ == "__main__":
    end_with_dvc()
    end_with_launcher()
    app()
