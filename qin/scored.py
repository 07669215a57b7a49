"""The validation fold's logits, as train leaves them for calibrate and evaluate; read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.artifacts import array_crc32, read_array, read_exact_json, write_exact_json
from qin.errors import ArtifactError

_ARRAYS = ("row", "logit", "label")
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

    def write(self, folder: Path) -> None:
        """Write one file per array, and the numbers beside them."""
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        facts = {
            "num_rows": self.row.size,
            **{name: getattr(self, name) for name in _TRAINING},
            "crc32": {name: array_crc32(getattr(self, name)) for name in _ARRAYS},
        }
        write_exact_json(folder / _FACTS, facts)

    @classmethod
    def read(cls, folder: Path) -> "ScoredRows":
        """Inverse of `write`.

        Raises:
            ArtifactError: If a file is missing, damaged, or of another length.
        """
        arrays: dict[str, Any] = {name: read_array(folder / f"{name}.npy") for name in _ARRAYS}
        facts = read_exact_json(folder / _FACTS)
        for name, array in arrays.items():
            if array.shape != (facts["num_rows"],):
                raise ArtifactError(f"{folder / name}.npy: {array.size} values, expected {facts['num_rows']}")
            if array_crc32(array) != facts["crc32"][name]:
                raise ArtifactError(f"{folder / name}.npy: damaged or edited by hand; run the train stage again")
        return cls(**arrays, **{name: facts[name] for name in _TRAINING})
