"""Columns of any type in every role that a column may have: keys, times, segments, labels, ids, inputs."""

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
    {"split.method": "group_user", "split.group_key": _KEY, "split.num_folds": 2},
    {"split.method": "group_session", "split.session_key": _KEY},
    {"split.method": "group_session", "split.group_key": "user", "split.session_key": _KEY},
    {"split.method": "time", "split.time_col": _KEY},
    {"split.method": "time", "split.time_col": _KEY, "split.num_folds": 2, "split.session_key": "user"},
    {
        "split.method": "time",
        "split.time_col": "ts",
        "split.session_key": _KEY,
        "split.cross_boundary_sessions": "drop",
    },
    {"split.row_key": [_KEY, "item"]},
    {"features.impression.key": [_KEY]},
    {"features.impression.key": ["user", _KEY]},
    {"features.impression.key": ["user"], "features.impression.columns": [_KEY]},
    {"evaluate.slices": [_KEY], "split.group_key": _KEY},
    {"evaluate.slices": [_KEY, "cat"], "split.num_folds": 2},
    {"calibration.by": _KEY},
    {"calibration.by": _KEY, "calibration.method": "platt", "evaluate.slices": [_KEY], "split.num_folds": 2},
    {"features.categorical": ["item", "cat", "user", _KEY]},
    {"features.categorical": ["item", "cat", "user", _KEY], "features.target": [_KEY, "item"]},
    {"features.categorical": ["item", "cat", "user", _KEY], "features.statistics.fields": [_KEY]},
    {
        "features.categorical": ["item", "cat", "user", _KEY],
        "features.statistics.pairs": [["user", _KEY], ["seq", _KEY], [_KEY, "item"]],
    },
    {"features.numeric": ["price", "ts", _KEY]},
    {"features.sequences": [*SETTINGS["features"]["sequences"], {"name": _KEY, "max_len": 3, "num_buckets": 50}]},
    {
        "features.categorical": ["item", "cat", "user", _KEY],
        "features.sequences": [
            {"name": "seq", "max_len": 6, "vocabulary_of": _KEY},
            {"name": "recent", "max_len": 4, "vocabulary_of": _KEY, "padding": 0},
        ],
    },
    {
        "features.sequences": [
            *SETTINGS["features"]["sequences"],
            {"name": _KEY, "max_len": 3, "vocabulary_of": "item", "padding": 5, "separator": " "},
        ]
    },
    {"data.label": _KEY, "data.ignore": ["extra_*", "clicked"]},
    {"data.id": _KEY},
)


def mutate_keys(folder: Path, generator: np.random.Generator) -> Mutation:
    """Add a column of some type to both files, or of another type to test, and give it a role."""
    role, kind = choice(generator, _ROLES), choice(generator, TYPES)
    kinds = {"train": kind, "test": choice(generator, TYPES) if generator.random() < 0.2 else kind}
    tree = settings()
    is_input = any(key.startswith("features") and key.count(".") == 1 for key in role)
    if not is_input and not {"data.label", "data.id"} & role.keys():  # which must be in no list of others
        tree["data"]["ignore"] = [*tree["data"]["ignore"], _KEY]
    for dotted, value in role.items():
        *parents, last = dotted.split(".")
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    write_settings(folder, tree)
    for name, of_file in kinds.items():
        _add_column(folder, name, _values(role, generator, len_of(folder, name), name=name), of_file)
    if "data.id" in role:
        _rewrite_sample(folder)
    return Mutation(f"{role} of {kinds['train']}, {kinds['test']} in test")


def len_of(folder: Path, name: str) -> int:
    """Rows of a raw file."""
    return int(pq.read_metadata(folder / f"data/{name}.parquet").num_rows)


def _values(role: dict[str, Any], generator: np.random.Generator, num_rows: int, *, name: str) -> list[int] | None:
    """What a column of a role holds before it gets its type; None where a file has no such column."""
    if "data.label" in role:
        return None if name == "test" else list(map(int, generator.integers(0, 2, num_rows)))
    if "data.id" in role:
        return None if name == "train" else list(map(int, generator.permutation(num_rows)))
    return list(map(int, np.sort(generator.integers(0, 80, num_rows))))


def _add_column(folder: Path, name: str, values: list[int] | None, kind: pa.DataType) -> None:
    if values is None:
        return
    file = folder / f"data/{name}.parquet"
    table = pq.read_table(file)
    try:
        pq.write_table(table.append_column(_KEY, _column(values, kind)), file)
    except pa.ArrowException:  # a type that Parquet has not
        pq.write_table(table.append_column(_KEY, pa.array(values)), file)


def _rewrite_sample(folder: Path) -> None:
    """A sample submission of the ids as text, where they have one."""
    column = pq.read_table(folder / "data/test.parquet", columns=[_KEY]).column(_KEY)
    texts = [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in column.to_pylist()]
    quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
    text = f"{_KEY},clicked\n" + "".join(f"{value},0\n" for value in quoted)
    (folder / "data/sample_submission.csv").write_text(text, encoding="utf-8", newline="")


def _column(values: list[int], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values).cast(kind)
    except pa.ArrowException:
        return made(values, kind)
