"""Equal values that other types wrote are equal in every role of a column: what a run makes of them stays to the byte.

A type that could not be told apart safely may be refused; nothing else may change without a word. All types of a role:
`QIN_FUZZ_TYPES=99 pytest -m slow tests/fuzz/test_equal_values.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.runtime.errors import QinError
from qin.runtime.stage import STAGES
from qin.serving.scorer import Scorer
from tests.fuzz.sandbox import SETTINGS, Sandbox, settings, write_settings

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("QIN_FUZZ_SEED", "0"))
NUM_TYPES = int(os.environ.get("QIN_FUZZ_TYPES", "3"))  # of each role

_KEY = "key"
_KEPT = ("data/split/fold", "plots/", "metrics/", "outputs/submission", "artifacts/slices", "artifacts/temperature")

_NUMBERS: tuple[pa.DataType, ...] = (
    *(pa.int8(), pa.int32(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(20, 0), pa.decimal128(20, 3)),
    *(pa.dictionary(pa.int8(), pa.int64()), pa.dictionary(pa.int32(), pa.float64())),
)
_TEXTS: tuple[pa.DataType, ...] = (
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()),
    pa.dictionary(pa.int16(), pa.string()),
)
_INPUT = {"features.categorical": ["item", "cat", "user", _KEY]}

# Settings of each role, and the types in which its values mean the same.
ROLES: dict[str, tuple[dict[str, Any], tuple[pa.DataType, ...]]] = {
    "category": ({**_INPUT, "features.target": [_KEY, "item"]}, _NUMBERS + _TEXTS),
    "number": ({"features.numeric": ["price", "ts", _KEY]}, _NUMBERS),
    "user": ({"split.method": "group_user", "split.group_key": _KEY}, _NUMBERS + _TEXTS),
    "session": ({"split.method": "group_session", "split.session_key": _KEY}, _NUMBERS + _TEXTS),
    "time": ({"split.method": "time", "split.time_col": _KEY}, (*_NUMBERS, pa.string(), pa.binary())),
    "row key": ({"split.row_key": [_KEY, "item", "ts"]}, _NUMBERS + _TEXTS),
    "impression": ({"features.impression.key": [_KEY]}, _NUMBERS + _TEXTS),
    "compared": (
        {"features.impression.key": ["user"], "features.impression.columns": [_KEY]},
        (*_NUMBERS, pa.string(), pa.large_string(), pa.dictionary(pa.int16(), pa.string())),
    ),
    "slices": ({"evaluate.slices": [_KEY], "split.group_key": _KEY}, _NUMBERS + _TEXTS),
    "segments": ({"calibration.by": _KEY, "evaluate.slices": ["cat"]}, _NUMBERS + _TEXTS),
    "counted": ({**_INPUT, "features.statistics.pairs": [["user", _KEY], ["seq", _KEY]]}, _NUMBERS + _TEXTS),
    "vocabulary": (
        {
            **_INPUT,
            "features.sequences": [
                {"name": "seq", "max_len": 6, "vocabulary_of": _KEY, "padding": 0},
                {"name": "recent", "max_len": 4, "vocabulary_of": _KEY, "padding": "0"},
            ],
        },
        _NUMBERS,
    ),
    "history": (
        {
            "features.sequences": [
                *SETTINGS["features"]["sequences"],
                {"name": _KEY, "max_len": 3, "vocabulary_of": "item", "padding": 3},
            ]
        },
        tuple(map(pa.list_, (*_NUMBERS[:7], *_TEXTS[:5]))),
    ),
    "label": ({"data.label": _KEY, "data.ignore": ["extra_*", "clicked"]}, (*_NUMBERS, pa.bool_())),
    "id": ({"data.id": _KEY}, (*_NUMBERS[:3], pa.decimal128(20, 0), *_TEXTS)),
}


@pytest.mark.parametrize("role", ROLES)
def test_equal_values_of_other_types_leave_the_run_as_it_is(role: str, sandbox: Sandbox) -> None:
    changes, every = ROLES[role]
    generator = np.random.default_rng([SEED, list(ROLES).index(role)])
    kinds = [every[place] for place in generator.permutation(len(every))[:NUM_TYPES]]
    first = pa.list_(pa.int64()) if role == "history" else pa.int64()
    expected, refused = _made(sandbox, role, changes, first, first), []
    assert not isinstance(expected, str), expected
    scored = _scored(sandbox, first, role)
    faults = []
    for kind in kinds:
        said = _scored(sandbox, kind, role)
        if isinstance(said, str):
            refused.append(f"{kind} scored: {said}")
        elif not np.array_equal(said, scored):
            faults.append(f"{kind} scored: {np.count_nonzero(said != scored)} rows differ")
    for in_train, in_test in [(kind, kind) for kind in kinds] + [(first, kind) for kind in kinds[:1]]:
        found = _made(sandbox, role, changes, in_train, in_test)
        if isinstance(found, str):
            refused.append(f"{in_train}, {in_test} in test: {found}")
        elif differing := sorted(name for name in expected if found.get(name) != expected[name]):
            faults.append(f"{in_train}, {in_test} in test: others are {', '.join(differing)}")
    sandbox.put_back()
    assert not faults, "\n".join(faults)
    assert all(" apart" in line or "two segments" in line or "of type" in line for line in refused), refused


def _made(
    sandbox: Sandbox, role: str, changes: dict[str, Any], in_train: pa.DataType, in_test: pa.DataType
) -> dict[str, Any] | str:
    """What a run leaves, by file, or the line that refuses it."""
    sandbox.put_back()
    tree = settings()
    if not any(key.startswith(("features.c", "features.n", "features.s")) for key in changes) and role not in (
        *("label", "id"),
    ):
        tree["data"]["ignore"] = [*tree["data"]["ignore"], _KEY]
    for dotted, value in changes.items():
        section, _, name = dotted.partition(".")
        node = tree[section]
        for part in name.split(".")[:-1]:
            node = node[part]
        node[name.rsplit(".", 1)[-1]] = value
    write_settings(sandbox.folder, tree)
    for name, kind in {"train": in_train, "test": in_test}.items():
        _write(sandbox.folder, name, role, kind)
    ended = sandbox.run(STAGES)[-1]
    if ended.status != 0:
        assert ended.status == 1, (ended.lines, ended.escaped)
        return next(line for line in ended.lines if line.startswith("error: "))
    return {
        name: _without_types(name, content)
        for name, content in sandbox.files().items()
        if name.startswith(_KEPT) or name.endswith(".bin")
    }


def _without_types(name: str, content: bytes) -> Any:
    """What a file says besides where it comes from."""
    if not name.endswith(".json"):
        return content
    tree = json.loads(content)
    for part in (tree, tree.get("segments") or {}, (tree.get("heldout") or {}).get("segments") or {}):
        for key in ("origin", "checksum", "type"):
            part.pop(key, None)
    return tree


def _write(folder: Path, name: str, role: str, kind: pa.DataType) -> None:
    if (role, name) in (("label", "test"), ("id", "train")):
        return
    file = folder / f"data/{name}.parquet"
    table = pq.read_table(file)
    table = table.append_column(_KEY, _column(role, table.num_rows, kind))
    pq.write_table(table, file)
    if role == "id":
        lines = [f"{number},0\n" for number in _numbers(role, table.num_rows)]
        (folder / "data/sample_submission.csv").write_text(f"{_KEY},clicked\n{''.join(lines)}", newline="")


def _column(role: str, num_rows: int, kind: pa.DataType) -> pa.Array:
    numbers = _numbers(role, num_rows)
    if role != "history":
        return _as(pa.array(numbers), kind)
    flat = pa.array([number % 30 for number in numbers for _ in range(number % 5)])
    offsets = np.concatenate([[0], np.cumsum([number % 5 for number in numbers])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _as(flat, kind.value_type))


def _as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return _as(values, kind.value_type).dictionary_encode().cast(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if is_number or pa.types.is_boolean(kind):
        return values.cast(pa.bool_()) if pa.types.is_boolean(kind) else _number(values, kind)
    return values.cast(pa.string()).cast(kind)


def _number(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow casts no 64-bit integers to narrow decimals."""
    if not pa.types.is_decimal(kind):
        return values.cast(kind)
    return values.cast(pa.decimal128(38, 0)).cast(kind)


def _numbers(role: str, num_rows: int) -> list[int]:
    generator = np.random.default_rng(5)
    if role == "label":
        return [int(number) for number in generator.random(num_rows) < 0.3]
    if role == "id":
        return [int(number) for number in generator.permutation(num_rows)]
    numbers = generator.integers(0, 30, num_rows)
    return [int(number) for number in (np.sort(numbers) if role == "time" else numbers)]


def _scored(sandbox: Sandbox, kind: pa.DataType, role: str) -> Any:
    """What the deployed model gives rows of a type, or the line that refuses them."""
    if role in ("label", "id"):
        return np.zeros(0)
    table = pq.read_table(sandbox.folder / "data/test.parquet")
    place = table.schema.get_field_index(_KEY)
    column = _column(role, table.num_rows, kind)
    try:
        return Scorer.load("artifacts", num_threads=1).score(table.set_column(place, _KEY, column))
    except QinError as error:
        return error.lines[0]
