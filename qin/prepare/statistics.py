"""What prepare counts while it encodes: missing values, base rate, distinct values and hash collisions, lengths.

Distinct hashes and buckets are exact while hashes are few, and within about 1% otherwise. Memory is bounded. A few
hundred recent hashes are remembered, because most columns repeat few values.

Source: Wegman's adaptive sampling (Flajolet, Computing 43, 1990). The answer does not depend on order or batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.buckets import FIRST_VALUE_BUCKET
from qin.columns.schema import Field, FieldKind, Schema
from qin.prepare.encode import EncodedBatch
from qin.raw.hashing import bucket_of
from qin.runtime.jit import njit
from qin.shards.files import label_groups

LABELS = "labels"  # of a file's statistics: what is counted of each of several labels
_LONGEST_COUNTED = 1 << 16
_QUANTILES = (("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p99", 0.99))


class _Lengths:
    """Exact distribution of sequence lengths; lengths of 65,536 and more are counted together."""

    def __init__(self) -> None:
        self._counts = np.zeros(_LONGEST_COUNTED + 1, np.int64)
        self._total = 0
        self._max = 0

    def update(self, lengths: Any) -> None:
        self._counts += np.bincount(np.minimum(lengths, _LONGEST_COUNTED), minlength=_LONGEST_COUNTED + 1)
        self._total += int(lengths.sum())
        self._max = max(self._max, int(lengths.max(initial=0)))

    @property
    def state(self) -> npt.NDArray[np.int64]:
        """Counts by length, without the empty end, behind their total and the largest length."""
        return np.concatenate([[self._total, self._max], np.trim_zeros(self._counts, "b")])

    def add(self, state: npt.NDArray[np.int64]) -> None:
        """Add what another has counted."""
        self._counts[: state.size - 2] += state[2:]
        self._total += int(state[0])
        self._max = max(self._max, int(state[1]))

    def summary(self, max_len: int) -> dict[str, float | int]:
        num_rows = int(self._counts.sum())
        cumulative = np.cumsum(self._counts)
        quantiles = {name: int(np.searchsorted(cumulative, share * num_rows)) for name, share in _QUANTILES}
        return {
            "mean": self._total / num_rows,
            **quantiles,
            "max": self._max,
            "empty": int(self._counts[0]),
            "truncated": int(self._counts[max_len + 1 :].sum()),
        }


class FileStatistics:
    """Accumulates over the batches of one file; independent of how rows are batched."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._num_rows = 0
        self._num_clicks = np.zeros(len(schema.labels), np.int64)
        self._numbers = [field.name for field in schema.columns if field.kind == FieldKind.NUMERIC]
        self._num_missing = np.zeros(len(self._numbers), np.int64)
        self._num_null = dict.fromkeys((field.name for field in schema.categorical), 0)
        self._distinct = {field.name: VocabularyCounter(field.num_buckets) for field in schema.categorical}
        self._lengths = {field.name: _Lengths() for field in schema.sequences}

    def update(self, batch: EncodedBatch) -> None:
        """Add one encoded batch."""
        self._num_rows += len(batch.arrays["categorical"])
        for number, group in enumerate(label_groups(self._schema)):
            if group in batch.arrays:
                self._num_clicks[number] += batch.arrays[group].sum()
        self._num_missing += batch.num_missing
        for field in self._schema.categorical:
            hashes, is_null = batch.hashes[field.name]
            self._num_null[field.name] += int(is_null.sum())
            self._distinct[field.name].update(hashes, is_null)
        for name, lengths in batch.lengths.items():
            self._lengths[name].update(lengths)

    @property
    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was counted, as arrays; see `add`."""
        counters, lengths = list(self._distinct.values()), [lengths.state for lengths in self._lengths.values()]
        empty = [np.empty(0, np.uint64)]
        return {
            "rows": np.array([self._num_rows, *self._num_clicks]),
            "missing": self._num_missing,
            "null": np.array(list(self._num_null.values()), np.int64),
            "level": np.array([counter.level for counter in counters], np.int64),
            "num_values": np.array([counter.values.size for counter in counters], np.int64),
            "values": np.concatenate(empty + [counter.values for counter in counters]),
            "used": np.packbits(np.concatenate([np.empty(0, np.bool_), *(counter.used for counter in counters)])),
            "num_lengths": np.array([state.size for state in lengths], np.int64),
            "lengths": np.concatenate([np.empty(0, np.int64), *lengths]),
        }

    def add(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add what was counted of another file; the order of files does not show."""
        self._num_rows += int(state["rows"][0])
        self._num_clicks += state["rows"][1:]
        self._num_missing += state["missing"]
        for name, count in zip(self._num_null, state["null"].tolist(), strict=True):
            self._num_null[name] += count
        counters = list(self._distinct.values())
        used = np.split(np.unpackbits(state["used"]), np.cumsum([counter.used.size for counter in counters]))
        values = np.split(state["values"], np.cumsum(state["num_values"]))
        # Not strict: behind the last cut `np.split` gives one part more, of nothing or of the bits that fill the last
        # byte.
        for counter, level, found, taken in zip(counters, state["level"].tolist(), values, used, strict=False):
            counter.add(found, level=level, used=taken.astype(np.bool_))
        lengths = np.split(state["lengths"], np.cumsum(state["num_lengths"]))
        for counted, added in zip(self._lengths.values(), lengths, strict=False):
            counted.add(added)

    def summary(self) -> dict[str, Any]:
        """Plain JSON values with stable keys; a collision is a distinct value that shares another one's bucket."""
        nulls = {**self._num_null}
        nulls |= {name: int(n) for name, n in zip(self._numbers, self._num_missing, strict=True)}
        return {
            "num_rows": self._num_rows,
            "nulls": {name: count for name, count in nulls.items() if count},
            "vocabularies": {field.name: self._vocabulary(field) for field in self._schema.categorical},
            "sequences": {f.name: self._lengths[f.name].summary(f.max_len) for f in self._schema.sequences},
        }

    def label_summaries(self) -> dict[str, dict[str, float | int]]:
        """Clicks and base rate of each label of a file that has them."""
        return {
            name: {"num_clicks": count, "base_rate": count / self._num_rows}
            for name, count in zip(self._schema.labels, self._num_clicks.tolist(), strict=True)
        }

    def _vocabulary(self, field: Field) -> dict[str, Any]:
        counter = self._distinct[field.name]
        return {
            "num_distinct": counter.estimate,
            "is_exact": counter.is_exact,
            "num_buckets": field.num_buckets,
            "collisions": max(0, counter.estimate - counter.num_used),  # an estimate may be too low
        }


def headlines(statistics: Mapping[str, Any], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is worth a column in `dvc exp show`, for each label: they differ in the clicks alone."""
    counts = statistics.get(LABELS, {})
    return {label: headline({**statistics, **counts.get(label, {})}) for label in labels}


def headline(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth a column in `dvc exp show`: totals instead of a figure for each of a hundred input columns."""
    nulls = list(statistics["nulls"].values())
    collisions = [figures["collisions"] for figures in statistics["vocabularies"].values()]
    return {
        **{key: statistics[key] for key in ("num_rows", "num_clicks", "base_rate") if key in statistics},
        "nulls": {"columns": len(nulls), "values": sum(nulls)},
        "collisions": {"columns": sum(count > 0 for count in collisions), "values": sum(collisions)},
        "sequences": statistics["sequences"],
    }


# Half full at most, or the probes of an open table get long.
_CAPACITY = 1 << 14
_SLOTS = 1 << 15
_FIRST_SLOTS = 1 << 6  # most columns of a wide log hold few values; 20,000 full tables would take 5 GB
_RECENT_BITS = 8
_RECENT = 1 << _RECENT_BITS


@njit(nogil=True)
def _place(slots: Any, value: np.uint64) -> int:
    """Insert into an open-addressing table in which 0 means empty; returns 1 if the value is new."""
    mask = np.uint64(slots.size - 1)
    position = value & mask
    while slots[position] != 0:
        if slots[position] == value:
            return 0
        position = (position + np.uint64(1)) & mask
    slots[position] = value
    return 1


@njit(nogil=True)
def _insert(
    slots: Any, used: Any, count: int, level: int, hashes: Any, is_null: Any, start: int
) -> tuple[int, int, int]:
    """Mark each hash's bucket, insert the hashes whose top `level` bits are zero; raise the level when it is full.

    Returns the new count and level, and where it stopped: at the end, or where the table must grow first.
    """
    recent = np.zeros(_RECENT, np.uint64)
    num_values = np.uint64(used.size - FIRST_VALUE_BUCKET)
    for i in range(start, hashes.size):
        if is_null[i]:
            continue
        value = hashes[i] | np.uint64(1)  # 0 marks an empty slot
        place = hashes[i] >> np.uint64(64 - _RECENT_BITS)
        if recent[place] == hashes[i] and value != 1:
            continue
        recent[place] = hashes[i]
        used[bucket_of(hashes[i], num_values)] = True
        if level and value >> np.uint64(64 - level):
            continue
        count += _place(slots, value)
        # The leading bits decide what stays, so the place in the table comes from the others: those that stay still
        # spread.
        while count > _CAPACITY:
            level += 1
            kept = slots[(slots != 0) & (slots >> np.uint64(64 - level) == 0)]
            slots[:] = 0
            count = kept.size
            for k in range(kept.size):
                _place(slots, kept[k])
        if slots.size < _SLOTS and 2 * count > slots.size:
            return count, level, i + 1
    return count, level, hashes.size


@njit(nogil=True)
def _placed(values: Any, num_slots: int) -> Any:
    """A table of so many slots that holds the values that are not 0."""
    slots = np.zeros(num_slots, np.uint64)
    for value in values:
        if value != 0:
            _place(slots, value)
    return slots


def _at_level(values: npt.NDArray[np.uint64], level: int) -> npt.NDArray[np.uint64]:
    return values[values >> np.uint64(64 - level) == 0] if level else values


class VocabularyCounter:
    """Counts distinct 64-bit hashes, exactly up to 16,384 of them, and the buckets that they take.

    Args:
        num_buckets: Buckets of the vocabulary, padding and null included.
    """

    def __init__(self, num_buckets: int) -> None:
        self._slots = np.zeros(_FIRST_SLOTS, np.uint64)
        self._used = np.zeros(num_buckets, np.bool_)
        self._count = 0
        self._level = 0

    def update(self, hashes: npt.NDArray[np.uint64], is_null: npt.NDArray[np.bool_]) -> None:
        """Add hashes `(num_rows,)`, leaving out the nulls."""
        done = 0
        while done < hashes.size:
            if self._slots.size < _SLOTS and 2 * self._count > self._slots.size:
                self._slots = _placed(self._slots, min(4 * self._slots.size, _SLOTS))
            self._count, self._level, done = _insert(
                self._slots, self._used, self._count, self._level, hashes, is_null, done
            )

    @property
    def level(self) -> int:
        """How many leading bits of a hash must be zero for it to be counted."""
        return int(self._level)

    @property
    def values(self) -> npt.NDArray[np.uint64]:
        """The hashes that are counted, ascending; their last bit is set."""
        return np.sort(self._slots[self._slots != 0])

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Whether a value has taken each bucket, `(num_buckets,)`."""
        return self._used

    def add(self, values: npt.NDArray[np.uint64], *, level: int, used: npt.NDArray[np.bool_]) -> None:
        """Add what another has counted: its values, its level and the buckets taken."""
        self._used |= used
        self._level = max(self._level, level)
        kept = np.union1d(self.values, values)
        while (kept := _at_level(kept, self._level)).size > _CAPACITY:
            self._level += 1
        size = _FIRST_SLOTS
        while size < _SLOTS and 2 * kept.size > size:
            size *= 4
        self._slots, self._count = _placed(kept, min(size, _SLOTS)), kept.size

    @property
    def estimate(self) -> int:
        """Number of distinct hashes seen."""
        return int(self._count) << int(self._level)

    @property
    def is_exact(self) -> bool:
        """Whether the estimate is the true number."""
        return self._level == 0

    @property
    def num_used(self) -> int:
        """Buckets that values have taken."""
        return int(self._used.sum())
