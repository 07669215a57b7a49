"""When the loop checks, what it keeps, when it stops, and at which rate each step is made.

The network's only parameter counts its steps' rates, so that weights tell which steps they have seen; scores are
scripted.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from qin.runtime.errors import TrainingError
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows
from qin.train.loop import Budget, LoopResult, TrainingLoop, ValidationScores
from qin.train.watch import Watch
from tests.train.runs import plain_params

BATCH_SIZE = 4


class Counter(nn.Module):
    """One parameter, whose value the optimizer below makes the sum of all rates so far."""

    def __init__(self) -> None:
        super().__init__()
        self.total = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(
        self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: object, *, first_row: int = 0
    ) -> torch.Tensor:
        return 0.0 * self.total.expand(len(categorical))


class Summing(torch.optim.SGD):
    """Adds the rate to the parameter, and keeps it."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__(network.parameters(), lr=lr)
        self.rates = list[float]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        self.rates.append(group["lr"])
        with torch.no_grad():
            group["params"][0] += group["lr"]


@dataclass
class InOrder:
    """The selected rows in batches, and what was asked for."""

    batch_size: int = BATCH_SIZE
    asked: list[tuple[int, int]] = field(default_factory=list)

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        return int(is_selected.sum()) // self.batch_size

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        self.asked.append((epoch, first_step))
        for _ in range(first_step, self.num_batches(is_selected)):
            label = torch.tensor([1.0] + [0.0] * (BATCH_SIZE - 1))
            yield Batch(np.arange(BATCH_SIZE), torch.zeros(BATCH_SIZE, 1), torch.zeros(BATCH_SIZE, 0), (), label)


class Script:
    """Log losses of the checks in order, the last again and again; notes the weights that each check has seen."""

    def __init__(self, *losses: float) -> None:
        self._losses = losses
        self.seen = list[float]()

    def __call__(self, network: Any) -> ValidationScores:
        network.eval()
        loss = self._losses[min(len(self.seen), len(self._losses) - 1)]
        self.seen.append(network.total.item())
        # A ranking that gets better while the loss gets worse must not decide.
        return ValidationScores(log_loss=loss, ap=loss / 2, auc=loss / 3)


@dataclass
class Run:
    """A finished run."""

    result: LoopResult
    weights: float
    rates: list[float]
    asked: list[tuple[int, int]]
    reported: list[int]


def run(
    folder: Path, stop: Callable[[Any], ValidationScores] | Budget, *, steps_per_epoch: int = 8, **changes: Any
) -> Run:
    """Train; the learning rate is 1 at its highest, so the weights are the number of steps at the full rate."""
    num_rows = BATCH_SIZE * steps_per_epoch
    network, rows = Counter(), InOrder()
    label = (np.arange(num_rows) % BATCH_SIZE == 0).astype(np.uint8)
    optimizer, reported = Summing(network, lr=1.0), list[int]()
    result = TrainingLoop(
        cast("Any", network),
        optimizer=optimizer,
        rows=TrainingRows(rows, np.ones(num_rows, np.bool_), label, TrainingPrior(base_rate=0.25), 0),
        params=plain_params(**changes),
        hard_negatives=None,
        stop=stop,
        checkpoints=CheckpointStore(folder, "run"),
        watch=Watch(lambda history: reported.append(len(history))),
    ).run()
    return Run(result, network.total.item(), optimizer.rates, rows.asked, reported)


@pytest.mark.parametrize(
    ("steps_per_epoch", "checks_per_epoch", "expected"),
    [(8, 4, [2, 4, 6, 8]), (10, 4, [3, 5, 8, 10]), (7, 1, [7]), (3, 4, [1, 2, 3]), (1, 4, [1])],
)
def test_checks_are_spread_evenly_over_an_epoch_and_end_it(
    tmp_path: Path, steps_per_epoch: int, checks_per_epoch: int, expected: list[int]
) -> None:
    script = Script(1.0)
    found = run(tmp_path, script, steps_per_epoch=steps_per_epoch, checks_per_epoch=checks_per_epoch, epochs=2)
    of_both = [*expected, *(steps_per_epoch + step for step in expected)]
    assert [record["step"] for record in found.result.history] == of_both
    assert script.seen == of_both, "the weights that were checked are those of the step"
    assert [record["epoch"] for record in found.result.history] == pytest.approx(
        [step / steps_per_epoch for step in of_both], rel=1e-12
    )
    assert found.reported == list(range(1, len(of_both) + 1))
    assert found.result.num_steps == len(found.rates) == 2 * steps_per_epoch


def test_a_record_says_what_the_check_found(tmp_path: Path) -> None:
    record = run(tmp_path, Script(0.6)).result.history[0]
    assert record == {
        "step": 8,
        "epoch": 1.0,
        "train_loss": pytest.approx(math.log(2.0)),
        "val_log_loss": 0.6,
        "val_ap": 0.3,
        "val_auc": pytest.approx(0.2),
        "lr": 1.0,
    }


def test_the_best_state_by_log_loss_is_kept_and_loaded(tmp_path: Path) -> None:
    """Neither the last state nor that of the best ranking; of equal losses the first."""
    found = run(tmp_path, Script(0.9, 0.5, 0.7, 0.5, 0.8), checks_per_epoch=4, epochs=2)
    assert (found.result.best_step, found.result.num_steps) == (4, 16)
    assert found.weights == 4.0
    assert found.result.plateau_steps == (), "a constant rate has none"


@pytest.mark.parametrize(("patience", "last"), [(1, 6), (2, 8), (3, 10)])
def test_patience_counts_checks_without_a_smaller_loss(tmp_path: Path, patience: int, last: int) -> None:
    """Also over the end of an epoch, and anew after each gain."""
    losses = [0.9, 0.8, *([0.85] * 10)]
    found = run(tmp_path, Script(*losses), checks_per_epoch=4, epochs=9, patience=patience)
    assert (found.result.best_step, found.result.num_steps, found.weights) == (4, last, 4.0)
    again = run(
        tmp_path / "again", Script(0.9, 0.95, 0.8, 0.85, 0.7, 0.75, 0.75), checks_per_epoch=4, epochs=9, patience=2
    )
    assert (again.result.best_step, again.result.num_steps) == (10, 14)


def test_the_last_epoch_ends_a_run_that_keeps_gaining(tmp_path: Path) -> None:
    found = run(tmp_path, Script(*(1.0 - 0.01 * number for number in range(12))), checks_per_epoch=4, epochs=3)
    assert (found.result.best_step, found.result.num_steps, found.weights) == (24, 24, 24.0)
    assert found.asked == [(0, 0), (1, 0), (2, 0)]


def test_a_budget_is_kept_to_the_step_without_checks(tmp_path: Path) -> None:
    """Beyond the epochs that are allowed, too, and the last state is the result."""
    found = run(tmp_path, Budget(num_steps=21), checks_per_epoch=4, epochs=2, patience=1)
    assert (found.result.num_steps, found.result.best_step, found.weights) == (21, 21, 21.0)
    assert not found.result.history
    assert not found.reported
    assert found.asked == [(0, 0), (1, 0), (2, 0)]
    exact = run(tmp_path / "exact", Budget(num_steps=16))
    assert (exact.weights, exact.asked) == (16.0, [(0, 0), (1, 0)])


def test_a_plateau_halves_the_rate_after_each_check_without_a_gain(tmp_path: Path) -> None:
    found = run(tmp_path, Script(0.9, 0.95, 0.8, 0.85), schedule="plateau", checks_per_epoch=4)
    assert found.rates == [1.0] * 4 + [0.5] * 4
    assert found.result.plateau_steps == (4, 8)
    assert [record["lr"] for record in found.result.history] == [1.0, 1.0, 0.5, 0.5]


def test_a_budget_halves_the_rate_where_it_is_told_to(tmp_path: Path) -> None:
    budget = Budget(num_steps=8, plateau_steps=(3, 6, 20))
    found = run(tmp_path, budget, schedule="plateau")
    assert found.rates == [1.0] * 3 + [0.5] * 3 + [0.25] * 2
    assert found.result.plateau_steps == (3, 6, 20)
    assert run(tmp_path / "constant", budget).rates == [1.0] * 8


def test_a_budget_repeats_the_rates_of_the_run_that_found_it(tmp_path: Path) -> None:
    checked = run(tmp_path / "a", Script(0.9, 0.95, 0.8, 0.85), schedule="plateau", checks_per_epoch=4)
    budget = Budget(num_steps=checked.result.num_steps, plateau_steps=checked.result.plateau_steps)
    assert run(tmp_path / "b", budget, schedule="plateau").rates == checked.rates


def test_warming_up_takes_at_most_a_quarter_of_an_epoch(tmp_path: Path) -> None:
    short = run(tmp_path / "short", Script(1.0), steps_per_epoch=16, warmup_steps=50, epochs=2).rates
    assert short == [0.25, 0.5, 0.75] + [1.0] * 29
    long = run(tmp_path / "long", Script(1.0), steps_per_epoch=40, warmup_steps=5).rates
    assert long == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 36)
    assert run(tmp_path / "one", Script(1.0), steps_per_epoch=1, warmup_steps=50).rates == [1.0]
    assert run(tmp_path / "none", Script(1.0), warmup_steps=0).rates == [1.0] * 8
    budget = run(tmp_path / "budget", Budget(num_steps=20), steps_per_epoch=16, warmup_steps=50).rates
    assert budget == short[:20]


def test_the_cosine_falls_over_the_epochs_that_are_allowed(tmp_path: Path) -> None:
    rates = run(tmp_path, Script(1.0), schedule="cosine", epochs=2).rates
    assert rates == pytest.approx([0.5 * (1.0 + math.cos(math.pi * step / 16)) for step in range(16)])
    beyond = run(tmp_path / "budget", Budget(num_steps=20), schedule="cosine", epochs=2).rates
    assert beyond == pytest.approx([*rates, 0.0, 0.0, 0.0, 0.0])


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("at", range(1, 24))
@pytest.mark.parametrize("is_budget", [False, True], ids=["checked", "budget"])
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, is_budget: bool
) -> None:
    """Killed before any step, checks and ends of epochs among them, with a checkpoint after every third step."""
    losses = [0.9, 0.8, 0.85, 0.7, 0.75, 0.76, 0.6, 0.65, 0.66, 0.67, 0.68, 0.69]

    stop: Any = Budget(num_steps=23, plateau_steps=(5, 11)) if is_budget else by_weights(losses)

    def go(folder: Path) -> Run:
        return run(folder, stop, checks_per_epoch=4, epochs=3, schedule="plateau", warmup_steps=2, checkpoint_steps=3)

    whole = go(tmp_path / "whole")
    step = TrainingLoop._train_step

    def dying(self: TrainingLoop, batch: Batch) -> None:
        if self._state.step == at:
            raise KilledError
        step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "_train_step", dying)
        if at < whole.result.num_steps:
            with pytest.raises(KilledError):
                go(tmp_path / "killed")
    found = go(tmp_path / "killed")
    assert found.result == whole.result
    assert found.weights == whole.weights
    assert found.rates == whole.rates[-len(found.rates) :]
    first = whole.result.num_steps - len(found.rates)
    assert first == (at // 3 * 3 if at < whole.result.num_steps else 0)
    assert found.asked[0] == (divmod(first, 8) if first % 8 or not first else (first // 8 - 1, 8))


def by_weights(losses: list[float]) -> Callable[[Any], ValidationScores]:
    """Scores that the weights alone decide, as a real check's."""
    known = dict[float, float]()

    def score(network: Any) -> ValidationScores:
        network.eval()
        loss = known.setdefault(network.total.item(), losses[min(len(known), len(losses) - 1)])
        return ValidationScores(log_loss=loss, ap=0.5, auc=0.5)

    return score


def test_an_ended_run_that_was_saved_is_not_made_again(tmp_path: Path) -> None:
    """Whether it ended by patience within an epoch or by the last epoch."""
    for name, script, epochs in (("patience", Script(0.5, 0.6), 9), ("epochs", Script(0.5, 0.4, 0.6, 0.7), 1)):
        network, rows = Counter(), InOrder()
        is_train = np.ones(8 * BATCH_SIZE, np.bool_)
        label = (np.arange(is_train.size) % BATCH_SIZE == 0).astype(np.uint8)
        loop = TrainingLoop(
            cast("Any", network),
            optimizer=Summing(network, lr=1.0),
            rows=TrainingRows(rows, is_train, label, TrainingPrior(base_rate=0.25), 0),
            params=plain_params(checks_per_epoch=4, patience=2, epochs=epochs),
            hard_negatives=None,
            stop=script,
            checkpoints=CheckpointStore(tmp_path / name, "run"),
            watch=Watch(),
        )
        first = loop.run()
        loop.save()
        again = run(tmp_path / name, script, checks_per_epoch=4, patience=2, epochs=epochs)
        assert again.result == first
        assert (again.rates, again.weights) == ([], first.best_step)


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the train fold has no rows to train on"):
        run(tmp_path, Script(1.0), steps_per_epoch=0)


def test_a_budget_that_ends_in_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(self: Summing, closure: Any = None) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(Summing, "step", overflow)
    with pytest.raises(TrainingError, match=r"the weights are not finite after step 1; lower train\.lr"):
        run(tmp_path, Budget(num_steps=1))
