"""From a raw log to shards: decode in order, encode in threads, write in order."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from qin.columns.schema import Schema
from qin.config import PrepareParams
from qin.errors import DataError
from qin.features.derived import Impressions
from qin.prepare.encode import BatchEncoder, EncodedBatch
from qin.prepare.impressions import build_impressions
from qin.prepare.statistics import FileStatistics
from qin.raw.log import Chunk, RawLog, map_batches, open_log, read_batches
from qin.runtime.chain import Origin
from qin.runtime.files import write_json
from qin.runtime.progress import Progress
from qin.shards.files import Group, ShardWriter, layout
from qin.shards.ids import IDS, IdWriter
from qin.sources import Source

STATISTICS = "statistics.json"
_SCRATCH = "impressions"

# A batch of a log with 20,000 columns would take gigabytes, several at a time; its size shows in no output.
_BATCH_BYTES = 1 << 28
_MIN_BATCH_ROWS = 256
_ENCODING_BYTES = 17  # of a column's value besides its array: as read, its hash, whether it is null


def prepare_file(
    source: Source | RawLog,
    folder: Path,
    *,
    schema: Schema,
    with_label: bool,
    knobs: PrepareParams,
    impressions: Impressions | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Encode a raw log into `folder`; prepared row `i` is raw row `i`.

    Args:
        source: The raw log.
        folder: Existing empty folder for shards, manifest, and (without labels) the ids.
        schema: The resolved columns, and what is derived from them.
        with_label: True for train, False for a file to predict, which has ids instead.
        knobs: Rows per shard, threads that encode, and rows decoded at a time: fewer where the columns are so many that
            they would take much memory.
        impressions: What the features of impressions are made of, where there are any.
        origin: What the prepared file is made from.

    Returns:
        Statistics by column, which are also in `statistics.json` of the folder.

    Raises:
        DataError: Naming the first bad value.
    """
    groups = layout(schema, with_label=with_label)
    log = open_log(source)
    writer = ShardWriter(folder, groups, num_rows=log.num_rows, shard_rows=knobs.shard_rows)
    statistics = FileStatistics(schema)
    columns = [*(field.name for field in schema.columns), schema.label if with_label else schema.id]
    row_bytes = sum(group.row_bytes for group in groups) + _ENCODING_BYTES * len(columns)
    most_rows = max(_BATCH_BYTES // row_bytes, _MIN_BATCH_ROWS)
    knobs = knobs.model_copy(update={"batch_rows": min(knobs.batch_rows, most_rows)})
    encoder = _encoder(log, folder, schema, groups, impressions, knobs=knobs)

    def encode(chunk: Chunk) -> EncodedBatch:
        return encoder.of_file(chunk.part.name, first_row=chunk.part.first_row)(chunk.row, chunk.batch)

    chunks = read_batches(log, columns=columns, batch_rows=knobs.batch_rows)
    with (
        nullcontext() if with_label else IdWriter(folder, at=partial(log.at, schema.id)) as ids,
        Progress(log.num_rows, label=f"prepare {log}") as progress,
    ):
        for chunk, encoded in map_batches(encode, chunks, num_threads=knobs.num_threads):
            writer.append(encoded.arrays)
            statistics.update(encoded)
            if ids is not None:
                ids.append(chunk.batch.column(schema.id), first_row=chunk.first_row)
            progress.advance(chunk.batch.num_rows)
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    summary = statistics.summary()
    if with_label:
        summary = {**summary, **_two_classes(statistics.label_summary(), file=log.name, column=schema.label)}
    writer.close(schema=schema, other_files=() if with_label else (IDS,), origin=origin)
    write_json(folder / STATISTICS, summary)
    return summary


def _encoder(
    log: RawLog,
    folder: Path,
    schema: Schema,
    groups: tuple[Group, ...],
    impressions: Impressions | None,
    *,
    knobs: PrepareParams,
) -> BatchEncoder:
    """The encoder of a log; features of impressions are computed first, from a pass of their own over it."""
    encoder = BatchEncoder(schema, groups, file=log.name)
    if impressions is None:
        return encoder
    (folder / _SCRATCH).mkdir()
    features = build_impressions(log, impressions, encoder, folder=folder / _SCRATCH, knobs=knobs)
    return encoder.with_impressions(features)


def _two_classes(summary: dict[str, float | int], *, file: str, column: str) -> dict[str, float | int]:
    if summary["base_rate"] in (0, 1):
        raise DataError(
            f"{file}: column {column}: all labels are {summary['base_rate']:.0f}; training needs both classes"
        )
    return summary
