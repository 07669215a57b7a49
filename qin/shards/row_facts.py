"""What the split stage knows of each row besides its fold: when it was, and what it must not be parted from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_array, read_exact_json, write_array

MANIFEST, FACTS = "manifest.json", "facts"
_NAMES = ("unit", "time", "shown")


@dataclass(frozen=True)
class RowFacts:
    """Facts of each row of the train file, `(num_rows,)` each.

    Attributes:
        unit: Hash of what stays together where rows are divided: the group or session of a method that divides by it,
            else the impression, else the row. Its high bits decided the fold where that was drawn, so whoever draws by
            it again must mix it with a seed, or take low bits alone.
        time: When the row was, in the numbers of the time column; None without one.
        shown: The first time of the row's impression; None without a time, or where that is the row's own time.
    """

    unit: npt.NDArray[np.uint64]
    time: npt.NDArray[Any] | None
    shown: npt.NDArray[Any] | None

    def write(self, folder: Path) -> dict[str, Any]:
        """Write one file per array, and return what the folder's manifest must hold of them."""
        arrays = {name: array for name in _NAMES if (array := getattr(self, name)) is not None}
        return {
            name: {"dtype": array.dtype.name, "crc32": write_array(folder / f"{name}.npy", array)}
            for name, array in arrays.items()
        }

    @classmethod
    def read(cls, folder: Path, *, num_rows: int) -> "RowFacts":
        """Inverse of `write`.

        Args:
            folder: Written by `folds.write_folds`.
            num_rows: Rows that there must be.

        Raises:
            ArtifactError: If a file is missing, damaged, or of another log.
        """
        manifest = read_exact_json(folder / MANIFEST)
        if FACTS not in manifest:
            raise ArtifactError(f"{folder / MANIFEST}: of another version; run the split stage again")
        arrays = {
            name: read_array(folder / f"{name}.npy", shape=(num_rows,), stage="split", **facts)
            for name, facts in manifest[FACTS].items()
        }
        return cls(arrays["unit"], arrays.get("time"), arrays.get("shown"))
