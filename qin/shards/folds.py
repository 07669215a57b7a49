"""The fold of each row as files: what the split stage writes and the later stages read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.runtime import paths
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_array, read_exact_json, write_array, write_exact_json
from qin.runtime.folded import fold_place, write_index
from qin.runtime.progress import log
from qin.runtime.seeds import GOLDEN, HOLDOUT_SALT, mix_words
from qin.shards.row_facts import FACTS, MANIFEST, RowFacts

# As they stand in fold.npy. Excluded is what a model must not know: an embargo, sessions across the boundary, in an
# earlier fold of several in time all that follows.
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


FOLD_FILE = "fold.npy"


def write_folds(
    folder: Path, assignment: Assignment, *, method: str, facts: RowFacts | None = None, origin: Origin | None = None
) -> None:
    """Write the fold of each row, how it was decided, and what it was made from.

    Args:
        folder: Existing folder.
        assignment: The folds.
        method: Name of the method that divided the rows.
        facts: What else later stages are told of each row.
        origin: What the folds are made from, without which no stage reads them.
    """
    manifest = {
        "num_rows": assignment.fold.size,
        "method": method,
        "thresholds": assignment.thresholds,
        **assignment.details,
        "file_crc32": write_array(folder / FOLD_FILE, assignment.fold),
        **({} if facts is None else {FACTS: facts.write(folder)}),
        **origin_entry(origin),
    }
    write_exact_json(folder / MANIFEST, manifest)


def write_divisions(
    folder: Path, assignments: Sequence[Assignment], *, method: str, facts: RowFacts, origin: Origin
) -> None:
    """Write the folds of several models, each as a folder of its own, or of one as the folder itself.

    Args:
        folder: Existing folder.
        assignments: Of each model.
        method: Name of the method that divided the rows.
        facts: What else later stages are told of each row, once for all.
        origin: What the folds are made from.
    """
    if len(assignments) == 1:
        write_folds(folder, assignments[0], method=method, facts=facts, origin=origin)
        return
    for number, assignment in enumerate(assignments, start=1):
        place = fold_place(folder, number)
        place.mkdir()
        write_folds(place, assignment, method=method)
    shared = {"num_rows": assignments[0].fold.size, "method": method, FACTS: facts.write(folder)}
    write_index(paths.FOLDS, folder, num_folds=len(assignments), origin=origin, facts=shared)


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


@dataclass(frozen=True)
class FoldRule:
    """How the folds of a log were decided, as far as another log may be divided in the same way.

    Attributes:
        method: Name of the method.
        thresholds: Integers that reproduce the assignment on more rows; empty for time.
        boundary: First time of validation, for time.
    """

    method: str
    thresholds: dict[str, int]
    boundary: str | float | None = None


def read_fold_rule(folder: Path) -> FoldRule:
    """How the folds were decided.

    Raises:
        ArtifactError: If the manifest is missing or damaged.
    """
    manifest = read_exact_json(folder / MANIFEST)
    return FoldRule(manifest["method"], manifest["thresholds"], manifest.get("boundary"))


def report_half(unit: npt.NDArray[np.integer[Any]], *, seed: int) -> npt.NDArray[np.bool_]:
    """Divide rows in two halves, whatever their order: one chooses, the other is reported.

    Of the validation fold the selection half stops training, chooses the blend and fits the calibrator that is judged;
    the report half decides nothing, so that its figures are not biased by any choice.

    Args:
        unit: Hash or number of what must not be parted, such as a row or a user, `(num_rows,)`.
        seed: In [0, 2**64).

    Returns:
        True for rows of the report half, `(num_rows,)`.

    Raises:
        ValueError: If `unit` does not hold integers, or `seed` is out of range.
    """
    if not np.issubdtype(unit.dtype, np.integer):
        raise ValueError(f"unit must hold integers: {unit.dtype=}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64): {seed=}")
    # Mixed with a key of its own: the unit's bits decided the fold already, and halves by the same bits would be no
    # draw. As an array, whose products wrap around; of a single number NumPy would warn.
    key = mix_words((np.array([seed], dtype=np.uint64) ^ np.uint64(HOLDOUT_SALT)) + GOLDEN)
    is_report: npt.NDArray[np.bool_] = mix_words((unit.astype(np.uint64) ^ key) + GOLDEN) >> np.uint64(63) == 1
    return is_report


def selection_rows(
    label: npt.NDArray[np.uint8], *, is_val: npt.NDArray[np.bool_], is_report: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Rows that choose, `(num_rows,)`: the selection half, or the whole validation fold where that half lacks a class.

    With so few clicks the report half is no honest judge any more, and its errors say as much; but there is a model.

    Args:
        label: `(num_rows,)`, 0 or 1.
        is_val: Rows of the validation fold, `(num_rows,)`.
        is_report: Rows of the report half, `(num_rows,)`.
    """
    selection = is_val & ~is_report
    counts = np.bincount(label[selection], minlength=2)
    if counts.all():
        return selection
    log.warning(
        "warning: the selection half of the validation fold has %d clicks in %d rows; the whole fold chooses, so that "
        "its figures are too good",
        counts[1],
        counts.sum(),
    )
    return is_val
