"""Training checkpoints, outside DVC's reach: one folder per fingerprint of params, inputs and code.

A checkpoint under a declared output (`persist: true`) would make a new experiment resume the old one's state; here
another fingerprint is another folder. Two processes that train the same run take turns.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from qin.runtime.claim import Turn
from qin.runtime.errors import ArtifactError
from qin.runtime.files import SummedFile, file_crc32


class CheckpointStore:
    """Holds the newest checkpoint of one run, as `<step>-<checksum>.pt`.

    Args:
        root: Folder of all checkpoints, not an output of any stage; several runs may use it at once.
        name: Fingerprint of the run.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._folder, self._turn = root / name, Turn(root / f"{name}.lock")

    @property
    def folder(self) -> Path:
        """Of this run, with room for what is made while a checkpoint is; not there before the first one."""
        return self._folder

    @property
    def path(self) -> Path | None:
        """The newest checkpoint file, or None if there is none."""
        # Steps have leading zeros in the names, so the last in alphabetical order is the newest.
        return max(self._folder.glob("*.pt"), default=None)

    def claim(self) -> None:
        """Become the only process that trains this run, until it ends or removes the checkpoint; see `Turn.claim`.

        While another process trains it, this one waits, because afterwards there may be a state to go on from.
        """
        self._turn.claim()

    def save(self, state: dict[str, Any], *, step: int) -> None:
        """Replace the checkpoint, atomically and durably.

        Args:
            state: Tensors and plain values.
            step: Steps that the run has taken.

        Raises:
            OSError: If it cannot be written; the last one stays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        older, staging = list(self._folder.glob("*.pt")), self._folder / ".checkpoint.tmp"
        try:
            checksum = _write(state, staging)
            path = staging.replace(self._folder / f"{step:012d}-{checksum:08x}.pt")
        finally:
            staging.unlink(missing_ok=True)
        _sync_folder(self._folder)
        # Only now that the new one would survive a crash: at every moment there is one to go on from.
        for old in older:
            if old != path:
                old.unlink(missing_ok=True)

    def load(self, *, maps: bool = False) -> dict[str, Any] | None:
        """The newest checkpoint, or None if there is none.

        Args:
            maps: Whether its tensors stay in the file, from where they are read when they are used.

        Raises:
            ArtifactError: If the file is damaged; deleting it starts the run from its beginning.
        """
        path = self.path
        if path is None:
            return None
        if f"{file_crc32(path):08x}" != path.stem.split("-")[-1]:
            raise ArtifactError(f"{path}: damaged checkpoint; delete it to train from the start")
        # Weights alone: a pickle could bring code along.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=maps)
        assert isinstance(state, dict)
        return state

    def remove(self) -> None:
        """Delete this run's checkpoint and let others train it."""
        # Before the turn is given away: whoever waits for it must not find half of a state.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._turn.release()


def _write(state: dict[str, Any], path: Path) -> int:
    """Write a state to disk; returns the file's checksum."""
    # Unbuffered, so that a write that fails does so where it is made, and its error is at hand.
    with path.open("wb", buffering=0) as file:
        summed = SummedFile(file)
        try:
            torch.save(state, summed)  # type: ignore[arg-type]
        except Exception as error:  # torch hides a full disk, or a signal to end, behind a RuntimeError
            cause = summed.error or error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            if cause is not None and not isinstance(cause, Exception):
                raise cause from None
            raise
        os.fsync(file.fileno())
    return summed.crc32


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
