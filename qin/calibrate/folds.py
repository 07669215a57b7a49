"""What calibrate hands on of each fold of a cross-validation, and which of them are deployed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qin.calibrate.blend import BlendChoice
from qin.calibrate.report import CalibrationReport
from qin.metrics.logits import Float64Array
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json
from qin.scored.rows import ScoredRows


@dataclass(frozen=True)
class CalibratedFold:
    """A validation fold, blended and calibrated.

    Attributes:
        scored: Blended logits.
        choice: The blend.
        calibration: The calibrators.
    """

    scored: ScoredRows
    choice: BlendChoice
    calibration: CalibrationReport

    def headline(self) -> dict[str, Any]:
        """What `metrics/calibrate.json` holds of it."""
        return {**self.calibration.headline(), "blend": self.choice.headline()}


def deployed_folds(num_folds: int, *, method: str) -> list[int]:
    """Numbers, from 1 on, of the folds whose models score new rows: all, or of folds of time the latest alone.

    Drawn folds' models have seen equally much, of the same time. The earlier models of a walk forward have seen less
    than the latest, and nothing of the time next to the rows to score.
    """
    return [num_folds] if method == "time" else list(range(1, num_folds + 1))


def read_deployed_folds(path: Path) -> list[int]:
    """Numbers, from 1 on, of the folds whose models score new rows; 1 alone where there are no folds.

    Args:
        path: The blends' file.

    Raises:
        ArtifactError: If it is missing or damaged, or names a fold that it does not hold.
    """
    tree = read_exact_json(path)
    if "folds" not in tree:
        return [1]
    deployed, num_folds = tree.get("deployed"), len(tree["folds"])
    if not isinstance(deployed, list) or not deployed or not set(deployed) <= set(range(1, num_folds + 1)):
        raise ArtifactError(f"{path}: deployed must be numbers from 1 to {num_folds}: {deployed}")
    return deployed


def averaged(logits: Sequence[Float64Array]) -> Float64Array:
    """The mean of the folds' calibrated logits, `(n,)` each; those of one alone as they are."""
    if len(logits) == 1:
        return logits[0]
    # Of logits and not of probabilities, as members are blended: what all folds are sure of stays sharp.
    mean: Float64Array = np.mean(np.stack(logits), axis=0)
    return mean
