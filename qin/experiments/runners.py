"""How a search makes a run of some settings: light, beside the workspace, or as a DVC experiment of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qin.config import Params
from qin.experiments.changes import changed
from qin.experiments.experiment import run_experiment
from qin.experiments.judged import Judged
from qin.experiments.runs import read_run, read_runs
from qin.experiments.trial import OnCheck, Trials
from qin.runtime import paths

# Trials are judged by the held-out run, so that they train once; there is nothing to predict.
LIGHT = {"train.refit": "none", "data.test": None}


class Runner(Protocol):
    """Makes one run."""

    def __call__(self, changes: Mapping[str, Any], *, on_check: OnCheck | None = None) -> Judged:
        """Run the pipeline with changed settings.

        Args:
            changes: Values by dotted key.
            on_check: See `qin.experiments.trial.Trials.run`; not every runner can tell of checks.

        Raises:
            QinError: If it fails, or a check ended it.
        """
        ...


class LightRunner:
    """Runs the stages up to calibrate, those alone whose settings differ; see `qin.experiments.trial`.

    Args:
        base: The settings that are changed.
        root: Where the trials are. They keep no networks, which are the most of them.
    """

    def __init__(self, base: Params, root: Path) -> None:
        self._base = changed(base, LIGHT)
        self._trials = Trials(root, without=(paths.MODEL,))

    def keys(self) -> dict[str, str]:
        """What names the stages' outputs with the settings as they are."""
        return self._trials.keys(self._base)

    def __call__(self, changes: Mapping[str, Any], *, on_check: OnCheck | None = None) -> Judged:
        """See `Runner`."""
        trial = self._trials.run(changed(self._base, changes), on_check=on_check)
        return Judged.of(read_run(str(trial.folder)), train=self._base.data.train)


class ExperimentRunner:
    """Runs the whole pipeline, refit and submission included, as an experiment that `dvc exp show` lists.

    Args:
        base: The settings that are changed, those of the workspace.
        label: The label that runs are judged by; the others' models are made as well.
    """

    def __init__(self, base: Params, *, label: str) -> None:
        self._base = base
        self._label = label

    def __call__(self, changes: Mapping[str, Any], *, on_check: OnCheck | None = None) -> Judged:  # noqa: ARG002
        """See `Runner`; checks are not told."""
        changed(self._base, changes)  # in a moment, and in a line
        seeds = {"train.seed": self._base.train.seed, "trees.seed": self._base.trees.seed}  # one name, given or not
        run = read_runs(run_experiment({**seeds, **changes}))[self._label]
        return Judged.of(run, train=self._base.data.train)
