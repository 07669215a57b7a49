"""What a search reads of a run: the loss of the half that decides, and estimates on the half that is reported.

A search chooses by the selection half alone, however many trials it makes, so that the report half stays unspoilt: what
it says of the winner is not too good because the winner was chosen.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qin.calibrate.report import reported_base_rate
from qin.experiments.compare import calibrated_logits, verdict
from qin.experiments.runs import Run
from qin.metrics.definitions import AP, AUC, LOG_LOSS, Rows, estimates
from qin.metrics.estimate import Estimate, RankedBy
from qin.metrics.intervals import NORMAL_975
from qin.metrics.logits import IntArray
from qin.metrics.paired import Difference, paired_difference
from qin.runtime.errors import DataError
from qin.runtime.sources import Source
from qin.shards.folds import selection_rows

_REPORTED = (LOG_LOSS, AP, AUC)
_WORDS = {
    "B better": "better",
    "B likely better": "likely better",
    "A likely better": "likely worse",
    "A better": "worse",
}


@dataclass(frozen=True)
class Judged:
    """Figures of one run.

    Attributes:
        selection_loss: Log loss of the selection half, calibrated: what a search makes small.
        rows: Those of the report half, calibrated.
        numbers: Their numbers in the train file, `(n,)`.
    """

    selection_loss: float
    rows: Rows
    numbers: IntArray

    @classmethod
    def of(cls, run: Run, *, train: Source | None) -> "Judged":
        """Read a run.

        Args:
            run: The run.
            train: The raw log, for shifts by segment.

        Raises:
            DataError: If the report half holds one class only.
        """
        scored = run.scored
        logit, reported = calibrated_logits(run, train=train), scored.is_report == 1
        if len(np.unique(scored.label[reported])) < 2:
            raise DataError(
                f"{run.name}: the report half of the validation fold holds one class only; enlarge the fold"
            )
        decides = selection_rows(scored.label, is_val=np.ones(reported.size, np.bool_), is_report=reported)
        loss = LOG_LOSS.statistic(Rows(logit[decides], scored.label[decides]))
        base_rate = reported_base_rate(run.reports)
        rows = Rows(logit[reported], scored.label[reported], base_rate=base_rate)
        return cls(loss, rows, scored.row[reported])

    @cached_property
    def reported(self) -> dict[str, Estimate]:
        """Log loss, AP and AUC of the report half."""
        return estimates(_REPORTED, self.rows)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: The mean.
        standard_error: Of it, over the seeds; None of a single one.
    """

    value: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """The mean of values."""
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error)


def differences(base: Sequence[Judged], other: Sequence[Judged], *, cluster: IntArray | None) -> dict[str, Difference]:
    """The figures of the report half of one setting less those of another, over the seeds that both have.

    A difference varies with the rows that happen to be in the half and with the seed of training. The first is seen in
    the mean over seeds of what each row contributes, the second in how the differences of the seeds, all of the same
    rows, scatter; the variance is their sum.

    Args:
        base: Runs of the one setting, a seed each.
        other: Runs of the other with the same seeds.
        cluster: Codes of the report half's clusters, `(n,)`; None for rows.

    Returns:
        Log loss, AP and AUC by name.

    Raises:
        DataError: If the runs report different rows.
    """
    for run in (*base, *other):
        if not np.array_equal(run.numbers, base[0].numbers):
            raise DataError("the runs report different rows, so that they cannot be compared")
    found = {}
    for name in base[0].reported:
        first, second = (_mean([run.reported[name] for run in runs]) for runs in (base, other))
        paired = paired_difference(first, second, is_positive=base[0].rows.is_positive, cluster=cluster)
        of_seeds = [b.reported[name].value - a.reported[name].value for a, b in zip(base, other, strict=True)]
        found[name] = _with_seeds(paired, Mean.of(of_seeds).standard_error)
    return found


def in_words(name: str, difference: Difference) -> str:
    """What a difference from the default means: `better`, `likely better`, `noise`, `likely worse`, `worse`."""
    word = verdict(name, difference)
    return _WORDS.get(word, word)


def _mean(of: Sequence[Estimate]) -> Estimate:
    # With few clicks an AP is resampled: its mean over seeds is, with the rankings of all of them, each by its share.
    share = 1.0 / len(of)
    ranked = tuple(RankedBy(share * one.weight, one.logit) for estimate in of for one in estimate.ranked)
    influence = np.mean([estimate.influence for estimate in of], axis=0)
    return Estimate(statistics.fmean(estimate.value for estimate in of), influence, ranked)


def _with_seeds(paired: Difference, error_of_seeds: float | None) -> Difference:
    """The difference with the scatter of the seeds in its error; without it, where there is one seed."""
    if error_of_seeds is None or paired.standard_error is None:
        return paired
    # Normal from here on, also where clicks are few: of seeds there are never enough to draw from.
    error = math.hypot(paired.standard_error, error_of_seeds)
    reach, change = NORMAL_975 * error, paired.difference
    z = change / error if error else None
    return replace(paired, standard_error=error, lower=change - reach, upper=change + reach, z=z)
