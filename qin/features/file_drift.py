"""How a new file differs from the rows that a model was fitted on: new values, moved numbers, nulls, scores.

Rows come a batch at a time; memory does not depend on their number. A difference is large where it is beyond a bound
and beyond what so few rows may show by chance.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.features.drift import bin_counts, index_of_counts, tenths
from qin.features.reference import Arrays, Numbers, Reference, ValueCounter
from qin.features.scale import signed_log
from qin.metrics.logits import Float64Array

LARGE_INDEX = 0.25  # a major shift; see `drift`
LARGE_SHARE = 0.1  # of rows or values that are new, or null, beyond what there was
# A file has hundreds of columns with several figures each, and chance should name none of them.
_NUM_ERRORS = 4.0

Floats = npt.NDArray[np.floating[Any]]
_Compared = tuple[str, dict[str, Any], list[str]]  # a column, its figures, its large differences


class _Moments:
    """Count, sums and bins of one number."""

    def __init__(self, cuts: Float64Array) -> None:
        self.cuts = cuts
        self.counts = np.zeros(cuts.size + 1, np.int64)
        self.num_rows = 0
        self._total = 0.0

    def update(self, values: Float64Array, *, num_rows: int) -> None:
        self.counts += bin_counts(values, self.cuts)
        self.num_rows += num_rows
        self._total += float(values.sum())

    @property
    def num_values(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self._total / max(self.num_values, 1)


@dataclass(frozen=True)
class ScoreReference:
    """Logits of the validation fold, as the members are blended.

    Attributes:
        cuts: Their tenths.
        counts: Rows between them.
        mean: Their mean.
    """

    cuts: Float64Array
    counts: npt.NDArray[np.int64]
    mean: float

    @classmethod
    def of(cls, logit: Floats) -> "ScoreReference":
        """Of logits `(n,)`."""
        values = logit.astype(np.float64)
        cuts = tenths(values)
        return cls(cuts, bin_counts(values, cuts), float(values.mean()))


class FileDrift:
    """Compares the rows of a file with those that a model was fitted on.

    Args:
        schema: Of the prepared rows, without statistics.
        reference: What the fitted rows looked like.
        scores: Logits of the validation fold.
    """

    def __init__(self, schema: Schema, reference: Reference, scores: ScoreReference) -> None:
        self._schema, self._reference, self._scores = schema, reference, scores
        self._values = ValueCounter(schema, reference.used)
        self._numbers = {field.name: _Moments(np.array(reference.numbers[field.name].cuts)) for field in schema.numeric}
        self._logit = _Moments(scores.cuts)
        self._probability = 0.0

    def update(self, arrays: Arrays) -> None:
        """Add rows, as groups of a prepared file; numbers behind those of the schema are left out."""
        self._values.update(arrays)
        for column, moments in enumerate(self._numbers.values()):
            values = arrays["numeric"][:, column]
            moments.update(signed_log(values[~np.isnan(values)]), num_rows=values.size)

    def add_scores(self, logit: Floats, probability: Floats) -> None:
        """Add what rows are scored.

        Args:
            logit: As the members are blended, `(n,)`.
            probability: Calibrated, at the natural prior, `(n,)`.
        """
        self._logit.update(logit.astype(np.float64), num_rows=logit.size)
        self._probability += float(probability.sum(dtype=np.float64))

    def summary(self, *, base_rate: float) -> dict[str, Any]:
        """Plain JSON values: every column, the scores, and the large differences in words.

        Args:
            base_rate: Click rate that the probabilities are calibrated to.
        """
        columns, found = dict[str, dict[str, Any]](), list[str]()
        for name, facts, large in (*self._with_buckets(), *self._with_numbers()):
            columns[name] = facts
            found += large
        scores = {
            "psi": index_of_counts(self._scores.counts, self._logit.counts),
            "mean_logit": self._logit.mean,
            "mean_logit_validation": self._scores.mean,
            "mean_probability": self._probability / max(self._logit.num_rows, 1),
            "base_rate": base_rate,
        }
        noise = _index_noise(self._scores.counts, self._logit.counts)
        found += [f"scores {line}" for line in _large_index(scores["psi"], noise=noise)]
        return {"num_rows": self._values.num_rows, "large": found, "scores": scores, "columns": columns}

    def _with_buckets(self) -> Iterator[_Compared]:
        reference, counter = self._reference, self._values
        for field in (*self._schema.categorical, *self._schema.sequences):
            facts: dict[str, Any] = {
                "new": counter.new_share(field),
                "new_in_validation": reference.new_share[field.name],
                "null": counter.null_share(field),
                "null_in_train": reference.null_share[field.name],
            }
            if field.name in reference.mean_length:
                facts |= {"length": counter.mean_length(field), "length_in_train": reference.mean_length[field.name]}
            new = _large_new(facts, noise=_share_noise(counter.num_rows, reference.num_held))
            null = _large_null(facts, noise=_share_noise(counter.num_rows, reference.num_rows))
            yield field.name, facts, [f"{field.name} {line}" for line in (*new, *null)]

    def _with_numbers(self) -> Iterator[_Compared]:
        for name, moments in self._numbers.items():
            known = self._reference.numbers[name]
            counts = np.array(known.counts)
            facts: dict[str, Any] = {
                "psi": index_of_counts(counts, moments.counts),
                "shift": _shift(known, moments),
                "null": 1.0 - moments.num_values / max(moments.num_rows, 1),
                "null_in_train": known.null_share,
            }
            moved = _large_index(facts["psi"], noise=_index_noise(counts, moments.counts))
            null = _large_null(facts, noise=_share_noise(moments.num_rows, self._reference.num_sampled))
            yield name, facts, [f"{name} {line}" for line in (*moved, *null)]


def _shift(known: Numbers, moments: _Moments) -> float | None:
    """How far the mean has moved, in standard deviations of the fitted rows; None where they have none."""
    return (moments.mean - known.mean) / known.std if known.std and moments.num_values else None


def _share_noise(num_rows: int, num_known: int) -> float:
    """What a share of so many rows may differ by chance from that of the known ones."""
    # A share deviates most at one half, by 0.5 over the root of its rows.
    return _NUM_ERRORS * 0.5 * math.sqrt(1.0 / max(num_rows, 1) + 1.0 / max(num_known, 1))


def _index_noise(early: npt.NDArray[np.int64], late: npt.NDArray[np.int64]) -> float:
    """What the index of so few rows may be by chance: it times their harmonic number is a chi-square of the bins."""
    freedom, rows = early.size - 1, 1.0 / max(int(early.sum()), 1) + 1.0 / max(int(late.sum()), 1)
    return (freedom + _NUM_ERRORS * math.sqrt(2.0 * freedom)) * rows


def _large_index(psi: float, *, noise: float) -> Iterator[str]:
    if psi - noise > LARGE_INDEX:
        yield f"moved (PSI {psi:.2f})"


def _large_new(facts: dict[str, Any], *, noise: float) -> Iterator[str]:
    new, usual = facts["new"], facts["new_in_validation"]
    if new is not None and usual is not None and new - usual > LARGE_SHARE + noise:
        yield f"{new:.0%} new ({usual:.0%} in validation)"


def _large_null(facts: dict[str, Any], *, noise: float) -> Iterator[str]:
    if abs(facts["null"] - facts["null_in_train"]) > LARGE_SHARE + noise:
        yield f"{facts['null']:.0%} null ({facts['null_in_train']:.0%} in train)"


def in_one_line(large: Sequence[str], *, most: int = 5) -> str:
    """The large differences in one line, those of the first columns by name."""
    rest = f", and {len(large) - most} more" if len(large) > most else ""
    return ", ".join(large[:most]) + rest
