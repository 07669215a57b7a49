"""Stage 3: fit the model on the train fold; a killed run continues from its checkpoint.

python -m stages train
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer

from qin.config import Params, TrackParams, load_params
from qin.distributed.ranks import Ranks, is_started_with_others, joined
from qin.errors import QinError
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.features.reference import fit_reference
from qin.features.statistics import FitReport
from qin.model.artifact import save_model
from qin.model.build import choose_device
from qin.network.threads import fix_threads
from qin.runtime import paths
from qin.runtime.chain import Origin, origin_of, read_artifact
from qin.runtime.files import atomic_directory, write_csv, write_json
from qin.runtime.parent import end_with_dvc, end_with_launcher
from qin.runtime.stage import StageReport, errors_in_lines, run_stage
from qin.shards.files import ShardReader
from qin.shards.folds import EXCLUDED, TRAIN, read_fold_rule, read_folds, report_half
from qin.shards.row_facts import RowFacts
from qin.tracking.tracking import Tracking, open_tracking
from qin.train.networks import as_model, figures_of, fit_models, refit_models
from qin.train.processes import check_processes, count_processes
from qin.train.statistics import chosen_statistics, fit_train_statistics
from qin.train.warm_start import open_earlier
from qin.train.watch import SILENT, History, Watch

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Train, keep the best state, score the validation fold with it; then train on every row where that is wanted."""
    if not is_started_with_others() and _launched():
        return
    with errors_in_lines("train"), joined() as ranks, run_stage("train", team=ranks) as report:
        _train(report, ranks)


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
    fold = read_folds(paths.FOLDS, num_rows=reader.num_rows)
    facts = RowFacts.read(paths.FOLDS, num_rows=reader.num_rows)
    refit, track, rule = params.train.refit == "all", params.track, read_fold_rule(paths.FOLDS)
    earlier = open_earlier(params, reader.schema, rule)
    if earlier is not None:
        earlier.check_statistics(chosen_statistics(params, reader.schema))
    origin = origin_of("statistics", settings, artifacts=inputs)
    fitting = _Fitting(params, reader, facts, origin, ranks)
    tracking = open_tracking(
        track.to if ranks.rank == 0 else [], project=track.project, settings=settings, proceed=False
    )
    with tracking, _output(paths.STATISTICS, ranks) as fitted, _output(paths.MODEL, ranks) as model:
        wanted = None if earlier is None else earlier.statistics
        statistics, rows = fitting.statistics(fold == TRAIN, paths.heldout_place(fitted, refit=refit), only=wanted)
        trained, scored = fit_models(
            params,
            rows,
            fold,
            is_report=report_half(facts.unit, seed=params.split.seed),
            checkpoints=paths.CHECKPOINTS,
            watch=_watch(tracking, track, ranks, of="train/"),
            ranks=ranks,
            earlier=earlier,
        )
        deployed, schema = trained, rows.schema
        if refit:
            _, rows = fitting.statistics(fold != EXCLUDED, fitted, only=statistics.kept)
            watch = replace(_watch(tracking, track, ranks, of="refit/"), on_check=SILENT.on_check)
            deployed = refit_models(
                params,
                rows,
                fold,
                heldout=trained,
                checkpoints=paths.CHECKPOINTS,
                watch=watch,
                ranks=ranks,
                earlier=earlier,
            )
        if ranks.rank > 0:
            return
        origin = origin_of("train", settings, artifacts=[*inputs, read_artifact(paths.STATISTICS, at=fitted)])
        if earlier is not None:
            origin = replace(origin, made_from={**origin.made_from, **earlier.made_from})
        if refit:
            place = paths.heldout_place(model, refit=refit)
            save_model(place, as_model(trained, params, schema, rule), origin=origin)
        save_model(model, as_model(deployed, params, schema, rule), origin=origin)
        fit_reference(reader, fold, with_validation=refit).write(fitted)
        report.check_inputs()
        tracking.summarise(trained[0].figures)
    with atomic_directory(paths.VALIDATION) as folder:
        scored.write(folder, origin=origin_of("train", settings, artifacts=[read_artifact(paths.MODEL)]))
    started = {} if earlier is None else {"init_from": earlier.made_from["train.init_from"]}
    figures = {**figures_of(trained), **started, "statistics": statistics.to_json(), "warnings": report.warnings}
    write_json(paths.METRICS / "train.json", figures)
    for run in [*trained, *(deployed if refit else ())]:
        run.checkpoints.remove()
        report.num_rows += run.num_rows_seen


@dataclass(frozen=True)
class _Fitting:
    """What both fits of the statistics share; see `fit_train_statistics`."""

    params: Params
    reader: ShardReader
    facts: RowFacts
    origin: Origin
    ranks: Ranks

    def statistics(
        self, is_fitted: npt.NDArray[np.bool_], folder: Path, *, only: Collection[str] | None = None
    ) -> tuple[FitReport, JoinedRows]:
        """Fit them, once on each machine, and join them to the rows.

        Args:
            is_fitted: Rows to fit on, `(num_rows,)`.
            folder: Where this process would write them.
            only: Names to keep.
        """
        report = None
        if self.ranks.leads:
            report = fit_train_statistics(
                self.params, self.reader, is_fitted, self.facts, folder, only=only, origin=self.origin
            )
        shared = self.ranks.all_of((str(folder.resolve()), report))
        place, _ = shared[self.ranks.leader]
        _, report = shared[0]
        assert report is not None
        return report, JoinedRows(self.reader, Statistics(Path(place)))


@contextmanager
def _output(place: Path, ranks: Ranks) -> Iterator[Path]:
    """A folder that takes an output's place when all is well; for other processes than the first one to work in."""
    if ranks.rank == 0:
        with atomic_directory(place) as folder:
            yield folder
        return
    folder = paths.SCRATCH / "ranks" / f"{ranks.rank}" / place.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _watch(tracking: Tracking, params: TrackParams, ranks: Ranks, *, of: str) -> Watch:
    """The first process tells trackers and writes the curve."""
    if ranks.rank > 0:
        return SILENT
    return Watch(partial(_tell_check, tracking), tracking.step(of), params.every_steps)


def _tell_check(tracking: Tracking, history: History) -> None:
    write_csv(paths.PLOTS / "train.csv", history)
    tracking.check(history)


if __name__ == "__main__":
    end_with_dvc()
    end_with_launcher()
    app()
