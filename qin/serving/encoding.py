"""A table of raw rows as the arrays that members read, as prepare and the statistics of the train fold make them."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from qin.columns.schema import Schema
from qin.config import PrepareParams
from qin.features.artifact import Statistics
from qin.features.columns import ColumnTable, RowColumns
from qin.features.derived import Impressions
from qin.prepare.encode import BatchEncoder
from qin.prepare.impressions import build_impressions, impressions_of_batch
from qin.raw.log import RawLog
from qin.raw.parts import RawPart
from qin.shards.files import layout
from qin.shards.loader import Batch

BATCH_ROWS = 8192


class RowEncoder:
    """Encodes tables; safe to call from several threads.

    Args:
        schema: Of the raw rows, with what prepare derives.
        statistics: Of each model that scores, fitted on rows of this schema; their numbers stand side by side.
        impressions: What features of impressions are made of, where there are any.
        name: What messages call the rows.
    """

    def __init__(
        self, schema: Schema, statistics: Sequence[Statistics], impressions: Impressions | None, *, name: str
    ) -> None:
        self._schema, self._statistics, self._impressions, self._name = schema, statistics, impressions, name
        self._encoder = BatchEncoder(schema, layout(schema, with_label=False), file=name)

    def __call__(self, table: pa.Table) -> Iterator[Batch]:
        """Yield a table's rows in order, some thousands at a time, at least one batch; impressions lie whole in it.

        Raises:
            DataError: Naming the first bad value of a column.
        """
        row, encoder = 0, self
        if self._impressions is not None and table.num_rows:
            encoder = self.with_impressions(self._features(table, self._impressions))
        # Also of no rows there is a batch, so that what comes after need not ask.
        for batch in table.to_batches(max_chunksize=BATCH_ROWS) or [_without_rows(table)]:
            yield encoder.encode(row, batch)
            row += batch.num_rows

    def with_impressions(self, features: RowColumns) -> "RowEncoder":
        """The same encoder for rows whose features of impressions are known."""
        encoder = copy(self)
        encoder._encoder = self._encoder.with_impressions(features)
        return encoder

    def _features(self, table: pa.Table, impressions: Impressions) -> ColumnTable:
        # As one batch, because rows of an impression may lie in any chunk of a table.
        [batch] = table.select(columns_of_impressions(impressions)).combine_chunks().to_batches()
        return impressions_of_batch(batch, impressions, self._encoder, file=self._name)

    def of_log(self, log: RawLog, impressions: Impressions, *, folder: Path, knobs: PrepareParams) -> "RowEncoder":
        """The encoder of a log whose features of impressions are computed first, from a pass over it, into a folder."""
        return self.with_impressions(build_impressions(log, impressions, self._encoder, folder=folder, knobs=knobs))

    def of_part(self, part: RawPart) -> "RowEncoder":
        """The encoder of one file of a log, whose rows count from its first."""
        encoder = copy(self)
        encoder._encoder = self._encoder.of_file(part.name, first_row=part.first_row)
        return encoder

    def encode(self, row: int, batch: pa.RecordBatch) -> Batch:
        """Encode rows of a table or a file, from the given one on, whose impressions, if any, are known.

        Raises:
            DataError: Naming the first bad value of a column.
        """
        arrays = self._encoder(row, batch).arrays
        own, num_added = arrays["numeric"], sum(len(statistics.names) for statistics in self._statistics)
        numeric = own
        if num_added:
            numeric = np.empty((len(own), own.shape[1] + num_added), own.dtype)
            numeric[:, : own.shape[1]] = own
            start = own.shape[1]
            for statistics in self._statistics:
                stop = start + len(statistics.names)
                statistics.look_up(arrays, numeric[:, start:stop])
                start = stop
        return Batch(
            np.arange(row, row + batch.num_rows),
            torch.from_numpy(arrays["categorical"]),
            torch.from_numpy(numeric),
            tuple(torch.from_numpy(arrays[f"sequence.{field.name}"]) for field in self._schema.sequences),
            None,
        )


def batches_of_folds(batch: Batch, statistics: Sequence[Statistics]) -> list[Batch]:
    """Encoded rows as each model reads them: with its own statistics alone.

    Args:
        batch: From a `RowEncoder` of these statistics.
        statistics: Of each model.
    """
    if len(statistics) == 1:
        return [batch]
    widths = [len(one.names) for one in statistics]
    categorical, numeric, *rest = batch.tensors
    start = numeric.shape[1] - sum(widths)
    own, batches = numeric[:, :start], []
    for width in widths:
        joined = torch.cat([own, numeric[:, start : start + width]], dim=1)
        batches.append(batch.with_tensors([categorical, joined, *rest]))
        start += width
    return batches


def _without_rows(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


def columns_of_impressions(impressions: Impressions) -> list[str]:
    """The columns that features of impressions are computed from."""
    histories = [name for field in impressions.histories for name in (field.name, field.vocabulary)]
    return list(dict.fromkeys([*impressions.key, *impressions.columns, *histories]))


def without_statistics(schema: Schema) -> Schema:
    """The schema of the rows that prepare writes, from that of the rows that members read."""
    return replace(schema, fields=tuple(field for field in schema.fields if field.source != "statistic"))
