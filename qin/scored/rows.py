"""The validation fold's logits, as train, trees and calibrate leave them for the stages that follow; without torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.runtime import paths
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_array, read_exact_json, write_array, write_exact_json
from qin.scored.prior import TrainingPrior

_ARRAYS = {"row": "int64", "logit": "float32", "label": "uint8", "is_report": "uint8"}
_FACTS = "facts.json"
_WRITERS = {paths.TREES_VALIDATION.name: "trees", paths.SCORED.name: "calibrate"}  # all else is of train


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Training-scale logits of the validation fold.

    Attributes:
        row: Row numbers in the train file, ascending, `(n,)`.
        logit: `(n,)`, float32.
        label: `(n,)`.
        is_report: 1 for rows of the half that decides nothing and is reported, 0 for the selection half, `(n,)`.
        prior: What the model was trained on.
    """

    row: npt.NDArray[np.int64]
    logit: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    is_report: npt.NDArray[np.uint8]
    prior: TrainingPrior

    @property
    def natural(self) -> npt.NDArray[np.float64]:
        """The logits without what training did to the click rate, `(n,)`."""
        return self.logit.astype(np.float64) + self.prior.offset

    def where(self, mask: npt.NDArray[np.bool_]) -> "ScoredRows":
        """The rows of a mask, `(n,)`."""
        return replace(self, **{name: getattr(self, name)[mask] for name in _ARRAYS})

    def write(self, folder: Path, *, origin: Origin | None = None) -> None:
        """Write one file per array, and the numbers beside them.

        Args:
            folder: Existing folder.
            origin: What the logits were made from, without which no stage reads them.
        """
        checksums = {name: write_array(folder / f"{name}.npy", getattr(self, name)) for name in _ARRAYS}
        facts = {
            "num_rows": self.row.size,
            "prior": asdict(self.prior),
            "file_crc32": checksums,
            **origin_entry(origin),
        }
        write_exact_json(folder / _FACTS, facts)

    @classmethod
    def read(cls, folder: Path) -> "ScoredRows":
        """Inverse of `write`.

        Raises:
            ArtifactError: If a file is missing, damaged, or of another type or length.
        """
        facts = read_exact_json(folder / _FACTS)
        # Of several folds, each lies in a folder below the one that names the writer.
        stage = next((_WRITERS[name] for name in (folder.name, folder.parent.name) if name in _WRITERS), "train")
        if "file_crc32" not in facts:
            raise ArtifactError(f"{folder / _FACTS}: of another version; run the {stage} stage again")
        arrays: dict[str, Any] = {
            name: read_array(
                folder / f"{name}.npy",
                crc32=facts["file_crc32"][name],
                dtype=dtype,
                shape=(facts["num_rows"],),
                stage=stage,
            )
            for name, dtype in _ARRAYS.items()
        }
        return cls(**arrays, prior=TrainingPrior(**facts["prior"]))


def rows_in_order(folds: Sequence[ScoredRows]) -> npt.NDArray[np.intp]:
    """The order that brings the rows of all folds, one after the other, into that of the train file, `(n,)`."""
    return np.argsort(np.concatenate([fold.row for fold in folds]), kind="stable")


def pooled(folds: Sequence[ScoredRows]) -> ScoredRows:
    """The rows of several validation folds as one, in the order of the train file, on the natural scale.

    Args:
        folds: Of one model each, without a row in common; one alone stays as it is.
    """
    if len(folds) == 1:
        return folds[0]
    order = rows_in_order(folds)
    rates, sizes = [fold.prior.base_rate for fold in folds], [fold.row.size for fold in folds]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(fold, name) for fold in folds])[order] for name in _ARRAYS}
    natural = np.concatenate([fold.natural for fold in folds])[order]
    # Without an offset: each fold's own is in its natural logits already.
    prior = TrainingPrior(base_rate=float(np.average(rates, weights=sizes)))
    return ScoredRows(**{**arrays, "logit": natural.astype(np.float32)}, prior=prior)
