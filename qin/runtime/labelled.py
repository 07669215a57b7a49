"""Outputs of several labels: a folder holds a subfolder for each, a JSON file what it holds of each.

Of one label an output is what it always was. A subfolder and a part of a JSON file are, to the byte, what a run of that
label alone would have written there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qin.runtime.files import read_exact_json, read_json, write_exact_json

# Groups of prepared rows: the label that there is, and before the column's name each of several.
LABEL, LABEL_OF = "label", "label."

_LABELS = "labels"


def label_place(folder: Path, label: str) -> Path:
    """Where a label's part of an output is."""
    return folder / label


def of_labels(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by label for a file in `metrics/`: of one label alone as they are."""
    [*labels] = figures
    return dict(figures) if len(labels) > 1 else dict(figures[labels[0]])


def write_labelled_json(path: Path, files: Mapping[str, Path]) -> None:
    """Write artifacts that are JSON files as one, each with its own checksum.

    Args:
        path: The file.
        files: What each label's run wrote.
    """
    write_exact_json(path, {_LABELS: {label: read_json(file) for label, file in files.items()}})


def labels_of(path: Path) -> tuple[str, ...]:
    """The labels of an artifact that is a JSON file, in the order of `data.label`; none where it is of one alone."""
    return tuple(read_exact_json(path).get(_LABELS, {}))


def labelled_text(path: Path, label: str) -> str:
    """The text of the file that a label's run wrote.

    Raises:
        KeyError: If it has no such label.
    """
    return json_text(read_exact_json(path)[_LABELS][label])


def json_text(tree: Mapping[str, Any]) -> str:
    """The text of a JSON file of this project, of values that are as they stand in one."""
    return json.dumps(tree, indent=2) + "\n"
