"""Whatever params.yaml, the raw files and the artifacts hold: exit 0 and whole outputs, or exit 1 and lines that help.

A longer hunt, from another place: `QIN_FUZZ=20000 QIN_FUZZ_SEED=7 pytest -m slow tests/fuzz`. A fault's message names
its seed and number, and with `QIN_FUZZ_ONLY=<number>` that mutation alone is made again.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qin.config import load_params
from qin.runtime import paths
from qin.runtime.folded import fold_places
from qin.runtime.stage import STAGES
from qin.shards.files import ShardReader
from tests.fuzz.combinations import mutate_combinations
from tests.fuzz.damage import damage, damaged_files, readers
from tests.fuzz.keys import mutate_keys
from tests.fuzz.mutation import Mutation
from tests.fuzz.raw import mutate_raw
from tests.fuzz.sandbox import TEST_ROWS, Ended, Sandbox, digest, verdict
from tests.fuzz.settings import mutate_numbers, mutate_settings

pytestmark = pytest.mark.slow

MUTATIONS = int(os.environ.get("QIN_FUZZ", "600"))
SEED = int(os.environ.get("QIN_FUZZ_SEED", "0"))
ONLY = os.environ.get("QIN_FUZZ_ONLY")

# Of the mutations that prepare and split accept, those that go all the way.
WHOLE_EVERY = 6

_SHOWN = 40


def numbers(share: float) -> Iterator[int]:
    """Numbers of the mutations of one kind."""
    yield from [int(ONLY)] if ONLY else range(max(1, int(MUTATIONS * share)))


def tried(
    sandbox: Sandbox, number: int, mutate: Callable[[Path, np.random.Generator], Mutation], *, whole: bool = False
) -> list[str]:
    """Make one mutation and run stages, all of them for some or if `whole`; returns the faults."""
    mutation = mutate(sandbox.folder, np.random.default_rng([SEED, number]))
    before = sandbox.files()
    faults: list[str] = []
    ended: list[Ended] = []
    for stage in STAGES if whole or number % WHOLE_EVERY == 0 else STAGES[:2]:
        ended += sandbox.run([stage])
        after = sandbox.files()
        faults += verdict(ended[-1], before, after)
        if ended[-1].status != 0:
            break
        before = after
    faults += _accepted(mutation, ended, sandbox.folder)
    sandbox.put_back()
    return [f"seed {SEED}, number {number}, {mutation.name}: {fault}" for fault in faults]


def _accepted(mutation: Mutation, ended: list[Ended], folder: Path) -> list[str]:
    """What is wrong with a mutation's having passed, or not."""
    if ended[-1].status == 1:
        return [f"refused: {ended[-1].lines}"] if mutation.is_bad is False else []
    if ended[-1].status != 0:
        return []
    if mutation.is_bad:
        return ["accepted by " + ", ".join(end.stage for end in ended)]
    return _invalid_outputs(folder, is_whole=len(ended) == len(STAGES))


def _invalid_outputs(folder: Path, *, is_whole: bool) -> list[str]:
    """What later stages, or people, could not use."""
    reader = ShardReader(folder / paths.PREPARED_TRAIN)
    reader.verify()
    rows = json.loads((folder / "metrics/split.json").read_text())["rows"]
    faults = []
    for place in fold_places(paths.FOLDS, at=folder / paths.FOLDS):
        fold = np.load(place / "fold.npy")
        if fold.shape != (reader.num_rows,):
            faults.append(f"{fold.shape} folds of {reader.num_rows} rows: {rows}")
    if is_whole:
        with (folder / paths.SUBMISSION).open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        chances = np.array([line[-1] for line in lines], float)
        expected = TEST_ROWS if load_params(folder / paths.PARAMS).data.test else 0
        if len(lines) != expected or len(header) != 2 or not ((chances >= 0) & (chances <= 1)).all():
            faults.append(f"a submission of {len(lines)} lines, {header!r}, {lines[:3]}")
    return faults


def test_settings(sandbox: Sandbox) -> None:
    faults = [fault for number in numbers(0.45) for fault in tried(sandbox, number, mutate_settings)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])


def test_raw_files(sandbox: Sandbox) -> None:
    faults = [fault for number in numbers(0.4) for fault in tried(sandbox, number, mutate_raw)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])


def test_keys(sandbox: Sandbox) -> None:
    """All stages: what groups rows is read again when all is trained."""
    faults = [fault for number in numbers(0.1) for fault in tried(sandbox, number, mutate_keys, whole=True)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])


def test_numbers_of_training(sandbox: Sandbox) -> None:
    """All stages, with all that is off by default: numbers that no check of the settings refuses must do."""
    faults = [fault for number in numbers(0.1) for fault in tried(sandbox, number, mutate_numbers, whole=True)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])


def test_combinations(sandbox: Sandbox) -> None:
    """All stages, with settings that nobody may have used together before."""
    faults = [fault for number in numbers(0.1) for fault in tried(sandbox, number, mutate_combinations, whole=True)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])


def test_damage_between_stages(sandbox: Sandbox) -> None:
    files, faults = damaged_files(sandbox), []
    for number in numbers(0.15):
        generator = np.random.default_rng([SEED, number])
        name = files[number % len(files)]
        stages = readers(name)
        stage = stages[int(generator.integers(len(stages)))]
        mutation = damage(sandbox.folder / name, generator, label=name)
        before = sandbox.files()
        (ended,) = sandbox.run([stage])
        after = sandbox.files()
        found = verdict(ended, before, after)
        differing = sorted(k for k, v in digest(after).items() if k != name and v != digest(sandbox.whole).get(k))
        if ended.status == 0 and differing:
            found.append(f"{stage} accepted it and wrote others: {', '.join(differing)}")
        faults += [f"seed {SEED}, number {number}, {mutation.name}: {fault}" for fault in found]
        sandbox.put_back()
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:_SHOWN])
