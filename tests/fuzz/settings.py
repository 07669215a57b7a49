"""Mutations of params.yaml: values of wrong type and range, unknown and misspelt keys, contradictions, odd YAML."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutation import Mutation, choice
from tests.fuzz.sandbox import settings, write_settings

# What no setting can be, whatever its type: none of them may be accepted.
_NEVER: tuple[Any, ...] = ({"a": 1}, [[1]], float("nan"), float("inf"), -float("inf"), [{}], [None])

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, 1.5, -0.0, 1e-300, 1e300, -1e300),
    *(2**31, 2**53 + 1, 2**63, 2**64, 10**350),
    *("", " ", "auto", "none", "NaN", "1e-5", "0x10", "item", "no such", "*", "["),
    *("\u202e", "line\nbreak", "\ud7ff", "é"),
    *([], ["item"], ["no such"], ["item", "item"], ["*"], ["[a"], [""], {}),
)

_SIZES: tuple[Any, ...] = (
    *(None, 0, 1, 2, 3, 100, 2**31 - 1, 2**53, 2**62, 1e-300, 1e-17, 1e-6, 1e-5, 0.5, 0.999999999, 1e6, 1e30, 1e300),
)

_CONTRADICTIONS: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"split.method": "group_user", "split.group_key": None}, True),
    ({"split.method": "time", "split.time_col": None}, True),
    ({"split.method": "time", "split.time_col": "seq"}, True),
    ({"split.method": "time", "split.time_col": "recent"}, True),
    ({"split.method": "time", "split.time_col": "ts", "split.time_val_start": "yesterday"}, True),
    ({"split.method": "time", "split.time_col": "ts", "split.time_val_start": 10**400}, True),
    ({"split.method": "time", "split.time_col": "ts", "split.time_val_start": -(10**20)}, True),
    ({"split.method": "time", "split.time_col": "ts", "split.time_embargo": 1e300}, True),
    ({"split.method": "time", "split.time_col": "price"}, True),
    ({"split.method": "group_user", "split.group_key": "clicked"}, True),
    ({"split.method": "group_session", "split.group_key": "user", "split.session_key": "no such"}, True),
    ({"split.row_key": ["recent"]}, True),
    ({"split.row_key": ["no such"]}, True),
    ({"split.thresholds": {"a": 1}}, True),
    ({"data.label": "price"}, True),
    ({"data.label": "ID"}, True),
    ({"data.id": "item"}, True),
    ({"data.id": "clicked"}, True),
    ({"data.train": "data/test.parquet"}, True),
    ({"data.test": "data/train.parquet"}, True),
    ({"data.sample_submission": "data/test.parquet"}, True),
    ({"data.train": "params.yaml"}, True),
    ({"data.train": "data"}, True),
    ({"data.train": "/proc/self/mem"}, True),
    ({"data.train": "data/tr\0ain.parquet"}, True),
    ({"data.sample_submission": "x" * 5000}, True),
    ({"features.target": ["price"]}, True),
    ({"features.target": ["seq"]}, True),
    ({"features.categorical": ["item", "cat", "user", "price"]}, True),
    ({"features.categorical": ["*"]}, True),
    ({"features.numeric": ["price", "ts", "cat"]}, True),
    ({"features.sequences": []}, True),
    ({"features.sequences.0.vocabulary_of": "price"}, True),
    ({"features.sequences.0.vocabulary_of": "seq"}, True),
    ({"features.sequences.0.num_buckets": 64}, True),
    ({"features.sequences.1.name": "seq"}, True),
    ({"features.sequences.0.separator": "1"}, True),
    ({"features.sequences.0.separator": "|"}, True),
    ({"features.num_buckets_of": {"price": 64}}, True),
    ({"features.num_buckets_of": {"no such": 64}}, True),
    ({"features.impression.key": ["no such"]}, True),
    ({"features.impression.key": ["recent"]}, True),
    ({"features.impression.key": ["clicked"]}, True),
    ({"features.impression.columns": ["no such"], "features.impression.key": ["user"]}, True),
    ({"features.statistics.fields": ["no such"]}, True),
    ({"features.statistics.pairs": [["item", "no such"]]}, True),
    ({"features.statistics.pairs": [["item", "item"]]}, True),
    ({"evaluate.slices": ["no such"]}, True),
    ({"evaluate.slices": ["recent"]}, True),
    ({"calibration.by": "no such"}, True),
    ({"calibration.by": "clicked"}, True),
    ({"calibration.by": "seq", "calibration.temperature_scaling": False}, True),
    ({"calibration.objective": "wll"}, True),
    ({"model.num_heads": 3}, True),
    ({"model.num_heads": 2, "model.attention_score": "mlp"}, True),
    ({"model.members": []}, True),
    ({"model.members": ["network", "network"]}, True),
    ({"split.val_ratio": 1e-12}, True),
    ({"split.val_ratio": 1 - 1e-12}, True),
    ({"prepare.num_threads": 2**31}, True),
    ({"prepare.shard_rows": 1}, False),
    ({"prepare.batch_rows": 1}, False),
    ({"prepare.batch_rows": 2**31 - 1}, False),
    ({"features.sequences.0.max_len": 1}, False),
    ({"split.group_key": "user", "split.method": "group_user"}, False),
    ({"split.time_col": "ts", "split.method": "time"}, False),
    ({"features.impression.key": ["user"]}, False),
    ({"split.seed": 2**63 - 1}, False),
    ({"features.hash_seed": 2**63 - 1}, False),
)

_ODD_YAML: tuple[Callable[[str], bytes], ...] = (
    lambda text: b"",
    lambda text: b"\x00",
    lambda text: b"- a\n- b\n",
    lambda text: b"just text",
    lambda text: b"x" * 5000,
    lambda text: b"\xff\xfe" + text.encode("utf-16-le")[: len(text)],
    lambda text: text.encode() + b"\xff",
    lambda text: text.encode() + b"data: {}\n",
    lambda text: text.encode() + b"? [a, b]\n: 1\n",
    lambda text: text.encode() + b"zz: &x [*x]\n",
    lambda text: text.encode() + b"zz: *nowhere\n",
    lambda text: text.encode() + b"zz: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    lambda text: text.encode() + b"zz: !!python/object/apply:os.getcwd []\n",
    lambda text: text.encode() + b"---\na: 1\n",
    lambda text: text.encode() + b"zz: " + b"9" * 5000 + b"\n",
    lambda text: text.encode() + b"\tzz: 1\n",
    lambda text: text.encode() + b"1: 1\n",
    lambda text: text.encode() + b"~: 1\n",
    lambda text: text.encode() + b'"\\ud800": 1\n',
    lambda text: text.encode() + b'zz: "\\U00110000"\n',
    lambda text: (
        text.encode()
        + b"zz:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"  a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9))
    ),
    lambda text: text.replace("hash_seed: 0", "hash_seed: !!binary AAAA").encode(),
    lambda text: text.replace("hash_seed: 0", "hash_seed: 2022-05-04").encode(),
    lambda text: text.replace("hash_seed: 0", "hash_seed: 0.0").encode(),
    lambda text: text.replace("train:", "Train:").encode(),
)


def mutate_settings(folder: Path, generator: np.random.Generator) -> Mutation:
    """Write a params.yaml with one thing wrong, or odd."""
    return choice(generator, _KINDS)(folder, generator)


def mutate_numbers(folder: Path, generator: np.random.Generator) -> Mutation:
    """Write a params.yaml with a number of any size for one setting of training, and what it belongs to switched on."""
    tree = settings()
    tree["imbalance"].update({"use_neg_downsampling": True, "neg_downsample_ratio": 0.5, "pos_weight": 2.0})
    tree["hnm"].update({"enable": True, "min_neg": 4})
    if generator.random() < 0.5:
        tree["split"].update({"method": "time", "time_col": "ts"})
    sections = [tree[name] for name in ("imbalance", "hnm", "trees", "calibration", "evaluate", "predict")]
    section = choice(generator, [*sections, tree["features"]["statistics"]])
    key = choice(generator, [name for name, value in section.items() if not isinstance(value, bool | list)])
    section[key] = value = choice(generator, _SIZES)
    write_settings(folder, tree)
    return Mutation(f"{key}: {value!r}")


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all keys, those of sections as well."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in pairs for found in [(*path, key), *_leaves(value, (*path, key))]]


def _parent(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        tree = tree[part]
    return tree


def _odd_value(folder: Path, generator: np.random.Generator) -> Mutation:
    tree = settings()
    path, value = choice(generator, _leaves(tree)), choice(generator, _ODD)
    _parent(tree, path)[path[-1]] = value
    write_settings(folder, tree)
    return Mutation(f"{_dotted(path)}: {str(value)[:60]!r}")


def _impossible(folder: Path, generator: np.random.Generator) -> Mutation:
    tree = settings()
    # A mapping may be what `num_buckets_of` and `thresholds` want.
    path = choice(generator, [path for path in _leaves(tree) if not {"num_buckets_of", "thresholds"} & {*path}])
    value = choice(generator, _NEVER)
    _parent(tree, path)[path[-1]] = value
    write_settings(folder, tree)
    return Mutation(f"{_dotted(path)}: {value!r}", is_bad=True)


def _unknown_key(folder: Path, generator: np.random.Generator) -> Mutation:
    tree = settings()
    path = choice(generator, [path for path in _leaves(tree) if isinstance(_parent(tree, path), dict)])
    old = str(path[-1])
    name = choice(generator, (f"{old}s", old[:-1] or "x", old.upper(), "", "a.b", "ключ", "\n"))
    node = _parent(tree, path)
    if name in node or "num_buckets_of" in path[:-1]:
        name = "no_such_key"
    node[name] = 1000
    write_settings(folder, tree)
    return Mutation(f"unknown {_dotted((*path[:-1], name))!r}", is_bad="num_buckets_of" not in path[:-1] or None)


def _without_key(folder: Path, generator: np.random.Generator) -> Mutation:
    tree = settings()
    path = choice(generator, _leaves(tree))
    del _parent(tree, path)[path[-1]]
    write_settings(folder, tree)
    return Mutation(f"without {_dotted(path)}")


def _misspelt(folder: Path, generator: np.random.Generator) -> Mutation:
    """A letter of a text is lost, doubled or another."""
    tree = settings()
    path = choice(generator, [path for path in _leaves(tree) if isinstance(_parent(tree, path)[path[-1]], str)])
    text = _parent(tree, path)[path[-1]]
    place = int(generator.integers(len(text)))
    letter = choice(generator, ("", text[place] * 2, "_", "/", "*", "?"))
    _parent(tree, path)[path[-1]] = changed = text[:place] + letter + text[place + 1 :]
    write_settings(folder, tree)
    return Mutation(f"{_dotted(path)}: {changed!r}")


def _contradiction(folder: Path, generator: np.random.Generator) -> Mutation:
    tree = settings()
    changes, is_bad = choice(generator, _CONTRADICTIONS)
    for dotted, value in changes.items():
        path = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        _parent(tree, path)[path[-1]] = value
    write_settings(folder, tree)
    return Mutation(f"{str(changes)[:200]}", is_bad=is_bad)


def _odd_yaml(folder: Path, generator: np.random.Generator) -> Mutation:
    number = int(generator.integers(len(_ODD_YAML)))
    file = folder / "params.yaml"
    file.write_bytes(_ODD_YAML[number](file.read_text(encoding="utf-8")))
    return Mutation(f"odd YAML {number}", is_bad=True)


def _byte(folder: Path, generator: np.random.Generator) -> Mutation:
    """One byte is another: what that means depends on where it is."""
    file = folder / "params.yaml"
    content = bytearray(file.read_bytes())
    place, value = int(generator.integers(len(content))), int(generator.integers(256))
    content[place] = value
    file.write_bytes(content)
    return Mutation(f"byte {place} of params.yaml: {value:#x}")


_KINDS = (
    *(_odd_value, _odd_value, _impossible, _unknown_key, _without_key),
    *(_misspelt, _contradiction, _odd_yaml, _byte),
)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
