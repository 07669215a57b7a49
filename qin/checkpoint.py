"""Training checkpoints, outside DVC's reach: one folder per fingerprint of params, inputs and code.

A checkpoint under a declared output (`persist: true`) would make a new experiment resume the old one's state; here
another fingerprint is another folder.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from qin.artifacts import atomic_file
from qin.errors import ArtifactError

_FILE = "checkpoint.pt"


class CheckpointStore:
    """Holds the newest checkpoint of one run.

    Args:
        root: Folder of all checkpoints, not an output of any stage.
        name: Fingerprint of the run.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._folder = root / name

    @property
    def path(self) -> Path:
        """The checkpoint file."""
        return self._folder / _FILE

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, atomically and durably."""
        with atomic_file(self.path) as staging, staging.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None if there is none.

        Raises:
            ArtifactError: If the file cannot be read; deleting it starts the run from its beginning.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others for damaged files
            raise ArtifactError(f"{self.path}: damaged checkpoint; delete it to train from the start") from error
        assert isinstance(state, dict)
        return state

    def remove(self) -> None:
        """Delete this run's checkpoint."""
        shutil.rmtree(self._folder, ignore_errors=True)


def code_fingerprint() -> str:
    """A digest of the library's source, because a checkpoint of other code must not be resumed."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
