"""What the features of the train fold and of impressions cost: rows per CPU second and peak memory.

    python -m benchmarks.features run --rows 1000000 --out benchmarks/results/features.json

A prepared log of 30 categorical fields, a user and an item in random order of time; the statistics of all fields and
of user and item are fitted in time and out of fold. A raw log of impressions of 25 rows on average, whose rows lie
anywhere; four columns are compared. Histories of 75 and of 530 tokens are searched for the row's own item, on one
thread. Each part is a process of its own, and one that does nothing is subtracted from
the seconds.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from benchmarks.machine import describe, report
from benchmarks.measure import Cost, measure_module
from qin.columns.schema import Field, FieldKind, Schema
from qin.features.artifact import Statistics
from qin.features.impression import Compared, build_impression_features
from qin.features.joined import JoinedRows
from qin.features.past import Earlier, OtherParts
from qin.features.statistics import choose_statistics, fit_statistics
from qin.prepare.matches import match_history
from qin.prepare.tokens import token_rules
from qin.raw.hashing import hash_values, seed_of
from qin.shards.files import ShardReader, ShardWriter, layout, read_labels

_FIELDS, _BUCKETS, _LARGE_BUCKETS = 30, 4096, 1 << 20
_CHUNK_ROWS, _MATCHED_ROWS = 1 << 17, 8192
_IMPRESSION_ROWS, _NUMBERS = 25, ("price", "stars", "rating", "position")
_PARTS = ("nothing", "in_time", "out_of_fold", "read", "impressions")

app = typer.Typer(add_completion=False)


@app.command()
def run(
    rows: Annotated[int, typer.Option(help="Rows of the log.")] = 1_000_000,
    fields: Annotated[int, typer.Option(help="Categorical fields besides user and item.")] = _FIELDS,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print what each part costs as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_prepared(folder / "prepared", rows, fields)
        _write_raw(folder / "raw.parquet", rows)
        measure_module("benchmarks.features", "part", "nothing", str(folder), cwd=folder)  # the first start compiles
        costs = {part: measure_module("benchmarks.features", "part", part, str(folder), cwd=folder) for part in _PARTS}
    base = costs.pop("nothing")
    result = {
        "machine": describe(),
        "rows": rows,
        "statistics": 2 * (fields + 3),
        "compared_columns": len(_NUMBERS),
        "base_memory_bytes": base.peak_memory_bytes,
        **{part: _figures(cost, base, rows) for part, cost in costs.items()},
        "matches_rows_per_cpu_second": {str(tokens): _matches(tokens) for tokens in (75, 530)},
    }
    report(result, out)


@app.command()
def part(name: str, folder: Path) -> None:
    """Run one part, to be measured."""
    if name in ("in_time", "out_of_fold"):
        _fit(folder, name)
    elif name == "read":
        reader = JoinedRows(ShardReader(folder / "prepared"), Statistics(folder / "in_time"))
        for start in range(0, reader.num_rows, 4096):
            reader.read("numeric", start, min(start + 4096, reader.num_rows))
    elif name == "impressions":
        (folder / "scratch").mkdir()
        build_impression_features(
            str(folder / "raw.parquet"),
            key=["request"],
            compared=[Compared((column,), (column,), _numbers(column)) for column in _NUMBERS],
            folder=folder / "scratch",
            batch_rows=8192,
            num_threads=1,
        )


def _figures(cost: Cost, base: Cost, rows: int) -> dict[str, Any]:
    own = cost.cpu_seconds - base.cpu_seconds
    return {
        # None: less than what the start of a process varies by.
        "rows_per_cpu_second": rows / own if own > 0 else None,
        "cpu_seconds": cost.cpu_seconds,
        "peak_memory_bytes": cost.peak_memory_bytes,
    }


def _fit(folder: Path, name: str) -> None:
    reader = ShardReader(folder / "prepared")
    generator = np.random.default_rng(2)
    fitted = np.flatnonzero(generator.random(reader.num_rows) < 0.9)
    if name == "in_time":
        past: Earlier | OtherParts = Earlier.of(generator.permutation(reader.num_rows), None, fitted, num_blocks=10)
    else:
        past = OtherParts.of(generator.integers(0, 2**63, reader.num_rows).astype(np.uint64), fitted)
    (folder / name).mkdir()
    fit_statistics(
        reader,
        choose_statistics(reader.schema, patterns=None, pairs=None, user="user"),
        label=read_labels(reader),
        past=past,
        prior_weight=20.0,
        keep=0.25,
        folder=folder / name,
    )


def _matches(num_tokens: int) -> float:
    generator = np.random.default_rng(3)
    items = generator.integers(1, 594, (_MATCHED_ROWS, num_tokens))
    histories = pa.array([",".join(map(str, row)) for row in items.tolist()])
    seed = seed_of("item", 0)
    field = Field("seq", FieldKind.SEQUENCE, vocabulary="item", num_buckets=_BUCKETS, max_len=100, tokens="number")
    rules, own, seconds = token_rules(field, seed), hash_values(pa.array(items[:, 0]), seed), []
    for _ in range(21):  # the first one compiles
        started = time.process_time()
        match_history(histories, rules, *own)
        seconds.append(time.process_time() - started)
    return _MATCHED_ROWS / median(seconds[1:])


def _numbers(column: str) -> Any:
    return lambda _file, _row, batch: [pc.cast(batch.column(column), pa.float32()).to_numpy(zero_copy_only=False)]


def _write_prepared(folder: Path, rows: int, num_fields: int) -> None:
    folder.mkdir()
    sizes = {f"field_{number:02d}": _BUCKETS for number in range(num_fields)} | dict.fromkeys(
        ("user", "item"), _LARGE_BUCKETS
    )
    fields = [Field(name, FieldKind.CATEGORICAL, vocabulary=name, num_buckets=size) for name, size in sizes.items()]
    schema = Schema((*fields, Field("price", FieldKind.NUMERIC)), ("item",), "clicked", "ID", 0)
    writer = ShardWriter(folder, layout(schema, with_label=True), num_rows=rows, shard_rows=_CHUNK_ROWS)
    generator = np.random.default_rng(0)
    for start in range(0, rows, _CHUNK_ROWS):
        size = min(_CHUNK_ROWS, rows - start)
        # Squared: some values are much more frequent than others.
        buckets = [2 + (generator.random(size) ** 2 * (num - 2)).astype(np.int32) for num in sizes.values()]
        writer.append(
            {
                "categorical": np.column_stack(buckets),
                "numeric": generator.random((size, 1), np.float32),
                "label": (generator.random((size, 1)) < 0.02).astype(np.uint8),
            }
        )
    writer.close(schema=schema)


def _write_raw(path: Path, rows: int) -> None:
    generator, num_groups = np.random.default_rng(1), max(1, rows // _IMPRESSION_ROWS)
    schema = pa.schema([("request", pa.string()), *((name, pa.float32()) for name in _NUMBERS)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _CHUNK_ROWS):
            size = min(_CHUNK_ROWS, rows - start)
            request = pa.array(generator.integers(0, num_groups, size)).cast(pa.string())
            numbers = [pa.array(generator.random(size, np.float32)) for _ in _NUMBERS]
            writer.write_table(pa.table([request, *numbers], schema=schema))


if __name__ == "__main__":
    app()
