"""The baseline of `benchmarks.prepare_speed`: the loop over row groups that one finds in notebooks.

    python -m benchmarks.pandas_prepare data/train.parquet folder

Each row group becomes a data frame; categories are hashed by pandas, sequences split in Python, and the arrays saved
per group: the same information as prepared shards, without checks, statistics or order over batches.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import typer

from benchmarks.profile import ROOT
from qin.columns.resolve import resolve_schema
from qin.columns.schema import Schema
from qin.config import load_params


def main(
    file: Annotated[Path, typer.Argument(help="Parquet file to encode.")],
    folder: Annotated[Path, typer.Argument(help="Existing folder to write into.")],
) -> None:
    """Encode every row group of a file."""
    params = load_params(ROOT / "params.yaml")
    source = pq.ParquetFile(file)
    schema = resolve_schema(source.schema_arrow, data=params.data, features=params.features)
    columns = [*(field.name for field in schema.fields), schema.label]
    for number in range(source.num_row_groups):
        frame = source.read_row_group(number, columns=columns).to_pandas()
        for name, array in _encode(frame, schema).items():
            np.save(folder / f"{number:05d}.{name}.npy", array)


def _encode(frame: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    categorical = np.column_stack(
        [
            pd.util.hash_array(frame[field.name].astype(str).to_numpy()) % np.uint64(field.num_buckets)
            for field in schema.categorical
        ]
    )
    arrays = {
        "categorical": categorical.astype(np.uint16),
        "numeric": frame[[field.name for field in schema.numeric]].to_numpy(np.float32),
        "label": frame[schema.label].to_numpy(np.uint8),
    }
    for field in schema.sequences:
        out = np.zeros((len(frame), field.max_len), np.uint16)
        for row, text in enumerate(frame[field.name]):
            tokens = text.split(",")[-field.max_len :] if text else []
            out[row, : len(tokens)] = [int(token) % field.num_buckets for token in tokens]
        arrays[field.name] = out
    return arrays


if __name__ == "__main__":
    typer.run(main)
