"""Statistics of the train fold: click rate and share of rows by value, by pairs and by history, and cosines of items.

1. The buckets of a few fields at a time are read into memory, a column each.
2. For each statistic, its key per row; from that the counts of each fitted row's past (see `past`), and the table of
   all fitted rows.
3. Each measure of the fitted rows comes from their past, of all other rows from the table: they are later, or held out.
4. A measure that is constant, or that moves between the third and the fourth quarter in time, is dropped.
5. Columns and tables of what is left are written, one after the other, so memory holds one statistic at a time.

Everything counts buckets, so values that share a bucket share their statistics. All fitted rows count, whatever share
of them training draws.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.columns.counted import COSINES, MEASURES, RATE, counted_fields, counted_problems
from qin.columns.schema import Schema
from qin.features.artifact import COLUMNS, KeyMaker, Statistic, Table, table_file, write_manifest
from qin.features.columns import ColumnFile
from qin.features.cosines import fit_cosines
from qin.features.counting import Labels, count_keys
from qin.features.drift import MAX_ROWS, measure_drift
from qin.features.histories import HistoryPair, fit_history
from qin.features.past import Earlier, Past, rows_beside
from qin.features.rates import Prior, Values, find, measure
from qin.runtime.chain import Origin
from qin.runtime.errors import SchemaError
from qin.runtime.progress import Progress
from qin.shards.files import ShardReader

_CHUNK_ROWS = 65536
_BLOCK_BYTES = 256 << 20  # of bucket columns in memory

Keep = float | Collection[str] | None

_Buckets = npt.NDArray[Any]


@dataclass(frozen=True)
class FitReport:
    """What a fit kept.

    Attributes:
        kept: Names of the numeric fields.
        dropped: Reason by name.
    """

    kept: tuple[str, ...]
    dropped: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"num_kept": len(self.kept), "dropped": dict(self.dropped)}


def choose_statistics(
    schema: Schema,
    *,
    patterns: Sequence[str] | None,
    pairs: Sequence[Sequence[str]] | None,
    user: str | None,
    cosines: bool = False,
) -> tuple[Statistic, ...]:
    """Decide what to count by.

    Args:
        schema: The prepared file's.
        patterns: Globs of categorical fields; None for all.
        pairs: Pairs of a categorical field or a sequence with a categorical field; None for the user and each sequence
            with each field of the target.
        user: Column that names a user, which counts where it is a categorical field.
        cosines: Whether each pair of a sequence and a field of its vocabulary is measured by cosines as well, where
            there is a user; only for rows that have a time.

    Raises:
        SchemaError: If a pattern names none of the fields, or a pair anything else.
    """
    names = [field.name for field in schema.categorical]
    sequences = [field.name for field in schema.sequences]
    problems = counted_problems(patterns, pairs, categorical=names, sequences=sequences)
    if problems:
        raise SchemaError(*problems)
    chosen = counted_fields(patterns, pairs, categorical=names, sequences=sequences, target=schema.target, user=user)
    histories = [fields for fields in chosen if fields[0] in sequences]
    vocabulary = {field.name: field.vocabulary for field in schema.fields}
    alike = [pair for pair in histories if vocabulary[pair[0]] == vocabulary[pair[1]]]
    return (
        *(Statistic(fields, MEASURES) for fields in chosen if fields[0] in names),
        *(Statistic(pair, (RATE,), is_history=True) for pair in histories),
        *(Statistic(pair, COSINES, is_history=True, user=user) for pair in alike if user and cosines and user in names),
    )


def fit_statistics(
    reader: ShardReader,
    statistics: Sequence[Statistic],
    *,
    label: Labels,
    past: Past,
    prior_weight: float,
    keep: Keep,
    folder: Path,
    origin: Origin | None = None,
) -> FitReport:
    """Fit statistics and write them, by the five steps above.

    Args:
        reader: Prepared train file.
        statistics: From `choose_statistics`.
        label: Of each row, `(num_rows,)`; read of the fitted rows alone.
        past: The fitted rows, and what each may know of the others.
        prior_weight: Rows of the base rate that each rate is smoothed by.
        keep: Stability index above which a measure is dropped, which takes a time; None to keep what drifts; or the
            names of the measures to keep, whatever they look like here, as an earlier fit decided.
        folder: Existing empty folder.
        origin: What they are made from, without which no stage reads them.
    """
    prior = Prior(float(label[past.fitted].mean(dtype=np.float64)), prior_weight)
    fit = _Fit(reader.num_rows, label, past, prior, keep)
    kept: list[Statistic] = []
    dropped: dict[str, str] = {}
    names: list[str] = []
    columns = ColumnFile(folder / COLUMNS, reader.num_rows, 0)
    # There also where nothing is kept: readers compare its size.
    columns.path.touch()
    with Progress(len(statistics), label="statistics", unit="statistics") as progress:
        # In the order of `choose_statistics`, whose numbers tables and columns have.
        for statistic, table, values in fit.each(reader, statistics):
            reasons = [fit.fault(*named) for named in zip(statistic.names, values, strict=True)]
            for name, column, reason in zip(statistic.names, values, reasons, strict=True):
                if reason is None:
                    columns.write(len(names), 0, column)
                    names.append(name)
                else:
                    dropped[name] = reason
            measures = [name for name, reason in zip(statistic.measures, reasons, strict=True) if reason is None]
            if measures:
                crc32 = table.write(folder / table_file(len(kept)))
                kept.append(replace(statistic, measures=tuple(measures), num_keys=table.keys.size, crc32=crc32))
            progress.advance(1)
    write_manifest(folder, kept, reader=reader, prior=prior, num_fitted=past.fitted.size, origin=origin)
    return FitReport(tuple(names), dropped)


@dataclass(frozen=True)
class _Fit:
    """What the statistics of one fit share; see `fit_statistics`."""

    num_rows: int
    label: Labels
    past: Past
    prior: Prior
    keep: Keep

    def each(
        self, reader: ShardReader, statistics: Sequence[Statistic]
    ) -> Iterator[tuple[Statistic, Table, list[Values]]]:
        """Each statistic with its table and its measures of each row, `(num_rows,)`."""
        for statistic, buckets in _with_buckets(reader, [one for one in statistics if not one.is_history]):
            keys = KeyMaker(reader.schema, statistic.fields)(buckets)
            yield statistic, *self.values(keys, statistic.measures)
        for statistic in (one for one in statistics if one.is_history):
            pair = HistoryPair.of(reader.schema, *statistic.fields)
            if statistic.user:
                column = [field.name for field in reader.schema.categorical].index(statistic.user)
                [user] = _read_columns(reader, [column])
                keys, counts, columns = fit_cosines(reader, pair, user=user, past=self.past)
                yield statistic, Table(keys, counts), columns
            else:
                keys, counts, values = fit_history(reader, pair, label=self.label, past=self.past, prior=self.prior)
                yield statistic, Table(keys, counts), [values]

    def values(self, keys: npt.NDArray[np.uint64], measures: Sequence[str]) -> tuple[Table, list[Values]]:
        """The table of a statistic and its measures of each row, `(num_rows,)`."""
        table = Table(*count_keys(keys, self.label, self.past.fitted))
        rows = rows_beside(self.past, self.num_rows)
        position = find(table.keys, keys[rows])
        counts = self.past.counts(keys, self.label)
        columns = []
        for name in measures:
            values = measure(name, counts, self.past.rows_so_far, self.prior)
            of_keys = measure(name, table.counts, np.array([self.past.fitted.size]), self.prior)
            values[rows] = np.append(of_keys, np.float32(0.0))[position]  # position -1: a value never seen
            columns.append(values)
        return table, columns

    def fault(self, name: str, values: Values) -> str | None:
        """Why a measure is of no use, or None."""
        if isinstance(self.keep, Collection):
            return None if name in self.keep else "not kept by the fit that decided"
        fitted = values[self.past.fitted]
        if fitted.min() == fitted.max():
            return "constant"
        if self.keep is None or not isinstance(self.past, Earlier):
            return None
        # Late quarters: in the first ones a rate has seen few rows, and moves for that alone.
        early, late = (self.past.quarter(number, max_rows=MAX_ROWS) for number in (2, 3))
        if not early.size or not late.size:
            return None
        return measure_drift(values[early], self.label[early], values[late], self.label[late]).reason(max_psi=self.keep)


def _with_buckets(reader: ShardReader, statistics: Sequence[Statistic]) -> Iterator[tuple[Statistic, list[_Buckets]]]:
    """Each statistic with the buckets of its fields, `(num_rows,)` each, read for as many as fit into memory."""
    position = {field.name: column for column, field in enumerate(reader.schema.categorical)}
    # 4 bytes is the wider of the two types of buckets; with fewer than two columns no pair could be counted.
    for block in _blocks(statistics, max_fields=max(2, _BLOCK_BYTES // (4 * reader.num_rows))):
        names = sorted({name for statistic in block for name in statistic.fields}, key=position.__getitem__)
        columns = dict(zip(names, _read_columns(reader, [position[name] for name in names]), strict=True))
        for statistic in block:
            yield statistic, [columns[name] for name in statistic.fields]


def _blocks(statistics: Sequence[Statistic], *, max_fields: int) -> Iterator[list[Statistic]]:
    """Runs of statistics that together read at most so many fields."""
    block: list[Statistic] = []
    names: set[str] = set()
    for statistic in statistics:
        if len(names | set(statistic.fields)) > max_fields:
            yield block
            block, names = [], set()
        block.append(statistic)
        names |= set(statistic.fields)
    if block:
        yield block


def _read_columns(reader: ShardReader, columns: Sequence[int]) -> list[_Buckets]:
    dtype = next(group.dtype for group in reader.groups if group.name == "categorical")
    out = np.empty((len(columns), reader.num_rows), dtype)
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        chunk = reader.read("categorical", start, min(start + _CHUNK_ROWS, reader.num_rows))
        out[:, start : start + len(chunk)] = chunk[:, columns].T
    return list(out)
