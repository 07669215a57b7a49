"""Click rate of a row's value beside what is in the history: what clickers of this value had read before.

For a sequence and a categorical field, each kept item of a row's history makes a pair with the row's value. A pair's
click rate is smoothed and measured as any other (see `rates`), and the row is given the mean over its history. For
trees, which see no history, this stands for the attention; where clicks are few it learns from all items at once.

Pairs are far more than rows, so they are counted in a fixed number of slots by a hash of both buckets; pairs that share
a slot share its counts, as values that share a bucket do. Rows are read from the file as often as the steps of `Past`
name them, and never kept.

Source: the rate of each pair is that of `rates`; its mean in log-odds is the naive Bayes classifier's score of the
history as a bag of items, over its length (Manning, Raghavan and Schuetze 2008, section 13.2).
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qin.columns.buckets import PADDING_BUCKET
from qin.columns.counted import RATE
from qin.columns.schema import Schema
from qin.features.counting import Counts, KeyCounts, Labels, Rows
from qin.features.past import Past, rows_beside
from qin.features.rates import Prior, Values, measure
from qin.runtime.jit import njit
from qin.runtime.seeds import mix
from qin.shards.files import RowReader

NUM_SLOTS = 1 << 20  # 4 MB of rates; a quarter of it lost 0.001 AUC of the measure on the sample log
_CHUNK_ROWS = 16384

_Buckets = npt.NDArray[Any]


@njit(nogil=True, inline="always")
def _slot(item: Any, value: Any, num_values: np.uint64, num_slots: int) -> np.uint64:
    # Mixed, or the slot of a pair would be known by its value alone where a field has 2^k buckets.
    return mix(np.uint64(item) * num_values + np.uint64(value)) & np.uint64(num_slots - 1)


@njit(nogil=True)
def _count(
    items: _Buckets, value: _Buckets, label: Labels, num_values: np.uint64, sign: int, clicks: Counts, rows: Counts
) -> None:
    """Add the pairs of these rows, or with sign -1 take them away."""
    for i in range(value.size):
        for k in range(items.shape[1]):
            if items[i, k] != PADDING_BUCKET:
                at = _slot(items[i, k], value[i], num_values, rows.size)
                rows[at] = np.uint32(np.int64(rows[at]) + sign)
                clicks[at] = np.uint32(np.int64(clicks[at]) + sign * np.int64(label[i]))


@njit(nogil=True)
def _mean_rates(items: _Buckets, value: _Buckets, num_values: np.uint64, rates: Values, out: Values) -> None:
    for i in range(value.size):
        total, length = 0.0, 0
        for k in range(items.shape[1]):
            if items[i, k] != PADDING_BUCKET:
                total += rates[_slot(items[i, k], value[i], num_values, rates.size)]
                length += 1
        out[i] = np.float32(total / length if length else 0.0)


class HistoryPair(NamedTuple):
    """A sequence and a categorical field.

    Attributes:
        group: Of the sequence in a prepared file.
        column: Of the field among the categorical ones.
        num_values: Buckets of the field.
    """

    group: str
    column: int
    num_values: np.uint64

    @classmethod
    def of(cls, schema: Schema, sequence: str, name: str) -> "HistoryPair":
        """Find both in a schema."""
        column = [field.name for field in schema.categorical].index(name)
        return cls(f"sequence.{sequence}", column, np.uint64(schema.categorical[column].num_buckets))

    def mean_rates(self, arrays: Mapping[str, _Buckets], rates: Values) -> Values:
        """Each row's mean rate, `(n,)`.

        Args:
            arrays: Groups `categorical` and that of the sequence, `(n, width)` each.
            rates: Of each slot.
        """
        items = arrays[self.group]
        out = np.empty(len(items), np.float32)
        _mean_rates(items, arrays["categorical"][:, self.column], self.num_values, rates, out)
        return out


def slot_rates(counts: KeyCounts, prior: Prior) -> Values:
    """The rate of each slot or key, `(n,)`; 0 where no row was counted."""
    return measure(RATE, counts, np.zeros(1, np.int64), prior)


def rates_of_keys(keys: npt.NDArray[np.uint64], counts: KeyCounts, prior: Prior) -> Values:
    """The rate of each of `NUM_SLOTS` slots.

    Args:
        keys: Slots that counted a row, `(n,)`.
        counts: Theirs.
        prior: For the rates.
    """
    rates = np.zeros(NUM_SLOTS, np.float32)
    rates[keys.astype(np.int64)] = slot_rates(counts, prior)
    return rates


def fit_history(
    reader: RowReader, pair: HistoryPair, *, label: Labels, past: Past, prior: Prior
) -> tuple[npt.NDArray[np.uint64], KeyCounts, Values]:
    """Count the pairs of the fitted rows, and measure every row.

    1. At each step of the past, count the rows that become known and take away those that must not be.
    2. Give the step's rows their mean rate by what is counted then.
    3. At the end all fitted rows are counted: give all other rows theirs.

    Args:
        reader: Prepared train file.
        pair: What to count.
        label: Of each row, `(num_rows,)`.
        past: The fitted rows, and what each may know of the others.
        prior: For the rates.

    Returns:
        The slots that counted a fitted row, ascending, their counts, and each row's measure, `(num_rows,)`.
    """
    counts = KeyCounts(np.zeros(NUM_SLOTS, np.uint32), np.zeros(NUM_SLOTS, np.uint32))
    out = np.zeros(reader.num_rows, np.float32)

    def count(rows: Rows, sign: int) -> None:
        for part, arrays in chunks_of(reader, pair, rows):
            value = arrays["categorical"][:, pair.column]
            _count(arrays[pair.group], value, label[part], pair.num_values, sign, *counts)

    def give(rows: Rows) -> None:
        # Of all slots, once for each step: a logarithm for every item that is read would be most of the time.
        rates = slot_rates(counts, prior)
        for part, arrays in chunks_of(reader, pair, rows):
            out[part] = pair.mean_rates(arrays, rates)

    for step in past.steps():
        count(step.learned, 1)
        # After what is learned, so that all that is taken away is counted by then: no count falls below 0.
        count(step.hidden, -1)
        if step.read.size:
            give(step.read)
    give(rows_beside(past, reader.num_rows))
    used = np.flatnonzero(counts.rows)
    return used.astype(np.uint64), KeyCounts(counts.clicks[used], counts.rows[used]), out


def chunks_of(reader: RowReader, pair: HistoryPair, rows: Rows) -> Iterator[tuple[Rows, dict[str, _Buckets]]]:
    """The wanted rows in the file's order, a few at a time: their numbers, and their buckets by group."""
    rows = np.sort(rows)
    cuts = np.flatnonzero(np.diff(rows // _CHUNK_ROWS)) + 1
    for part in np.split(rows, cuts):
        if part.size:  # one read from its first row to its last: shards are fixed-width, a read per row would be many
            start, stop = int(part[0]), int(part[-1]) + 1
            yield part, {name: reader.read(name, start, stop)[part - start] for name in ("categorical", pair.group)}
