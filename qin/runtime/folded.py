"""Outputs of cross-validation: a folder with a subfolder for each fold, and a description that names them all.

Without folds an output is the folder itself, so whoever reads asks `fold_places` and gets one place then. A subfolder
is laid out as the output of a run without folds is; what it was made from stands in the folder's own description.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qin.runtime.chain import Origin, description_of, origin_entry
from qin.runtime.claim import Turn
from qin.runtime.errors import ArtifactError
from qin.runtime.files import fingerprint, read_exact_json, read_json, write_exact_json

_FOLDS = "folds"
_FACTS = "facts.json"


def fold_place(folder: Path, number: int) -> Path:
    """Where a fold's part of an output is; the first fold is 1."""
    return folder / f"fold{number}"


def write_index(
    place: Path, folder: Path, *, num_folds: int, origin: Origin, facts: Mapping[str, Any] | None = None
) -> None:
    """Describe an output whose folds' subfolders are written.

    Args:
        place: Its path in the repository, which names it.
        folder: Where it is being written.
        num_folds: Subfolders that there are.
        origin: What it was made from.
        facts: What else its description holds.
    """
    files = [description_of(place, at=fold_place(folder, number)) for number in range(1, num_folds + 1)]
    names = [fingerprint(read_exact_json(file)) for file in files]
    write_exact_json(description_of(place, at=folder), {**(facts or {}), _FOLDS: names, **origin_entry(origin)})


def fold_places(place: Path, *, at: Path | None = None) -> list[Path]:
    """Where the parts of an output are: its folds, in order, or the folder itself where it has none.

    Args:
        place: Its path in the repository, which names it.
        at: Where it is found, if that is elsewhere.

    Raises:
        ArtifactError: If a description is missing or damaged, or a fold is not of this output.
    """
    folder = at or place
    names = _names(place, folder)
    if names is None:
        return [folder]
    return [_checked(place, folder, number, name) for number, name in enumerate(names, start=1)]


def place_of_fold(place: Path, number: int, *, at: Path | None = None) -> Path:
    """Where one fold's part of an output is, the first being 1; see `fold_places`. The others are not checked."""
    folder = at or place
    names = _names(place, folder)
    return folder if names is None else _checked(place, folder, number, names[number - 1])


def _names(place: Path, folder: Path) -> list[str] | None:
    """The folds' fingerprints by an output's description; None where it has no folds."""
    names: list[str] | None = read_exact_json(description_of(place, at=folder)).get(_FOLDS)
    return names


def _checked(place: Path, folder: Path, number: int, name: str) -> Path:
    part = fold_place(folder, number)
    file = description_of(place, at=part)
    if fingerprint(read_exact_json(file)) != name:
        raise ArtifactError(f"{file}: of another run than {folder}; run `dvc repro`")
    return part


def of_folds(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of each fold for a file in `metrics/`: those of the first, and beside them those of the others."""
    others = {"other_folds": list(figures[1:])} if len(figures) > 1 else {}
    return {**figures[0], **others}


class FoldStore:
    """The finished folds of one run of a stage, outside DVC's reach, so that a killed run goes on after them.

    Args:
        root: Folder of all checkpoints.
        name: Of the run: all that its outputs depend on.
        parts: The folders that a fold consists of.
    """

    def __init__(self, root: Path, name: str, *, parts: Sequence[str]) -> None:
        self._folder, self._parts = root / f"{name}.folds", parts
        self._turn = Turn(root / f"{name}.folds.lock")

    def claim(self) -> None:
        """Become the only process that works on this run, until it ends or removes the folds; see `Turn.claim`."""
        self._turn.claim()

    def has(self, number: int) -> bool:
        """Whether a fold is finished."""
        return all((self.place(number) / name).exists() for name in (*self._parts, _FACTS))

    def place(self, number: int) -> Path:
        """Where a fold is to be written, whole or not at all: a folder of its parts, and its facts."""
        return fold_place(self._folder, number)

    @staticmethod
    def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
        """Keep a fold's figures, every digit of them, beside its parts."""
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    def facts(self, number: int) -> dict[str, Any]:
        """The figures of a finished fold."""
        return read_json(self.place(number) / _FACTS)

    def all_facts(self, num_folds: int) -> list[dict[str, Any]]:
        """The figures of every fold, in order."""
        return [self.facts(number) for number in range(1, num_folds + 1)]

    def take_warnings(self, number: int, warned: list[str]) -> None:
        """Add what a finished fold has warned of, so that it stands in the metrics."""
        warned += [text for text in self.facts(number)["warnings"] if text not in warned]

    def hand_over(self, name: str, folder: Path, *, num_folds: int) -> None:
        """Move a part of every fold into an output that is being written: it takes no room twice.

        A run that is killed from here on until its outputs are in place does these folds again.
        """
        for number in range(1, num_folds + 1):
            shutil.move(self.place(number) / name, fold_place(folder, number))

    def remove(self) -> None:
        """Delete the folds and let others work on the run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._turn.release()
