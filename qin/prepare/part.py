"""One raw file to shards: decode in order, encode in threads, write in order. A task of its own, in any process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from qin.columns.schema import Schema
from qin.config import PrepareParams
from qin.features.columns import ColumnFile
from qin.prepare.encode import BatchEncoder, EncodedBatch
from qin.prepare.statistics import FileStatistics
from qin.raw.log import Chunk, map_batches
from qin.raw.parts import RawPart
from qin.shards.files import Group, Shard, ShardWriter, layout

# A batch of a log with 20,000 columns would take gigabytes, several at a time; its size shows in no output.
_BATCH_BYTES = 1 << 28
_MIN_BATCH_ROWS = 256  # of fewer, the calls would cost more than the rows
_ENCODING_BYTES = 17  # of a column's value besides its array: as read, its hash, whether it is null


@dataclass(frozen=True)
class PartTask:
    """What encoding one file of a log takes.

    Attributes:
        part: The file.
        folder: Existing folder for the shards.
        first_shard: Number of the first of them.
        schema: The resolved columns, and what is derived from them.
        with_label: True for train, False for a log to predict.
        knobs: Rows per shard, threads that encode, and rows decoded at a time; see `fitting`.
        impressions: Features of the impressions of the whole log, where there are any.
    """

    part: RawPart
    folder: Path
    first_shard: int
    schema: Schema
    with_label: bool
    knobs: PrepareParams
    impressions: ColumnFile | None = None


class EncodedPart(NamedTuple):
    """A file that is encoded.

    Attributes:
        shards: Its shards, which are in the task's folder.
        counts: What was counted on the way; see `FileStatistics.add`.
    """

    shards: list[Shard]
    counts: Mapping[str, npt.NDArray[Any]]


def fitting(knobs: PrepareParams, schema: Schema, groups: tuple[Group, ...]) -> PrepareParams:
    """The settings with fewer rows decoded at a time where the columns are so many that they would take much memory."""
    row_bytes = sum(group.row_bytes for group in groups) + _ENCODING_BYTES * (len(schema.columns) + 1)
    return knobs.model_copy(
        update={"batch_rows": min(knobs.batch_rows, max(_BATCH_BYTES // row_bytes, _MIN_BATCH_ROWS))}
    )


def encode_part(task: PartTask, *, advance: Callable[[int], object]) -> EncodedPart:
    """Encode a file; prepared row `i` is its row `i`.

    Args:
        task: The file, and where to.
        advance: Told of each batch how many rows it had.

    Raises:
        DataError: Naming the first bad value.
    """
    part, schema, knobs = task.part, task.schema, task.knobs
    groups = layout(schema, with_label=task.with_label)
    writer = ShardWriter(
        task.folder, groups, num_rows=part.num_rows, shard_rows=knobs.shard_rows, first_shard=task.first_shard
    )
    columns = [*(field.name for field in schema.columns), *(schema.labels if task.with_label else ())]
    encoder = BatchEncoder(schema, groups, file=part.name).of_file(part.name, first_row=part.first_row)
    if task.impressions is not None:
        encoder = encoder.with_impressions(task.impressions)

    def encode(chunk: Chunk) -> EncodedBatch:
        return encoder(chunk.row, chunk.batch)

    statistics = FileStatistics(schema)
    chunks = (Chunk(part, row, batch) for row, batch in part.batches(columns, knobs.batch_rows))
    for chunk, encoded in map_batches(encode, chunks, num_threads=knobs.num_threads):
        writer.append(encoded.arrays)
        statistics.update(encoded)
        advance(chunk.batch.num_rows)
    return EncodedPart(writer.finish(), statistics.state)
