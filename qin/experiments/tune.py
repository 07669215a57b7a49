"""`qin tune`: search or grid, then the finalists with several seeds beside the settings as they are.

1. A search makes trials with the first seed and compares them by the log loss of the selection half; a grid has none.
2. The best few trials, or all points of a grid, are finalists: each runs with every seed, as the default does.
3. Each finalist's figures of the report half are compared with the default's, paired by seed and by row. The best is
   the one of the smallest mean log loss on the selection half, which may be the default.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qin.config import Params
from qin.experiments.aligned import aligned
from qin.experiments.judged import Judged, Mean, differences, in_words
from qin.experiments.runners import ExperimentRunner, LightRunner, Runner
from qin.experiments.search import Budget, Search, Tried, in_line, settings_of, study_errors
from qin.experiments.space import Space
from qin.labels.single import choose_label
from qin.metrics.logits import IntArray
from qin.raw.segments import read_clusters
from qin.runtime.claim import claimed
from qin.runtime.errors import ConfigError, QinError
from qin.runtime.files import fingerprint
from qin.runtime.paths import TUNE
from qin.runtime.progress import log

DEFAULT = "params.yaml"
_FOOTNOTE = (
    "chosen by: mean log loss of the selection half; all else is of the report half, which chose nothing",
    "std. error: of the change, by the rows of that half and the seeds; noise: below 1.96 of them",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `qin tune` is asked for.

    Attributes:
        budget: Of the search.
        num_seeds: Runs of each finalist.
        num_finalists: Trials that get them.
        seed: Of what the search draws.
        prunes: Whether a losing trial ends at a check.
        is_grid: Every combination instead of a search.
        as_experiments: Whether each run is an experiment of DVC.
    """

    budget: Budget
    num_seeds: int = 3
    num_finalists: int = 3
    seed: int = 0
    prunes: bool = True
    is_grid: bool = False
    as_experiments: bool = False


@dataclass
class Finalist:
    """Settings that run with several seeds.

    Attributes:
        name: `params.yaml`, or the trial or point.
        settings: What it changes, by dotted key.
        runs: Figures by seed's number; those that failed are missing.
        errors: Why runs failed.
    """

    name: str
    settings: dict[str, Any]
    runs: dict[int, Judged] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def selection_loss(self) -> Mean | None:
        """Log loss of the selection half; None where no run succeeded."""
        return Mean.of([run.selection_loss for run in self.runs.values()]) if self.runs else None


@dataclass(frozen=True)
class Tuned:
    """What came out.

    Attributes:
        tried: The trials of the search; none of a grid.
        finalists: The settings as they are, then the others, the best on the selection half first.
        best: The one to use: of those whose every run succeeded, that with the smallest loss there.
        report: JSON values of each finalist's report half, by place.
    """

    tried: list[Tried]
    finalists: list[Finalist]
    best: Finalist
    report: list[dict[str, Any]]

    @property
    def errors(self) -> list[str]:
        """Why runs of finalists failed."""
        return [error for finalist in self.finalists for error in finalist.errors]


def tune(
    params: Params,
    space: Space,
    plan: Plan,
    *,
    label: str | None = None,
    folder: Path = TUNE,
    run: Runner | None = None,
) -> Tuned:
    """Search, and run the finalists.

    Args:
        params: The settings that are varied.
        space: How.
        plan: How long, and how.
        label: Of several labels the one that runs are judged by; None for the first.
        folder: Where the study and the trials are.
        run: Makes a run; by default as the plan says.

    Raises:
        QinError: If the settings as they are cannot be run, or have no such label, or every trial failed.
    """
    base = choose_label(params, label, what="a search")
    light = LightRunner(base, folder / "trials")
    run = run or (ExperimentRunner(params, label=base.data.first_label) if plan.as_experiments else light)
    tried: list[Tried] = []
    if plan.is_grid:
        as_is = settings_of(base, space.dimensions)
        # The settings as they are run anyway, as what all others are compared with.
        chosen = [(f"point {n}", point) for n, point in enumerate(space.points(), 1) if point != as_is]
    else:
        # What ends a search, and what comes after it, is not in its name: it goes on with a larger budget.
        kind = [plan.as_experiments, plan.seed, plan.prunes and not plan.as_experiments]
        name = fingerprint({"space": asdict(space), "keys": light.keys(), "kind": kind})
        with claimed(f"tune-{name}"):
            tried = _searched(base, space, plan, run, file=folder / "studies.db", name=name)
        chosen = _chosen(tried, plan.num_finalists, as_is=settings_of(base, space.dimensions))
    finalists = [Finalist(DEFAULT, {}), *(Finalist(name, settings) for name, settings in chosen)]
    _run_finals(finalists, base, space, run, num_seeds=plan.num_seeds)
    if not finalists[0].runs:
        raise ConfigError(*finalists[0].errors)
    finalists[1:] = sorted(finalists[1:], key=_place)
    # A mean over fewer seeds is not comparable, and one that fails may be the next to fail.
    whole = [finalist for finalist in finalists if len(finalist.runs) == plan.num_seeds]
    best = min(whole or finalists[:1], key=_place)
    return Tuned(tried, finalists, best, _reported(finalists, base))


def _searched(base: Params, space: Space, plan: Plan, run: Runner, *, file: Path, name: str) -> list[Tried]:
    with study_errors(file):
        with claimed("tune-studies", waits=True):  # who makes the file makes its tables
            search = Search(space, base, run, file=file, name=name, seed=plan.seed, prunes=plan.prunes)
        try:
            known = len(search.tried())
            log.info("study %s: %s", name, f"{known} trials made before" if known else "begins")
            search.run(plan.budget)
            return search.tried()
        finally:
            search.close()


def _chosen(tried: Sequence[Tried], most: int, *, as_is: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The best trials, each setting once, without that of the default.

    Raises:
        ConfigError: If none was complete.
    """
    complete = [(one.selection_loss, one) for one in tried if one.selection_loss is not None]
    if not complete:
        errors = dict.fromkeys(one.error for one in tried if one.error)
        raise ConfigError(*(f"no trial was completed: {error}" for error in errors or ("the budget allowed none",)))
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    for _, one in sorted(complete, key=lambda pair: (pair[0], pair[1].number)):
        if one.settings != as_is:
            chosen.setdefault(in_line(one.settings), (f"trial {one.number}", one.settings))
    return list(chosen.values())[:most]


def _run_finals(finalists: Sequence[Finalist], base: Params, space: Space, run: Runner, *, num_seeds: int) -> None:
    """Run each finalist with each seed; what fails is told, and the rest goes on."""
    total, done = len(finalists) * num_seeds, 0
    # Seed by seed: a run that is stopped half way has compared all finalists by some of them.
    for number in range(num_seeds):
        seeds = {"train.seed": base.train.seed + number, "trees.seed": base.trees.seed + number}
        for finalist in finalists:
            done += 1
            try:
                judged = run({**space.fixed, **finalist.settings, **seeds})
            except QinError as error:
                finalist.errors.append(f"{finalist.name}, seed {seeds['train.seed']}: {error.lines[0]}")
                shown = f"failed: {error.lines[0]}"
            else:
                finalist.runs[number] = judged
                shown = f"log loss {judged.selection_loss:.5f}"
            log.info("finalists [%d/%d] %s, seed %d: %s", done, total, finalist.name, seeds["train.seed"], shown)


def _place(finalist: Finalist) -> float:
    loss = finalist.selection_loss
    return np.inf if loss is None else loss.value


def _reported(finalists: Sequence[Finalist], base: Params) -> list[dict[str, Any]]:
    default, key = finalists[0], base.split.group_key
    first = next(iter(default.runs.values()))
    cluster = None if key is None else read_clusters(base.data.train, key, first.numbers)
    return [_figures(default, finalist, cluster=cluster) for finalist in finalists]


def _figures(default: Finalist, finalist: Finalist, *, cluster: IntArray | None) -> dict[str, Any]:
    """Of the report half, over the seeds with which both ran."""
    seeds = [number for number in default.runs if number in finalist.runs]
    if not seeds:
        return {}
    pairs = [[one.runs[number] for number in seeds] for one in (default, finalist)]
    found = differences(pairs[0], pairs[1], cluster=cluster)
    return {name: {**asdict(one), "verdict": in_words(name, one)} for name, one in found.items()}


def tuned_json(tuned: Tuned) -> dict[str, Any]:
    """Everything in one JSON object with stable keys."""
    finalists = [
        {
            "name": finalist.name,
            "settings": finalist.settings,
            "seeds": len(finalist.runs),
            "selection_log_loss": None if finalist.selection_loss is None else asdict(finalist.selection_loss),
            "report": report,
            "errors": finalist.errors,
        }
        for finalist, report in zip(tuned.finalists, tuned.report, strict=True)
    ]
    best = {"name": tuned.best.name, "settings": tuned.best.settings}
    return {"trials": [asdict(one) for one in tuned.tried], "finalists": finalists, "best": best}


def tuned_text(tuned: Tuned) -> str:
    """The same for reading."""
    states = [one.state for one in tuned.tried]
    counts = f"{len(states)} trials, {states.count('pruned')} stopped early, {states.count('fail')} failed; "
    first = next(iter(tuned.finalists[0].runs.values()))
    rows = f"the report half has {first.numbers.size:,} rows, {first.rows.num_positives:,} of them clicked"
    head = ("", "seeds", "chosen by", "log loss", "change", "std. error", "AUC", "AP", "verdict")
    table = [head, *(_row(*pair) for pair in zip(tuned.finalists, tuned.report, strict=True))]
    names = [[finalist.name, in_line(finalist.settings)] for finalist in tuned.finalists[1:]]
    return "\n".join([
        f"{counts if states else ''}{rows}",
        *aligned(table, right=slice(1, -1)),
        *aligned(names),
        f"best on the selection half: {tuned.best.name}",
        *_FOOTNOTE,
    ])  # fmt: skip


def _row(finalist: Finalist, report: dict[str, Any]) -> tuple[str, ...]:
    loss = finalist.selection_loss
    if loss is None or not report:
        return (finalist.name, "0", "failed", *[""] * 5, "")
    of_loss, is_default = report["log_loss"], finalist.name == DEFAULT
    error = of_loss["standard_error"]
    return (
        finalist.name,
        str(len(finalist.runs)),
        f"{loss.value:.5f}",
        f"{of_loss['second']:.5f}",
        "" if is_default else f"{of_loss['difference']:+.5f}",
        "" if is_default or error is None else f"{error:.5f}",
        f"{report['auc']['second']:.4f}",
        f"{report['ap']['second']:.4f}",
        "" if is_default else of_loss["verdict"],
    )
