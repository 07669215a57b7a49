"""A grid of experiments over seeds: one `dvc exp run --temp` after the other, and what came out.

One after the other, in temporary folders: the workspace is not touched, a training that ran before with the same
inputs comes from DVC's run cache, and nothing hangs or is lost when a run is stopped, which DVC's queue cannot promise.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from qin.errors import ConfigError, one_line
from qin.experiments.aligned import aligned
from qin.experiments.reasons import reason_of
from qin.runtime.files import fingerprint
from qin.runtime.paths import CHECKPOINTS, EVALUATION, SWEEP_LOGS
from qin.runtime.progress import log

SEED = "train.seed"

Settings = dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """One experiment.

    Attributes:
        name: Its name in DVC.
        metrics: Content of metrics/evaluate.json; empty if it failed.
        error: Why it failed, or None.
    """

    name: str
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def parse_choices(text: str) -> tuple[str, list[str]]:
    """Split `key=value,value`; commas inside brackets, braces and quotes belong to a value.

    Raises:
        ConfigError: If there is no key or an empty value.
    """
    key, _, rest = text.partition("=")
    values, depth, quote = [""], 0, ""
    for character in rest:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += character
    if not key or not all(values):
        raise ConfigError(f"--set-param {text}: expected KEY=VALUE or KEY=VALUE,VALUE")
    return key, values


def grid(choices: Sequence[str]) -> list[Settings]:
    """All combinations of the choices, the last key's values varying fastest.

    Raises:
        ConfigError: If a choice cannot be parsed, a key occurs twice, or a key is the seed, which is not averaged then.
    """
    parsed = [parse_choices(choice) for choice in choices]
    keys = [key for key, _ in parsed]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--set-param {key}: given twice; write its values as one list")
    if SEED in keys:
        raise ConfigError(f"--set-param {SEED}: use --seeds, so that means and standard errors are taken over them")
    return [dict(zip(keys, values, strict=True)) for values in product(*(values for _, values in parsed))]


def run_experiment(settings: Settings) -> Outcome:
    """Run the pipeline with changed settings as a DVC experiment in a temporary folder.

    An experiment of the same settings is replaced; its stages come from the run cache. What DVC prints is in
    `.qin/sweep/<name>.log`. A killed one goes on from its checkpoint.

    Raises:
        ConfigError: If there is no commit to start from.
    """
    name = f"sweep-{fingerprint(settings)}"
    reference = _reference(name)
    if _git("rev-parse", "-q", "--verify", reference) is not None:
        _git("update-ref", "-d", reference)
    lines = _run_dvc(name, settings)
    if lines is not None:
        return Outcome(name, error=reason_of(lines))
    metrics = _git("show", f"{reference}:{EVALUATION}")
    if metrics is None:
        return Outcome(name, error=f"{EVALUATION}: not in the experiment; it must be a metric with `cache: false`")
    return Outcome(name, metrics=json.loads(metrics))


def _reference(name: str) -> str:
    """Where git keeps an experiment of the current commit."""
    commit = _git("rev-parse", "-q", "--verify", "HEAD")
    if commit is None:
        raise ConfigError("a sweep starts from a commit; run it in a git repository that has one")
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def _git(*arguments: str) -> str | None:
    """What git prints, or None if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def _run_dvc(name: str, settings: Settings) -> list[str] | None:
    """Run the experiment; returns what DVC and the stages printed if it failed."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "QIN_CHECKPOINTS": str(CHECKPOINTS.resolve()),
    }
    changes = [word for key, value in settings.items() for word in ("--set-param", f"{key}={value}")]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *changes]
    SWEEP_LOGS.mkdir(parents=True, exist_ok=True)
    with (SWEEP_LOGS / f"{name}.log").open("w+") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
        output.seek(0)
        return output.read().splitlines() if done.returncode else None


def run_sweep(
    points: Sequence[Settings],
    *,
    num_seeds: int,
    metrics: Sequence[str],
    run: Callable[[Settings], Outcome] = run_experiment,
) -> list[dict[str, Any]]:
    """Run every point with every seed; what fails is reported and the rest goes on.

    Args:
        points: Settings of each point.
        num_seeds: `train.seed` is 0 to `num_seeds - 1`.
        metrics: Dotted paths in metrics/evaluate.json.
        run: Runs one experiment.

    Returns:
        Per point, as JSON values: `settings`, `runs` with name, seed, metrics and error, `mean`, `standard_error`.
    """
    results = []
    for number, point in enumerate(points):
        runs = []
        for seed in range(num_seeds):
            outcome = _checked(run({**point, SEED: str(seed)}), metrics)
            runs.append({"seed": seed, **vars(outcome)})
            shown = outcome.error or ", ".join(f"{name} {value:.5g}" for name, value in outcome.metrics.items())
            done = number * num_seeds + seed + 1
            log.info("[%d/%d] %s: %s", done, len(points) * num_seeds, describe(point, seed), shown)
        results.append({"settings": dict(point), "runs": runs, **summarise(runs, metrics)})
    return results


def describe(point: Mapping[str, str], seed: int) -> str:
    """A run's settings in one line."""
    return " ".join(f"{key}={value}" for key, value in {**point, SEED: seed}.items())


def _checked(outcome: Outcome, metrics: Sequence[str]) -> Outcome:
    """The outcome with the asked metrics alone, or with an error if one is not there."""
    found: dict[str, float] = {}
    for path in metrics if outcome.error is None else ():
        value: Any = outcome.metrics
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            return Outcome(outcome.name, error=f"{EVALUATION}: no number {path}; it has {', '.join(outcome.metrics)}")
        found[path] = value
    return Outcome(outcome.name, metrics=found, error=outcome.error)


def summarise(runs: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean over the runs that succeeded, and its standard error where there are two or more."""
    values = {name: [run["metrics"][name] for run in runs if run["error"] is None] for name in metrics}
    return {
        "mean": {name: statistics.fmean(found) for name, found in values.items() if found},
        "standard_error": {
            name: statistics.stdev(found) / math.sqrt(len(found)) for name, found in values.items() if len(found) > 1
        },
    }


def table(results: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """The results as aligned text, one line per point, `mean ± standard error`."""
    keys = list(results[0]["settings"])
    rows = [[*keys, "runs", *metrics]]
    for result in results:
        num_good = sum(run["error"] is None for run in result["runs"])
        cells = [_cell(result["mean"].get(name), result["standard_error"].get(name)) for name in metrics]
        rows.append([*result["settings"].values(), f"{num_good}/{len(result['runs'])}", *cells])
    return "\n".join(map(one_line, aligned(rows)))


def _cell(mean: float | None, standard_error: float | None) -> str:
    if mean is None:
        return "failed"
    return f"{mean:.5f}" if standard_error is None else f"{mean:.5f} ± {standard_error:.5f}"
