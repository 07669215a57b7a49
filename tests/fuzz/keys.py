"""Columns of any type in the roles that a column may have besides being an input: keys, times, segments."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutation import Mutation, choice
from tests.fuzz.raw import TYPES, made
from tests.fuzz.sandbox import SETTINGS, settings, write_settings

_KEY = "key"

_ROLES: tuple[dict[str, Any], ...] = (
    {"split.method": "group_user", "split.group_key": _KEY},
    {"split.method": "group_session", "split.session_key": _KEY},
    {"split.method": "group_session", "split.group_key": "user", "split.session_key": _KEY},
    {"split.method": "time", "split.time_col": _KEY},
    {"split.row_key": [_KEY, "item"]},
    {"features.impression.key": [_KEY]},
    {"features.impression.key": ["user"], "features.impression.columns": [_KEY]},
    {"evaluate.slices": [_KEY], "split.group_key": _KEY},
    {"calibration.by": _KEY},
    {"features.categorical": ["item", "cat", "user", _KEY]},
    {"features.numeric": ["price", "ts", _KEY]},
    {"features.sequences": [*SETTINGS["features"]["sequences"], {"name": _KEY, "max_len": 3, "num_buckets": 50}]},
)


def mutate_keys(folder: Path, generator: np.random.Generator) -> Mutation:
    """Add a column of some type to both files, or of another type to test, and give it a role."""
    role, kind = choice(generator, _ROLES), choice(generator, TYPES)
    kinds = {"train": kind, "test": choice(generator, TYPES) if generator.random() < 0.2 else kind}
    tree = settings()
    if not any(key.startswith("features") and key.count(".") == 1 for key in role):
        tree["data"]["ignore"] = [*tree["data"]["ignore"], _KEY]
    for dotted, value in role.items():
        *parents, last = dotted.split(".")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    write_settings(folder, tree)
    for name, of_file in kinds.items():
        file = folder / f"data/{name}.parquet"
        table = pq.read_table(file)
        values = np.sort(generator.integers(0, 80, table.num_rows)).tolist()
        try:
            pq.write_table(table.append_column(_KEY, _column(values, of_file)), file)
        except pa.ArrowException:  # a type that Parquet has not
            pq.write_table(table.append_column(_KEY, pa.array(values)), file)
    return Mutation(f"{role} of {kinds['train']}, {kinds['test']} in test")


def _column(values: list[int], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values).cast(kind)
    except pa.ArrowException:
        return made(values, kind)
