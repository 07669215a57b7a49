"""Corruptions of what lies between two stages: flipped bits, lost ends, other bytes, files gone or of another kind."""

from pathlib import Path

import numpy as np

from tests.fuzz.mutation import Mutation, choice
from tests.fuzz.sandbox import Sandbox

# Stages that read an artifact; any other stage's outputs cannot depend on it.
READERS = {
    "data/prepared/train/": ("train", "trees", "evaluate"),
    "data/prepared/test/": ("predict",),
    "data/split/": ("train", "trees", "evaluate"),
    "artifacts/": ("trees", "calibrate", "evaluate", "predict"),
}

_KINDS = ("bit", "bit", "bit", "byte", "cut", "longer", "zeros", "lost byte", "empty", "gone", "folder")


def damaged_files(sandbox: Sandbox) -> list[str]:
    """Every artifact's files, by path: those that a mutation is drawn from."""
    return sorted(name for name in sandbox.whole if name.startswith(tuple(READERS)) and sandbox.whole[name])


def readers(name: str) -> tuple[str, ...]:
    """Stages that read a file."""
    return next(stages for prefix, stages in READERS.items() if name.startswith(prefix))


def damage(file: Path, generator: np.random.Generator, *, label: str) -> Mutation:
    """Change the bytes of a file in one way."""
    content = bytearray(file.read_bytes())
    place = int(generator.integers(len(content)))
    kind = choice(generator, _KINDS)
    if kind == "bit":
        content[place] ^= 1 << int(generator.integers(8))
    elif kind == "byte":
        content[place] = (content[place] + int(generator.integers(1, 256))) % 256
    elif kind == "cut":
        del content[place:]
    elif kind == "longer":
        content += generator.bytes(int(generator.integers(1, 64)))
    elif kind == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    elif kind == "lost byte":
        del content[place]
    elif kind == "empty":
        content.clear()
    if kind in {"gone", "folder"}:
        file.unlink()
        if kind == "folder":
            file.mkdir()
    else:
        file.write_bytes(content)
    return Mutation(f"{label}: {kind} at {place}")
