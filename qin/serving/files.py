"""A log scored to a Parquet file: decoded in order, encoded in threads, scored and written in order."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from qin.config import PrepareParams
from qin.prepare.part import fitting
from qin.raw.log import Chunk, RawLog, map_batches, open_log, read_batches
from qin.runtime.errors import ConfigError, SchemaError, did_you_mean
from qin.runtime.files import atomic_file
from qin.runtime.progress import Progress
from qin.runtime.sources import Source, is_uri, items_of
from qin.scored.prior import OutputPrior
from qin.serving.deployed import Deployed
from qin.serving.encoding import BATCH_ROWS, RowEncoder, columns_of_impressions
from qin.shards.files import layout
from qin.shards.loader import Batch

_GROUP_ROWS = 1 << 17  # a row group per batch would be many small ones


class Output(NamedTuple):
    """What is written of each row.

    Attributes:
        keep: Columns of the log, as they are.
        column: Name of the probability's column.
        prior: Base rate of the probabilities.
    """

    keep: tuple[str, ...] = ()
    column: str = "probability"
    prior: OutputPrior = "natural"


_NOTHING_KEPT = Output()


def score_file(
    model: Deployed, source: Source, path: Path, output: Output, *, num_threads: int, may_miss: bool = False
) -> int:
    """Score a log and write a Parquet file, rows in order; memory is bounded by some thousand rows.

    Args:
        model: What scores.
        source: Parquet file, folder of parts, or URI.
        path: File to write; it takes its place only if everything was scored.
        output: What is written of each row.
        num_threads: That encode.
        may_miss: Whether a column that the model reads and the log lacks is null in every row.

    Returns:
        The number of rows.

    Raises:
        SchemaError: Naming each column that is missing or of a wrong type.
        DataError: Naming the first bad value, or where the log cannot be read.
        ConfigError: If the columns to write do not fit together, or the file to write is one that is read.
    """
    log = open_log(source)
    check_output(path, log, source=source)
    schema = log.schema
    check_log(model, schema, source=log.name, may_miss=may_miss, output=output)
    names = set(schema.names)  # Arrow makes a new list of them each time
    read = [name for name in dict.fromkeys([*model.columns, *output.keep]) if name in names]
    written = pa.schema([*(schema.field(name) for name in output.keep), pa.field(output.column, pa.float64())])
    with (
        Progress(log.num_rows, label=f"score {log}") as progress,
        atomic_file(path) as staging,
        pq.ParquetWriter(staging, written) as writer,
        closing(encoded_batches(model, log, read, num_threads=num_threads)) as batches,
    ):
        pending: list[pa.RecordBatch] = []
        for batch, encoded, segment in batches:
            logit = model.logit(encoded, num_threads=num_threads)
            probability = model.probability(logit, segment, output.prior)
            columns = [*(batch.column(name) for name in output.keep), pa.array(probability)]
            pending.append(pa.record_batch(columns, schema=written))
            progress.advance(batch.num_rows)
            if sum(part.num_rows for part in pending) >= _GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_batches(pending))
    return log.num_rows


def check_output(path: Path, log: RawLog, *, source: Source) -> None:
    """Check that a file can be written, and that it would neither replace the log nor become a part of it.

    Args:
        path: File to write.
        log: What is read.
        source: As it was named.

    Raises:
        ConfigError: If not.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is a folder, a device or a pipe; name the file to write")
    read = [Path(part.name) for part in log.parts if part.file.filesystem is None]
    # Inside a folder that is a log, the file would be one of its parts the next time.
    folders = [Path(item).resolve() for item in items_of(source) if not is_uri(item) and Path(item).is_dir()]
    is_read = path.exists() and any(path.samefile(file) for file in read)
    if is_read or any(path.resolve().is_relative_to(folder) for folder in folders):
        raise ConfigError(f"{path}: is part of the log that is read, {log}; name another file to write")


def encoded_batches(
    model: Deployed, log: RawLog, columns: Sequence[str], *, num_threads: int
) -> Generator[tuple[pa.RecordBatch, Batch, pa.Array | None]]:
    """Batches of a log in order, as they are, encoded, and with the column that the calibrator shifts by.

    Args:
        model: Whose rows they are.
        log: The log.
        columns: To read.
        num_threads: That encode.
    """
    knobs = PrepareParams(shard_rows=BATCH_ROWS, batch_rows=BATCH_ROWS, num_threads=num_threads)
    knobs = fitting(knobs, model.schema, layout(model.schema, with_label=False))
    with _encoder(model, log, knobs) as encoder:

        def encode(chunk: Chunk) -> tuple[Batch, pa.Array | None]:
            rows = model.completed(chunk.batch)
            segment = None if model.segment is None else rows.column(model.segment)
            return encoder.of_part(chunk.part).encode(chunk.row, rows), segment

        chunks = read_batches(log, columns=list(columns), batch_rows=knobs.batch_rows)
        for (_, _, batch), (encoded, segment) in map_batches(encode, chunks, num_threads=num_threads):
            yield batch, encoded, segment


def check_log(
    model: Deployed, schema: pa.Schema, *, source: str, may_miss: bool = False, output: Output = _NOTHING_KEPT
) -> None:
    """Check the columns of a log, and of what is written of it.

    Raises:
        SchemaError: Naming each column that is missing or of a wrong type.
        ConfigError: If the columns to write do not fit together.
    """
    problems = model.problems(schema, may_miss=may_miss, name=source)
    if may_miss and model.impressions is not None:
        problems += [
            f"{source}: column {name}: missing; rows of one impression are found by it"
            for name in columns_of_impressions(model.impressions)
            if name not in schema.names
        ]
    problems += [
        f"{source}: --keep: no column {name}{did_you_mean(name, schema.names)}"
        for name in output.keep
        if name not in schema.names
    ]
    if problems:
        raise SchemaError(*problems)
    names = [*output.keep, output.column]
    repeated = [name for position, name in enumerate(names) if name in names[:position]]
    if repeated:
        raise ConfigError(f"{source}: two columns of the output would be called {repeated[0]}; choose another --column")


@contextmanager
def _encoder(model: Deployed, log: RawLog, knobs: PrepareParams) -> Iterator[RowEncoder]:
    """The log's encoder; features of impressions are computed first, from a pass over it, into a temporary folder."""
    encoder = model.encoder(log.name)
    if model.impressions is None:
        yield encoder
        return
    with TemporaryDirectory(prefix="qin-score-") as folder:
        yield encoder.of_log(log, model.impressions, folder=Path(folder), knobs=knobs)
