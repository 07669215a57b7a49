"""`qin tune`: a search over settings, or a grid, from the command line."""

import json
from pathlib import Path
from typing import Annotated

import typer

from qin.runtime.logs import log
from qin.runtime.paths import PARAMS

_TRIALS = 30


def tune(
    set_param: Annotated[
        list[str] | None,
        typer.Option(
            "--set-param", "-S", help="KEY=LOW..HIGH[:log|:step=N], KEY=VALUE,VALUE or KEY=VALUE; repeatable."
        ),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="The same in a YAML file with the sections of params.yaml.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Trials in all, earlier calls' too.  [default: {_TRIALS}, or no bound with --minutes]"
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="After so many, no trial begins.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each finalist, with train.seed and those after it.")] = 3,
    finalists: Annotated[int, typer.Option(min=1, help="Trials that run with every seed.")] = 3,
    grid: Annotated[
        bool, typer.Option("--grid", help="Every combination, each with every seed; needs no Optuna.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what the search draws.")] = 0,
    prune: Annotated[bool, typer.Option(help="End a trial at a check at which it is worse than the median.")] = True,
    experiments: Annotated[
        bool, typer.Option("--experiments", help="Each run is a DVC experiment of all stages.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="Of several labels the one to search for; default: the first.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the best into params.yaml, whose comments stay.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every digit instead of a table.")] = False,
) -> None:
    """Search settings by the log loss of the selection half; the best run again with several seeds beside the default.

    Called again with the same search it goes on. Exit status 1 if a finalist's run failed.

    Example: `qin tune -S train.lr=1e-4..1e-2:log -S model.dropout=0.0,0.1,0.2 --trials 30`
    """
    from qin.config import load_params
    from qin.experiments.overlay import apply_values
    from qin.experiments.search import Budget, in_line
    from qin.experiments.space import read_space
    from qin.experiments.tune import Plan, tuned_json, tuned_text
    from qin.experiments.tune import tune as run

    base = load_params(PARAMS)
    plan = Plan(
        budget=Budget(_TRIALS if trials is None and minutes is None else trials, minutes),
        num_seeds=seeds,
        num_finalists=finalists,
        seed=seed,
        prunes=prune,
        is_grid=grid,
        as_experiments=experiments,
    )
    found = read_space(set_param or [], space, base)
    tuned = run(base, found, plan, label=label)
    typer.echo(json.dumps(tuned_json(tuned), indent=2, allow_nan=False) if as_json else tuned_text(tuned))
    if apply and tuned.best.settings:
        best = {**found.fixed, **tuned.best.settings}  # what held in every trial is a part of what was measured
        apply_values(best, params=PARAMS)
        log.info("%s: %s", PARAMS, in_line(best))
    elif apply:
        log.info("%s: stays, nothing was better on the selection half", PARAMS)
    for error in tuned.errors:
        log.error("error: %s", error)
    if tuned.errors:
        raise typer.Exit(1)
