"""A search over settings with Optuna: what is tried next is drawn by TPE, what loses is stopped at a check.

Source: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, for TPE; Golovin et al. (2017), Google
Vizier, section 3.2.2, for the median rule.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qin.config import Params
from qin.experiments.runners import Runner
from qin.experiments.space import Choice, Range, Space
from qin.experiments.trial import Check, StoppedError
from qin.runtime.errors import ArtifactError, ConfigError, QinError
from qin.runtime.progress import log

if TYPE_CHECKING:
    import optuna

# Trials that are judged by no median yet, and checks of a trial that are not.
_FIRST_TRIALS, _FIRST_CHECKS = 5, 2
# Drawn at random before TPE has something to learn from.
_RANDOM_TRIALS = 10
_STEP_ERROR = 1e-8  # of a value on a grid, as Optuna has it
_INTERRUPTED, _DEFAULT, _ERROR = "interrupted", "default", "error"


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        num_trials: Trials in all, also of earlier calls; None: no bound.
        minutes: Of this call, after which no trial begins; None: no bound.
    """

    num_trials: int | None
    minutes: float | None


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: Its number.
        settings: What it changed, by dotted key.
        state: `complete`, `pruned` or `fail`.
        selection_loss: Of a complete one.
        num_checks: Checks that it was stopped after or ended with.
        error: Why it failed.
    """

    number: int
    settings: dict[str, Any]
    state: str
    selection_loss: float | None
    num_checks: int
    error: str | None


class Search:
    """A study that is kept in a file: called again, it goes on.

    The n-th trial is drawn with a generator of its own from the seed and n, so that a search that was interrupted tries
    what one in a single call would have tried. A trial that was at work when the search was killed is made again, and
    goes on from its checkpoint.

    Args:
        space: What is varied.
        base: The settings that are varied.
        run: Makes a run.
        file: SQLite file of the studies.
        name: Of all that decides what a trial gives.
        seed: Of what is drawn.
        prunes: Whether a trial ends at a check at which it is worse than the median of the others.

    Raises:
        ConfigError: If Optuna is not installed.
    """

    def __init__(
        self, space: Space, base: Params, run: Runner, *, file: Path, name: str, seed: int, prunes: bool
    ) -> None:
        self._optuna = _optuna()
        self._space, self._base, self._run, self._seed = space, base, run, seed
        self._distributions = {key: self._distribution(one) for key, one in space.dimensions.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        self._storage = self._optuna.storages.RDBStorage(f"sqlite:///{file}")
        pruners = self._optuna.pruners
        self._study = self._optuna.create_study(
            storage=self._storage,
            study_name=name,
            load_if_exists=True,
            pruner=pruners.MedianPruner(_FIRST_TRIALS, _FIRST_CHECKS) if prunes else pruners.NopPruner(),
        )

    def close(self) -> None:
        """Let go of the file."""
        self._storage.engine.dispose()

    def run(self, budget: Budget) -> None:
        """Make trials until the budget is spent; one that breaks a rule or fails is told, and the rest goes on.

        Raises:
            QinError: If the settings as they are cannot be run.
        """
        started = time.monotonic()
        self._try_default()
        self._take_up_interrupted()
        while budget.num_trials is None or self._num_begun < budget.num_trials:
            if budget.minutes is not None and time.monotonic() - started >= 60.0 * budget.minutes:
                break
            self._try_next(budget)

    def tried(self) -> list[Tried]:
        """All trials but that of the settings as they are, in order."""
        states = self._optuna.trial.TrialState
        return [
            Tried(
                number=number,
                settings=self._decoded(one.params),
                state=one.state.name.lower(),
                selection_loss=one.value if one.state == states.COMPLETE else None,
                num_checks=len(one.intermediate_values),
                error=one.user_attrs.get(_ERROR),
            )
            for number, one in enumerate(self._begun(), 1)
        ]

    @property
    def _num_begun(self) -> int:
        return sum(1 for _ in self._begun())

    def _begun(self) -> "Iterator[optuna.trial.FrozenTrial]":
        """Trials that were drawn and have ended, each once."""
        for one in self._study.get_trials(deepcopy=False):
            if one.state.is_finished() and not {_INTERRUPTED, _DEFAULT} & set(one.user_attrs):
                yield one

    def _try_default(self) -> None:
        """Run the settings as they are, and let the search know of them where they lie in its space."""
        # In the study, so that a search that goes on does not run the settings as they are again.
        if any(_DEFAULT in one.user_attrs for one in self._study.get_trials(deepcopy=False)):
            return
        checks: list[Check] = []

        def on_check(check: Check) -> bool:
            checks.append(check)
            return True

        judged = self._run(self._space.fixed, on_check=on_check)
        log.info("settings as they are: log loss %.5f of the selection half", judged.selection_loss)
        encoded = self._encoded(settings_of(self._base, self._space.dimensions))
        self._study.add_trial(
            self._optuna.trial.create_trial(
                # Outside of the space TPE cannot learn from it, but it is still remembered.
                params=encoded or {},
                distributions=self._distributions if encoded else {},
                value=judged.selection_loss,
                intermediate_values={number: check["val_log_loss"] for number, check in enumerate(checks)},
                user_attrs={_DEFAULT: True},
            )
        )

    def _take_up_interrupted(self) -> None:
        """Draw the trial that was at work when the search was killed once more."""
        for one in self._study.get_trials(states=(self._optuna.trial.TrialState.RUNNING,)):
            self._storage.set_trial_user_attr(one._trial_id, _INTERRUPTED, True)
            self._study.tell(one.number, state=self._optuna.trial.TrialState.FAIL)
            # Drawn to its end: what it had drawn is tried again, without drawing anew.
            if set(one.params) == set(self._distributions):
                self._study.enqueue_trial(one.params)

    def _try_next(self, budget: Budget) -> None:
        number = self._num_begun + 1
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        # A sampler per trial: its generator has no state that an interrupted search would have lost.
        self._study.sampler = self._optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed)
        trial = self._study.ask(self._distributions)
        settings = self._decoded(trial.params)
        states, num_checks = self._optuna.trial.TrialState, 0

        def on_check(check: Check) -> bool:
            nonlocal num_checks
            trial.report(check["val_log_loss"], num_checks)
            num_checks += 1
            return not trial.should_prune()

        try:
            judged = self._run({**self._space.fixed, **settings}, on_check=on_check)
        except StoppedError:
            self._study.tell(trial, state=states.PRUNED)
            shown = f"stopped at check {num_checks}"
        except QinError as error:
            trial.set_user_attr(_ERROR, str(error))
            self._study.tell(trial, state=states.FAIL)
            shown = f"failed: {error.lines[0]}"
        else:
            self._study.tell(trial, judged.selection_loss)
            shown = f"log loss {judged.selection_loss:.5f}"
        total = "" if budget.num_trials is None else f"/{budget.num_trials}"
        log.info("[%d%s] %s: %s", number, total, in_line(settings), shown)

    def _distribution(self, one: Range | Choice) -> "optuna.distributions.BaseDistribution":
        kinds = self._optuna.distributions
        found: optuna.distributions.BaseDistribution
        if isinstance(one, Choice):
            # As JSON, because Optuna stores plain values alone, and choices may be lists.
            found = kinds.CategoricalDistribution([json.dumps(value) for value in one.values])
        elif one.is_whole:
            found = kinds.IntDistribution(int(one.low), int(_last(one)), log=one.is_log, step=int(one.step or 1))
        else:
            found = kinds.FloatDistribution(one.low, _last(one), log=one.is_log, step=one.step)
        return found

    def _decoded(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of what was drawn."""
        return {
            key: one.value(drawn[key]) if isinstance(one, Range) else json.loads(drawn[key])
            for key, one in self._space.dimensions.items()
            if key in drawn
        }

    def _encoded(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """What would have been drawn for settings; None where they lie outside of the space."""
        if not all(_holds(one, settings[key]) for key, one in self._space.dimensions.items()):
            return None
        return {
            key: json.dumps(settings[key]) if isinstance(one, Choice) else settings[key]
            for key, one in self._space.dimensions.items()
        }


@contextmanager
def study_errors(file: Path) -> Iterator[None]:
    """Turn what the database of the studies says into one line that names its file.

    Raises:
        ArtifactError: If it cannot be read or written.
        ConfigError: If Optuna is not installed.
    """
    kinds = (_optuna().exceptions.StorageInternalError, import_module("sqlalchemy.exc").SQLAlchemyError)
    try:
        yield
    except kinds as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"{file}: the studies cannot be read or written ({said}); the disk may be full, or the file damaged: "
            "without it a search begins anew"
        ) from error


def _last(one: Range) -> float:
    """The largest value of a range, which the last step may not reach."""
    if one.step is None:
        return one.high
    num_steps = math.floor((one.high - one.low) / one.step + _STEP_ERROR)
    return round(one.low + num_steps * one.step, 12)  # 0.1 + 2 * 0.1 is 0.3


def _holds(one: Range | Choice, value: Any) -> bool:
    """Whether a value could have been drawn."""
    if isinstance(one, Choice):
        return json.dumps(value) in [json.dumps(known) for known in one.values]
    if not isinstance(value, int | float) or isinstance(value, bool) or not one.low <= value <= one.high:
        return False
    step = one.step or (1 if one.is_whole else None)
    if step is None or one.is_log:
        return not one.is_whole or value == int(value)
    num_steps = (value - one.low) / step
    return abs(num_steps - round(num_steps)) < _STEP_ERROR


def settings_of(base: Params, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The values that settings have for dotted keys."""
    tree, found = base.model_dump(mode="json"), {}
    for dotted in keys:
        node: Any = tree
        for key in dotted.split("."):
            node = node.get(key) if isinstance(node, dict) else None  # one of a mapping's own keys may not be there
        found[dotted] = node
    return found


def in_line(settings: Mapping[str, Any]) -> str:
    """Settings in one line, as they would be set."""
    return " ".join(f"{key}={_word(value)}" for key, value in settings.items())


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 -- an extra, and a second
    except ImportError as error:
        raise ConfigError('a search needs the package optuna: pip install "qin-ctr[tune]"; --grid does not') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
