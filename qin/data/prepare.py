"""From a raw Parquet file to shards: decode in order, encode in threads, write in order."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qin.artifacts import write_json
from qin.data.encode import BatchEncoder
from qin.data.hashing import hash_values, seed_of
from qin.data.raw import map_batches, open_parquet, read_batches
from qin.data.shards import ShardWriter, layout
from qin.data.statistics import FileStatistics
from qin.errors import DataError
from qin.progress import Progress
from qin.schema import Schema

IDS = "ids.arrow"
STATISTICS = "statistics.json"
_ID_ROWS = 65536


def prepare_file(
    file: str,
    folder: Path,
    *,
    schema: Schema,
    with_label: bool,
    shard_rows: int,
    batch_rows: int,
    num_threads: int,
) -> dict[str, Any]:
    """Encode a raw file into `folder`; prepared row `i` is raw row `i`.

    Args:
        file: Path of the raw Parquet file, also its name in messages.
        folder: Existing empty folder for shards, manifest, and (without labels) the ids.
        schema: The resolved columns.
        with_label: True for train, False for a file to predict, which has ids instead.
        shard_rows: Rows per shard.
        batch_rows: Rows decoded at a time.
        num_threads: Threads that encode.

    Returns:
        Statistics by column, which are also in `statistics.json` of the folder.

    Raises:
        DataError: Naming the first bad value.
    """
    groups = layout(schema, with_label=with_label)
    num_rows = open_parquet(file).metadata.num_rows
    writer = ShardWriter(folder, groups, num_rows=num_rows, shard_rows=shard_rows)
    encoder = BatchEncoder(schema, groups, file=file)
    statistics = FileStatistics(schema)
    ids: list[pa.Array] = []
    columns = [*(field.name for field in schema.fields), schema.label if with_label else schema.id]
    with Progress(num_rows, label=f"prepare {file}") as progress:
        batches = read_batches(file, columns=columns, batch_rows=batch_rows)
        for first_row, raw, encoded in map_batches(encoder, batches, num_threads=num_threads):
            writer.append(encoded.arrays)
            statistics.update(encoded)
            if not with_label:
                ids.append(_id_text(raw.column(schema.id), file=file, column=schema.id, first_row=first_row))
            progress.advance(raw.num_rows)
    summary = statistics.summary()
    if with_label:
        summary = {**summary, **_two_classes(statistics.label_summary(), file=file, column=schema.label)}
    else:
        _write_ids(folder / IDS, ids, file=file, column=schema.id)
    writer.close(schema=schema, extra={})
    write_json(folder / STATISTICS, summary)
    return summary


def read_ids(folder: Path) -> pa.ChunkedArray:
    """The ids of a prepared file, in row order, as text."""
    with pa.OSFile(str(folder / IDS)) as source:
        return pa.ipc.open_file(source).read_all().column("id")


def _two_classes(summary: dict[str, float | int], *, file: str, column: str) -> dict[str, float | int]:
    if summary["base_rate"] in (0, 1):
        raise DataError(
            f"{file}: column {column}: all labels are {summary['base_rate']:.0f}; training needs both classes"
        )
    return summary


def _id_text(array: pa.Array, *, file: str, column: str, first_row: int) -> pa.Array:
    text = array.cast(pa.string())
    is_missing = pc.fill_null(pc.equal(text, ""), True).to_numpy(zero_copy_only=False)
    if is_missing.any():
        row = int(np.flatnonzero(is_missing)[0])
        raise DataError(f"{file}: column {column}, row {first_row + row}: id is missing")
    return text


def _write_ids(path: Path, parts: list[pa.Array], *, file: str, column: str) -> None:
    hashes = np.concatenate([hash_values(part, seed_of("id", 0))[0] for part in parts])
    order = np.argsort(hashes, kind="stable")
    repeats = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    ids = pa.chunked_array(parts)
    if repeats.size:
        row = int(repeats.min())
        raise DataError(f"{file}: column {column}, row {row}: id occurs twice: {ids[row].as_py()!r}")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("id", pa.string())])) as writer:
        for start in range(0, len(ids), _ID_ROWS):  # never the decoded batches, whose size must not show
            part = ids.slice(start, _ID_ROWS).combine_chunks()
            writer.write_batch(pa.record_batch([part], names=["id"]))
