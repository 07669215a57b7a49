"""The validation fold's logits, as train leaves them for calibrate and evaluate; read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.errors import ArtifactError
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.files import read_array, read_exact_json, write_array, write_exact_json

_ARRAYS = {"row": "int64", "logit": "float32", "label": "uint8"}
_TRAINING = ("train_base_rate", "pos_weight", "neg_ratio", "reweighted")
_FACTS = "facts.json"


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Training-scale logits of the validation fold.

    Attributes:
        row: Row numbers in the train file, ascending, `(n,)`.
        logit: `(n,)`, float32.
        label: `(n,)`.
        train_base_rate: Natural click rate of the train fold.
        pos_weight: Weight of a positive in the training loss.
        neg_ratio: Share of the negatives that training kept.
        reweighted: Whether each kept negative weighed `1 / neg_ratio`.
    """

    row: npt.NDArray[np.int64]
    logit: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    train_base_rate: float
    pos_weight: float
    neg_ratio: float
    reweighted: bool

    def write(self, folder: Path, *, origin: Origin | None = None) -> None:
        """Write one file per array, and the numbers beside them.

        Args:
            folder: Existing folder.
            origin: What the logits were made from, without which no stage reads them.
        """
        checksums = {name: write_array(folder / f"{name}.npy", getattr(self, name)) for name in _ARRAYS}
        training = {name: getattr(self, name) for name in _TRAINING}
        facts = {"num_rows": self.row.size, **training, "file_crc32": checksums, **origin_entry(origin)}
        write_exact_json(folder / _FACTS, facts)

    @classmethod
    def read(cls, folder: Path) -> "ScoredRows":
        """Inverse of `write`.

        Raises:
            ArtifactError: If a file is missing, damaged, or of another type or length.
        """
        facts = read_exact_json(folder / _FACTS)
        if "file_crc32" not in facts:
            raise ArtifactError(f"{folder / _FACTS}: of another version; run the train stage again")
        arrays: dict[str, Any] = {
            name: read_array(
                folder / f"{name}.npy",
                crc32=facts["file_crc32"][name],
                dtype=dtype,
                shape=(facts["num_rows"],),
                stage="train",
            )
            for name, dtype in _ARRAYS.items()
        }
        return cls(**arrays, **{name: facts[name] for name in _TRAINING})
