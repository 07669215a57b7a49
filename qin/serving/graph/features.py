"""What prepare makes of raw values, and the statistics of the train fold, as tensor operations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from qin.columns.buckets import NULL_BUCKET, PADDING_BUCKET
from qin.columns.schema import Field, Schema
from qin.features.cosines import NUM_NEWEST, NUM_TOP, CosineTable
from qin.features.derived import HITS, LENGTH, SHARE, SINCE
from qin.features.impression import Distance
from qin.network.words import mix, signed
from qin.raw.hashing import seed_of
from qin.serving.graph.words import buckets_of, hash_of_integers

Inputs = Mapping[str, torch.Tensor]


_LARGEST = 2**63 - 1


def _constant(values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


class Categories(nn.Module):
    """Buckets and unseeded hashes of the categorical columns.

    Args:
        schema: Of the rows.
        is_integer: Whether each column's input is its value; otherwise it is the value's 64-bit hash.
    """

    seed: torch.Tensor
    num_values: torch.Tensor
    is_integer: torch.Tensor

    def __init__(self, schema: Schema, is_integer: list[bool]) -> None:
        super().__init__()
        fields = schema.categorical
        self.register_buffer("seed", _constant([signed(int(seed_of(f.vocabulary, schema.hash_seed))) for f in fields]))
        self.register_buffer("num_values", _constant([f.num_buckets - 2 for f in fields]))
        self.register_buffer("is_integer", _constant(is_integer, torch.bool))

    def forward(self, values: torch.Tensor, is_null: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets and hashes `(n, fields)` of inputs `(n, fields)`."""
        unseeded = torch.where(self.is_integer, hash_of_integers(values), values)
        return torch.where(is_null, NULL_BUCKET, buckets_of(unseeded, self.seed, self.num_values)), unseeded


class History(nn.Module):
    """Buckets of a history's kept items, and what is said of the whole of it.

    Args:
        schema: Of the rows.
        field: The sequence.
        is_integer: Whether tokens come as integers; otherwise as their 64-bit hashes.
    """

    def __init__(self, schema: Schema, field: Field, *, is_integer: bool) -> None:
        super().__init__()
        self.max_len, self.is_integer = field.max_len, is_integer
        self.seed, self.num_values = signed(int(seed_of(field.vocabulary, schema.hash_seed))), field.num_buckets - 2
        derived = {f.name for f in schema.numeric}
        self.measures = [name for name in (LENGTH, HITS, SINCE, SHARE) if f"{field.name}.{name}" in derived]
        names = [f.name for f in schema.categorical]
        self.own = names.index(field.vocabulary) if field.vocabulary in names else None

    def forward(self, tokens: torch.Tensor, is_null: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Buckets `(n, max_len)` of tokens `(n, any)`, oldest first, of which each row has so many."""
        place = torch.arange(self.max_len)
        at = (length.unsqueeze(1) - self.max_len).clamp_min(0) + place
        # A row of fewer tokens than the widest reads what is not its own here; the last line takes it out again.
        at = torch.minimum(at, torch.full_like(at, 1) * (tokens.shape[1] - 1))
        seed, num_values = _constant(self.seed), _constant(self.num_values)
        buckets = buckets_of(self._hashes(tokens.gather(1, at)), seed, num_values)
        buckets = torch.where(is_null.gather(1, at), NULL_BUCKET, buckets)
        return torch.where(place < length.unsqueeze(1), buckets, PADDING_BUCKET)

    def numbers(
        self, tokens: torch.Tensor, is_null: torch.Tensor, length: torch.Tensor, own: tuple[torch.Tensor, torch.Tensor]
    ) -> list[torch.Tensor]:
        """The numbers `(n,)` of the history that the model reads, and its hits, as `qin.prepare.derived` gives them.

        Args:
            tokens: `(n, any)`.
            is_null: `(n, any)`.
            length: `(n,)`.
            own: Unseeded hashes of the categorical columns, and which are null, `(n, fields)`.
        """
        size = length.double()
        found = {LENGTH: size}
        if self.own is not None:
            hits, since = self.matches(tokens, is_null, length, own)
            nothing = torch.full_like(size, torch.nan)
            found |= {HITS: hits, SINCE: since, SHARE: torch.where(length > 0, hits / size.clamp_min(1.0), nothing)}
        return [found[name].float() for name in self.measures]

    def matches(
        self, tokens: torch.Tensor, is_null: torch.Tensor, length: torch.Tensor, own: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How often the row's own value is in its history, and how long ago, NaN where it is not, `(n,)` each."""
        assert self.own is not None
        place = torch.arange(tokens.shape[1])
        value, is_missing = own[0][:, self.own : self.own + 1], own[1][:, self.own : self.own + 1]
        is_hit = (self._hashes(tokens) == value) & ~is_missing & ~is_null & (place < length.unsqueeze(1))
        last = torch.where(is_hit, place, -1).amax(dim=1)
        hits = is_hit.long().sum(dim=1).double()
        since = (length - 1 - last).double()
        return hits, torch.where(last < 0, torch.full_like(since, torch.nan), since)

    def _hashes(self, tokens: torch.Tensor) -> torch.Tensor:
        return hash_of_integers(tokens) if self.is_integer else tokens


def impression_numbers(group: torch.Tensor, compared: list[torch.Tensor]) -> list[torch.Tensor]:
    """What `qin.features.ranks` gives: the size of each row's impression, then rank and distance of each number.

    Every row is compared with every other, which is quadratic, and a request holds an impression or a few.

    Args:
        group: Equal for the rows of an impression, `(n,)`.
        compared: Numbers `(n,)`, NaN where missing.
    """
    same = group.unsqueeze(0) == group.unsqueeze(1)
    out = [same.long().sum(dim=1).float()]
    for number in compared:
        values = number.double()
        counts = same & ~values.isnan().unsqueeze(0)
        size = counts.long().sum(dim=1).double()
        known = torch.where(values.isnan(), 0.0, values)
        mine, others = known.unsqueeze(1), known.unsqueeze(0)
        smaller = (counts & (others < mine)).long().sum(dim=1).double()
        equal = (counts & (others == mine)).long().sum(dim=1).double()
        rank = torch.where(size > 1, (smaller + 0.5 * (equal - 1.0)) / (size - 1.0).clamp_min(1.0), 0.5)
        mean = torch.where(counts, others, 0.0).sum(dim=1) / size.clamp_min(1.0)
        apart = torch.where(counts, others - mean.unsqueeze(1), 0.0)
        deviation = ((apart * apart).sum(dim=1) / size.clamp_min(1.0)).sqrt()
        relative = torch.where(equal == size, 0.0, (known - mean) / torch.where(deviation > 0, deviation, 1.0))
        out += [torch.where(values.isnan(), torch.nan, column).float() for column in (rank, relative)]
    return out


def impression_distances(
    group: torch.Tensor, compared: list[torch.Tensor], distances: Sequence[Distance]
) -> list[torch.Tensor]:
    """What `qin.features.ranks.difference_from_first` gives, for each distance; see `impression_numbers`."""
    same = group.unsqueeze(0) == group.unsqueeze(1)
    out = []
    for distance in distances:
        since, value = compared[distance.since].double(), compared[distance.column].double()
        may_be_first = same & ~(since.isnan() | value.isnan()).unsqueeze(0)
        by = torch.where(may_be_first, since.unsqueeze(0), torch.inf)
        is_first = may_be_first & (by == by.amin(dim=1, keepdim=True))
        first = torch.where(is_first, value.unsqueeze(0), torch.inf).amin(dim=1)
        out.append(torch.where(first.isinf(), torch.nan, value - first).float())
    return out


class ValueStatistic(nn.Module):
    """Measures of a statistic by the values of one field or two: keys are found by bisection.

    Args:
        columns: Of the fields among the categorical ones.
        num_buckets: Of each.
        keys: Ascending, `(m,)`.
        values: Of each key, then of none, `(m + 1,)` each.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, columns: list[int], num_buckets: list[int], keys: Any, values: list[Any]) -> None:
        super().__init__()
        self.columns, self.num_buckets = columns, num_buckets
        self.register_buffer("keys", torch.from_numpy(keys.astype("int64")))
        self.register_buffer("values", torch.stack([torch.from_numpy(column) for column in values], dim=1))

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Measures `(n, measures)` of rows' buckets `(n, fields)`."""
        key = buckets[:, self.columns[0]]
        for column, num_buckets in zip(self.columns[1:], self.num_buckets[1:], strict=True):
            # As `qin.features.lookups` joins the buckets of two fields to one key.
            key = key * num_buckets + buckets[:, column]
        start = _bisected(self.keys, key)
        found = torch.where(self.keys[start] == key, start, self.keys.shape[0])
        return self.values[found]


class HistoryStatistic(nn.Module):
    """The mean of the rates of a field's value beside the items of a history; see `qin.features.histories`.

    Args:
        sequence: Number of the sequence.
        column: Of the field among the categorical ones.
        num_values: Buckets of the field.
        rates: Of each slot; their number is a power of two.
    """

    rates: torch.Tensor

    def __init__(self, sequence: int, column: int, num_values: int, rates: Any) -> None:
        super().__init__()
        self.sequence, self.column, self.num_values = sequence, column, num_values
        self.register_buffer("rates", torch.from_numpy(rates))

    def forward(self, buckets: torch.Tensor, histories: list[torch.Tensor]) -> torch.Tensor:
        """Mean rates `(n, 1)`."""
        items = histories[self.sequence]
        pair = items * self.num_values + buckets[:, self.column : self.column + 1]
        # The slot's number without a division, as the counts were made.
        rates = self.rates[mix(pair) & (self.rates.shape[0] - 1)].double()
        is_item = items != PADDING_BUCKET
        total = torch.where(is_item, rates, 0.0).sum(dim=1, keepdim=True)
        return (total / is_item.long().sum(dim=1, keepdim=True).double().clamp_min(1.0)).float()


class CosineStatistic(nn.Module):
    """How near a field's value is to the items of a history; see `qin.features.cosines`.

    Args:
        sequence: Number of the sequence.
        column: Of the field among the categorical ones.
        table: What histories hold together.
        measures: Places of the wanted ones in `COSINES`.
    """

    keys: torch.Tensor
    counts: torch.Tensor
    weight: torch.Tensor

    def __init__(self, sequence: int, column: int, table: CosineTable, measures: Sequence[int]) -> None:
        super().__init__()
        self.sequence, self.column, self.measures = sequence, column, list(measures)
        keys, counts = table.sorted()
        # a last key above all others, so that a pair that is not there is found to be none
        self.register_buffer("keys", torch.from_numpy(np.append(keys, np.uint64(_LARGEST)).astype(np.int64)))
        self.register_buffer("counts", torch.from_numpy(np.append(counts, np.uint32(0)).astype(np.float64)))
        self.register_buffer("weight", torch.from_numpy(table.weight))

    def forward(self, buckets: torch.Tensor, histories: list[torch.Tensor]) -> torch.Tensor:
        """The wanted measures `(n, num_measures)`."""
        items, value = histories[self.sequence], buckets[:, self.column : self.column + 1]
        key = torch.minimum(items, value) * 2**32 + torch.maximum(items, value)
        at = _bisected(self.keys, key)
        counts = torch.where(self.keys[at] == key, self.counts[at], 0.0)
        cosine = counts * self.weight[items] * self.weight[value]
        is_item = items != PADDING_BUCKET
        cosine = torch.where(is_item & (items != value), cosine, 0.0)
        length = is_item.long().sum(dim=1, keepdim=True)
        # items stand before the padding, so an item's age is how many come after it
        age = length - 1 - torch.arange(items.shape[1])
        newest = torch.where((age >= 0) & (age < NUM_NEWEST), cosine, 0.0).sum(dim=1, keepdim=True)
        total, size = cosine.sum(dim=1, keepdim=True), length.clamp_min(1).double()
        top = cosine.topk(min(NUM_TOP, items.shape[1]), dim=1).values.sum(dim=1, keepdim=True)
        columns = (
            total,
            total / size,
            cosine.amax(dim=1, keepdim=True),
            top / size.clamp_max(NUM_TOP),
            newest / size.clamp_max(NUM_NEWEST),
        )
        return torch.cat([columns[place] for place in self.measures], dim=1).float()


def _bisected(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where among ascending keys `(m,)` the first is that is not below each wanted one, or the last."""
    start, length = torch.zeros_like(wanted), keys.shape[0]
    # A fixed number of steps, as an exported graph can have no loop whose end the data decide.
    while length > 1:
        half = length // 2
        start = start + torch.where(keys[start + (half - 1)] < wanted, half, 0)
        length -= half
    return start
