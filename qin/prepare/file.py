"""From a raw log to shards: each of its files on its own, what is known of the whole log beside them."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from qin.columns.schema import Schema
from qin.config import PrepareParams
from qin.features.columns import ColumnFile
from qin.features.derived import Impressions
from qin.prepare.cache import PartCache
from qin.prepare.encode import BatchEncoder
from qin.prepare.impressions import build_impressions
from qin.prepare.part import EncodedPart, PartTask, fitting
from qin.prepare.statistics import LABELS, FileStatistics
from qin.prepare.workers import encode_parts
from qin.raw.log import RawLog, open_log, read_batches
from qin.runtime.chain import Origin
from qin.runtime.errors import DataError
from qin.runtime.files import write_json
from qin.runtime.progress import Progress, log
from qin.runtime.sources import Source
from qin.shards.files import layout, write_manifest
from qin.shards.ids import IDS, IdWriter

STATISTICS = "statistics.json"
_SCRATCH = "impressions"


def prepare_file(
    source: Source | RawLog,
    folder: Path,
    *,
    schema: Schema,
    with_label: bool,
    knobs: PrepareParams,
    impressions: Impressions | None = None,
    cache: PartCache | None = None,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Encode a raw log into `folder`; prepared row `i` is raw row `i`.

    1. Ids of rows to predict are written and found to be all different.
    2. Features of impressions are computed over the whole log, where there are any.
    3. Files that are known from an earlier run are taken from there, the others are encoded, several at a time.
    4. Counts are added up, and the manifest names the shards.

    Args:
        source: The raw log.
        folder: Existing empty folder for shards, manifest, and (without labels) the ids.
        schema: The resolved columns, and what is derived from them.
        with_label: True for train, False for a log to predict, which has ids instead.
        knobs: See `PartTask`; processes that encode files.
        impressions: What the features of impressions are made of, where there are any.
        cache: Encoded files of earlier runs.
        origin: What the prepared log is made from.

    Returns:
        Statistics by column, which are also in `statistics.json` of the folder.

    Raises:
        DataError: Naming the first bad value.
    """
    raw, groups = open_log(source), layout(schema, with_label=with_label)
    knobs = fitting(knobs, schema, groups)
    # First: an id that is missing or occurs twice ends the stage before hours of encoding, not after them.
    if not with_label:
        _write_ids(raw, folder, column=schema.id, batch_rows=knobs.batch_rows)
    features = None if impressions is None else _features(raw, folder, schema, impressions, knobs=knobs)
    tasks, number = [], 0
    for part in raw.parts:
        tasks.append(PartTask(part, folder, number, schema, with_label, knobs, features))
        # Shards end where files end, so the numbers of a file's shards are known before any file is encoded.
        number += -(-part.num_rows // knobs.shard_rows)
    statistics, shards = FileStatistics(schema), []
    with Progress(raw.num_rows, label=f"prepare {raw}") as progress:
        for encoded in _encoded(tasks, cache, knobs=knobs, progress=progress):
            statistics.add(encoded.counts)
            shards += encoded.shards
    shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    summary = statistics.summary()
    if with_label:
        labels = statistics.label_summaries()
        for name, counts in labels.items():
            _check_two_classes(counts, file=raw.name, column=name)
        summary |= {LABELS: labels} if schema.other_labels else labels[schema.label]
    write_manifest(folder, groups, shards, schema=schema, other_files=() if with_label else (IDS,), origin=origin)
    write_json(folder / STATISTICS, summary)
    return summary


def _encoded(
    tasks: list[PartTask], cache: PartCache | None, *, knobs: PrepareParams, progress: Progress
) -> Iterator[EncodedPart]:
    """Each file's result, in order, from the cache where it is there."""
    keys = [cache.key(task) for task in tasks] if cache else []
    known = [cache.get(key, task) for key, task in zip(keys, tasks, strict=True)] if cache else [None] * len(tasks)
    wanted = [task for task, found in zip(tasks, known, strict=True) if found is None]
    if len(wanted) < len(tasks):
        log.info("%d of %d files are known from an earlier run", len(tasks) - len(wanted), len(tasks))
    fresh_parts = encode_parts(
        wanted, num_processes=knobs.num_processes, advance=progress.advance, launcher=knobs.launcher
    )
    # Closed whatever happens here, or the processes would go on encoding for nobody.
    with closing(fresh_parts) as fresh:
        for number, (task, found) in enumerate(zip(tasks, known, strict=True)):
            encoded = found or next(fresh)
            if found:
                progress.advance(task.part.num_rows)
            elif cache:
                cache.keep(keys[number], task, encoded)
            yield encoded


def _write_ids(raw: RawLog, folder: Path, *, column: str, batch_rows: int) -> None:
    with IdWriter(folder, at=partial(raw.at, column)) as ids:
        for chunk in read_batches(raw, columns=[column], batch_rows=batch_rows):
            ids.append(chunk.batch.column(column), first_row=chunk.first_row)


def _features(
    raw: RawLog, folder: Path, schema: Schema, impressions: Impressions, *, knobs: PrepareParams
) -> ColumnFile:
    """Features of impressions, from a pass of their own over the log."""
    (folder / _SCRATCH).mkdir()
    encoder = BatchEncoder(schema, (), file=raw.name)
    return build_impressions(raw, impressions, encoder, folder=folder / _SCRATCH, knobs=knobs)


def _check_two_classes(summary: dict[str, float | int], *, file: str, column: str) -> None:
    if summary["base_rate"] in (0, 1):
        raise DataError(
            f"{file}: column {column}: all labels are {summary['base_rate']:.0f}; training needs both classes"
        )
