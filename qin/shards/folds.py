"""The fold of each row as files: what the split stage writes and the later stages read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.errors import ArtifactError
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.files import read_array, read_exact_json, write_array, write_exact_json

TRAIN, VALIDATION, EXCLUDED = 0, 1, 2


Folds = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Assignment:
    """Folds and what determines them.

    Attributes:
        fold: `(num_rows,)`, TRAIN, VALIDATION or EXCLUDED.
        thresholds: Integers that reproduce the assignment on more rows; empty for time.
        details: What the method reports, as JSON values.
    """

    fold: Folds
    thresholds: dict[str, int]
    details: dict[str, Any]


FOLD_FILE, MANIFEST = "fold.npy", "manifest.json"


def write_folds(folder: Path, assignment: Assignment, *, method: str, origin: Origin | None = None) -> None:
    """Write the fold of each row, how it was decided, and what it was made from."""
    manifest = {
        "num_rows": assignment.fold.size,
        "method": method,
        "thresholds": assignment.thresholds,
        **assignment.details,
        "file_crc32": write_array(folder / FOLD_FILE, assignment.fold),
        **origin_entry(origin),
    }
    write_exact_json(folder / MANIFEST, manifest)


def read_folds(folder: Path, *, num_rows: int) -> Folds:
    """Read the folds, which must be as many as the prepared rows.

    Raises:
        ArtifactError: If they are missing, damaged, or of another log.
    """
    manifest = read_exact_json(folder / MANIFEST)
    if manifest["num_rows"] != num_rows:
        raise ArtifactError(
            f"{folder / FOLD_FILE}: {manifest['num_rows']} folds for {num_rows} prepared rows; run the split stage"
        )
    if "file_crc32" not in manifest:
        raise ArtifactError(f"{folder / MANIFEST}: of another version; run the split stage again")
    return read_array(folder / FOLD_FILE, crc32=manifest["file_crc32"], dtype="uint8", shape=(num_rows,), stage="split")
