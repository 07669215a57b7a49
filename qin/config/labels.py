"""What several labels may be called, and that a label is nothing else: the outcome of a row is no property of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qin.runtime.errors import shortened

# Rows are divided by all labels' values together, which are twice as many with each label.
MOST_LABELS = 8

_LONGEST_FOLDER = 200  # file systems take 255, of which names beside it need some
# Letters of any script, no separator, and no point in front, which would hide the folder or climb out of it.
_FOLDER = re.compile(r"[\w-][\w.-]*")
_Section = Mapping[str, Any]


def name_problems(labels: Sequence[str]) -> list[str]:
    """What is wrong with the names of several labels, which name folders of the outputs.

    Args:
        labels: As `data.label` lists them.
    """
    problems, seen = [], set()
    for name in labels:
        if name.lower() in seen:  # some file systems take both for one
            problems.append(f"{name} is listed twice (names may not differ in case alone)")
        seen.add(name.lower())
        if len(labels) > 1 and len(name.encode(errors="replace")) > _LONGEST_FOLDER:
            problems.append(f"{shortened(name)} names a folder, so it must have {_LONGEST_FOLDER} bytes at most")
        if len(labels) > 1 and not _FOLDER.fullmatch(name):
            problems.append(f"{name!r} names a folder, so it must be letters, digits, `_`, `-` and `.`, not `.` first")
    return problems


def label_problems(labels: Sequence[str], settings: Mapping[str, _Section]) -> list[str]:
    """The settings that name a label as something that is known of a row before its outcome.

    Of one label those of `data` and the lists of features are left to the check of the file's columns, which has
    always named them.

    Args:
        labels: The columns of the labels.
        settings: All of params.yaml, as plain values.
    """
    return [
        f"{key}: {name} is a label, which no row has before its outcome"
        for key, name in _named(settings, several=len(labels) > 1)
        if name in labels
    ]


def _named(settings: Mapping[str, _Section], *, several: bool) -> Iterator[tuple[str, str]]:
    """Keys, and the names of columns that they hold as they stand."""
    features, split = settings["features"], settings["split"]
    # Asked of a single label, too: the check of the file's columns does not look at impressions.
    for key in ("key", "columns"):
        yield from ((f"features.impression.{key}", name) for name in features["impression"][key] or ())
    if not several:
        return
    data = settings["data"]
    yield "data.id", data["id"]
    for key in ("drop", "ignore"):
        yield from ((f"data.{key}", name) for name in data[key])
    for key in ("categorical", "numeric", "target", "num_buckets_of"):
        yield from ((f"features.{key}", name) for name in features[key])
    for sequence in features["sequences"]:
        yield "features.sequences", sequence["name"]
    yield from _counted(features["statistics"])
    for key in ("group_key", "session_key", "time_col"):
        yield from ((f"split.{key}", name) for name in filter(None, [split[key]]))
    yield from (("split.row_key", name) for name in split["row_key"] or ())
    yield from (("evaluate.slices", name) for name in settings["evaluate"]["slices"])


def _counted(statistics: _Section) -> Iterator[tuple[str, str]]:
    pairs = statistics["pairs"]
    yield from (("features.statistics.fields", name) for name in statistics["fields"] or ())
    for pair in () if pairs == "auto" else pairs:
        yield from (("features.statistics.pairs", name) for name in pair)
