"""Outputs of a stage that ran once for each label: their parts brought together, and taken out again."""

import csv
import io
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from qin.labels.pages import joined_cards, joined_pages
from qin.runtime import paths
from qin.runtime.errors import ArtifactError
from qin.runtime.files import atomic_directory, atomic_file, csv_text, read_json, write_json
from qin.runtime.labelled import json_text, label_place, labelled_text, write_labelled_json

# The column of a plot's data that names the label; the score histogram has classes as `label`.
COLUMN = "of_label"

_PLOTS = ("pr", "roc", "gains", "reliability", "score_histogram", "slices", "importance")

# What dvc.yaml lists of the stages that run once for each label, in the order in which they are handed over.
OUTPUTS: Mapping[str, tuple[Path, ...]] = {
    "train": (
        *(paths.STATISTICS, paths.MODEL, paths.VALIDATION),
        *(paths.METRICS / "train.json", paths.PLOTS / "train.csv"),
    ),
    "trees": (
        *(paths.TREES, paths.TREES_VALIDATION),
        *(paths.METRICS / "trees.json", paths.PLOTS / "trees.csv"),
    ),
    "calibrate": (paths.SCORED, paths.BLEND, paths.CALIBRATOR, paths.METRICS / "calibrate.json"),
    "evaluate": (
        *(paths.PLOTS / f"{name}.csv" for name in _PLOTS),
        *(paths.SLICES, paths.EVALUATION, paths.HEADLINE, paths.REPORT, paths.CARD),
    ),
    "predict": (paths.SUBMISSION, paths.DRIFT),
}
_NAMED = (paths.BLEND, paths.CALIBRATOR)  # artifacts that are described by themselves


def hand_over(stage: str, rooms: Mapping[str, Path]) -> None:
    """Bring the outputs of all labels into their places; folders are moved, so they take no room twice.

    Args:
        stage: The stage that has run in each room.
        rooms: The room of each label; of one alone, the outputs are its.
    """
    folders = [place for place in OUTPUTS[stage] if not place.suffix]
    # All folders take their places at the end of the block, or after an error none does.
    with ExitStack() as outputs:
        for place in folders:
            folder = outputs.enter_context(atomic_directory(place))
            for label, room in rooms.items():
                shutil.move(room / place, label_place(folder, label))
    for place in OUTPUTS[stage]:
        if place.suffix:
            _join(place, {label: room / place for label, room in rooms.items()}, alone=stage == "predict")


def take_out(place: Path, label: str, *, to: Path) -> None:
    """Put a label's part of an output where a run of that label alone would have it; nothing where there is none.

    Args:
        place: The output, in the repository.
        label: The label.
        to: Its path in the label's room.

    Raises:
        ArtifactError: If the output is there and has no such label.
    """
    if not place.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        if label_place(place, label).is_dir():
            to.symlink_to(label_place(place, label).absolute())
        return
    try:
        to.write_bytes(_part(place, label).encode())
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{place}: has nothing of the label {label}; run `dvc repro`") from error


def _part(place: Path, label: str) -> str:
    if place in _NAMED:
        return labelled_text(place, label)
    if place.suffix == ".json":
        return json_text(read_json(place)[label])
    header, *rows = csv.reader(io.StringIO(_text(place), newline=""))
    # A table of one label alone, which other settings have left.
    if header[0] != COLUMN:
        raise KeyError(label)
    return csv_text([header[1:], *(row[1:] for row in rows if row[0] == label)])


def _join(place: Path, files: Mapping[str, Path], *, alone: bool) -> None:
    """Write one output from the files of all labels."""
    if place in _NAMED:
        write_labelled_json(place, files)
        return
    if place.suffix == ".json" and not alone:
        write_json(place, {label: read_json(file) for label, file in files.items()})
        return
    if alone:
        [file] = files.values()
        with atomic_file(place) as staging:
            shutil.move(file, staging)
        return
    texts = {label: _text(file) for label, file in files.items()}
    if place.suffix == ".csv":
        text = _joined_table(texts)
    else:
        text = (joined_pages if place.suffix == ".html" else joined_cards)(texts)
    with atomic_file(place) as staging:
        staging.write_bytes(text.encode())


def _joined_table(texts: Mapping[str, str]) -> str:
    """Tables of equal columns as one, with the label first; a table without rows may lack its header."""
    tables = {label: list(csv.reader(io.StringIO(text, newline=""))) for label, text in texts.items()}
    header = next((rows[0] for rows in tables.values() if rows and rows[0]), [])
    return csv_text([[COLUMN, *header], *([label, *row] for label, rows in tables.items() for row in rows[1:])])


def _text(file: Path) -> str:
    """A file's text with its ends of lines as they are: one in the quotes of a table belongs to a value."""
    return file.read_bytes().decode()
