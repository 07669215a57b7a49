"""Finding a run: files of a folder or the workspace, or those of a Git revision or DVC experiment in DVC's cache."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc_data.index.index import DataIndexError

from qin.calibrate.report import CalibrationReport, read_calibrations
from qin.runtime.chain import check_links, read_artifact
from qin.runtime.errors import ArtifactError
from qin.runtime.folded import fold_places
from qin.runtime.labelled import label_place, labelled_text, labels_of
from qin.runtime.paths import CALIBRATOR, SCORED
from qin.scored.rows import ScoredRows, pooled

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Run:
    """What one run left of its validation fold.

    Attributes:
        name: As the user gave it.
        folds: Logits and labels of each validation fold; most often there is one.
        reports: The calibration of each.
    """

    name: str
    folds: Sequence[ScoredRows]
    reports: Sequence[CalibrationReport]

    @property
    def scored(self) -> ScoredRows:
        """Logits and labels of all folds."""
        return pooled(self.folds)


def read_run(name: str, *, root: Path = Path()) -> Run:
    """Read a run of one label, or the first label of a run; see `read_runs`."""
    return next(iter(read_runs(name, root=root).values()))


def read_runs(name: str, *, root: Path = Path()) -> dict[str, Run]:
    """Read a run by name: what it left of each of its labels, most often of one.

    Args:
        name: `workspace`; a folder that is a checkout or its `artifacts/scored`, with `temperature.json` beside it; or
            else a revision or experiment of the repository.
        root: The repository.

    Returns:
        By label, in the order of `data.label`.

    Raises:
        ArtifactError: If there is no such run, or its files are missing or damaged.
    """
    folder = _scored_folder(name, root)
    if folder is not None:
        return _read(name, folder, folder.parent / CALIBRATOR.name)
    with tempfile.TemporaryDirectory(prefix="qin-run-") as copy:
        scored, calibrator = Path(copy) / SCORED.name, Path(copy) / CALIBRATOR.name
        _fetch(name, root, {SCORED: scored, CALIBRATOR: calibrator})
        return _read(name, scored, calibrator)


def _scored_folder(name: str, root: Path) -> Path | None:
    if name == WORKSPACE:
        return root / SCORED
    folders = [folder for folder in (Path(name), Path(name) / SCORED) if _is_scored(folder)]
    return folders[0] if folders else None


def _is_scored(folder: Path) -> bool:
    """Whether a folder holds logits, or folders of labels that do."""
    return any((place / "facts.json").is_file() for place in (folder, *(p for p in folder.glob("*") if p.is_dir())))


def _fetch(name: str, root: Path, copies: dict[Path, Path]) -> None:
    """Copy outputs of a revision; they come from DVC's cache, or from the default remote if there is one."""
    try:
        files = DVCFileSystem(url=str(root), rev=name)
        for path, copy in copies.items():
            files.get(path.as_posix(), str(copy), recursive=True)
    except DvcException as error:
        raise ArtifactError(
            f"{name}: neither {WORKSPACE}, nor a folder with {SCORED}, nor a revision or experiment "
            f"of this repository ({error})"
        ) from error
    except (FileNotFoundError, DataIndexError) as error:
        raise ArtifactError(
            f"{name}: {path} is not in DVC's cache; run `dvc pull` if a remote has it, or `dvc repro` at that revision"
        ) from error


def _read(name: str, scored: Path, calibrator: Path) -> dict[str, Run]:
    try:
        labels = labels_of(calibrator)
        if not labels:
            label = str(read_artifact(SCORED, at=scored).origin.settings.get("data.label"))
            return {label: _read_label(name, scored, calibrator)}
        with tempfile.TemporaryDirectory(prefix="qin-run-") as copy:
            file, found = Path(copy) / CALIBRATOR.name, {}
            for label in labels:
                file.write_text(labelled_text(calibrator, label), encoding="utf-8")
                found[label] = _read_label(name, label_place(scored, label), file)
        return found
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error


def _read_label(name: str, scored: Path, calibrator: Path) -> Run:
    # Both come from one revision, but in a workspace one of them may be of a later run.
    check_links([read_artifact(SCORED, at=scored), read_artifact(CALIBRATOR, at=calibrator)])
    folds = [ScoredRows.read(place) for place in fold_places(SCORED, at=scored)]
    return Run(name, folds, read_calibrations(calibrator))
