"""A folder in which a stage runs for one label, laid out like a repository that has this label alone.

Its settings name the label and ignore the other ones, its inputs are links, so whatever a stage reads and checks there
is as in a run of that label alone: no stage has to know of several labels, and none can read another label of a row.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qin.config import Params
from qin.config.yaml_text import yaml_text
from qin.labels.parts import OUTPUTS, take_out
from qin.labels.single import of_label
from qin.runtime import paths
from qin.runtime.chain import ORIGIN, description_of
from qin.runtime.files import read_exact_json, write_exact_json
from qin.runtime.labelled import LABEL, LABEL_OF
from qin.runtime.replacing import remove
from qin.runtime.sources import Source, is_uri, items_of
from qin.runtime.stage import STAGES

# What prepare and split write once for all labels: its files are linked, its description is of the label.
SHARED = (paths.PREPARED_TRAIN, paths.PREPARED_TEST, paths.FOLDS)
_FIGURES_OF_SHARED = (paths.METRICS / "prepare.json", paths.METRICS / "split.json")

_ROOT = paths.SCRATCH / "labels"
_PAGES = (".html", ".md")  # which no stage reads
_KEPT = (paths.CHECKSUMS, paths.PLOT_TEMPLATES)  # what rooms share with the repository


def room_of(stage: str, label: str) -> Path:
    """Where a stage runs for a label."""
    return _ROOT / stage / label


def inputs_of(stage: str) -> Iterator[Path]:
    """The outputs of earlier stages, which a stage may read."""
    yield from (*SHARED, *_FIGURES_OF_SHARED)
    for earlier in STAGES[: STAGES.index(stage)]:
        yield from (place for place in OUTPUTS.get(earlier, ()) if place.suffix not in _PAGES)


def settings_of(params: Params, label: str, *, room: Path) -> Params:
    """The settings as they are for one label.

    Args:
        params: Those of the repository.
        label: One of `data.label`.
        room: Where they are to hold.
    """
    raw = {name: _placed(getattr(params.data, name), room) for name in ("train", "test", "sample_submission")}
    alone = of_label(params, label)
    return alone.model_copy(update={"data": alone.data.model_copy(update=raw)})


def furnish(room: Path, stage: str, params: Params, label: str) -> Params:
    """Lay a room out: settings and inputs; what a stage left there before, checkpoints above all, stays.

    Args:
        room: Made if it is not there.
        stage: The stage that will run there.
        params: Settings of the repository.
        label: One of `data.label`.

    Returns:
        The label's settings.

    Raises:
        ArtifactError: If an input is damaged, or has no such label.
    """
    room.mkdir(parents=True, exist_ok=True)
    settings = settings_of(params, label, room=room)
    text = yaml_text(settings.model_dump(mode="json"))
    # As a file, because the stage's process reads its settings as any other does.
    (room / paths.PARAMS).write_text(text, encoding="utf-8")
    for source in (params.data.train, params.data.test, params.data.sample_submission):
        for item in [] if source is None else items_of(source):
            if _is_inside(item):
                _link(Path(item), room / item)
    for place in _KEPT:
        if place.exists():
            _link(place, room / place)
    if params.track.to:
        (paths.RUNS / label).mkdir(parents=True, exist_ok=True)
        _link(paths.RUNS / label, room / paths.RUNS)
    for place in inputs_of(stage):
        # What was laid out for an earlier run may be of outputs that are there no longer.
        remove(room / place)
        if place in SHARED:
            _share(place, room / place, settings)
        else:
            take_out(place, label, to=room / place)
    return settings


def _placed(source: Any, room: Path) -> Any:
    """A source as the room's settings name it: by the same name where it can be linked, else from the room."""
    if isinstance(source, list):
        return [_placed(item, room) for item in source]
    if source is None or is_uri(source) or Path(source).is_absolute() or _is_inside(source):
        return source
    return os.path.relpath(source, room)


def _is_inside(item: Source) -> bool:
    """Whether a raw file lies in the repository, and not in the way of a stage's outputs."""
    place = Path(str(item))
    if is_uri(str(item)) or place.is_absolute() or ".." in place.parts:
        return False
    return not any(output.is_relative_to(place) for output in (*SHARED, *(p for out in OUTPUTS.values() for p in out)))


def _share(place: Path, to: Path, settings: Params) -> None:
    """Link the files of an output that all labels share, beside a description of the label's own."""
    if not place.exists():
        return
    to.mkdir(parents=True)
    description = description_of(place)
    for entry in place.iterdir():
        if entry.name != description.name:
            (to / entry.name).symlink_to(entry.absolute())
    write_exact_json(to / description.name, _of_label(read_exact_json(description), settings))


def _of_label(tree: Mapping[str, Any], settings: Params) -> dict[str, Any]:
    """A description as that of a log with one label: its group of values has the name that it would have alone."""
    label = settings.data.first_label
    found = dict(tree)
    if ORIGIN in tree:
        recorded = tree[ORIGIN]["settings"]
        own = {"data.label": label, "data.ignore": settings.data.ignore}
        found[ORIGIN] = {**tree[ORIGIN], "settings": {key: own.get(key, value) for key, value in recorded.items()}}
    if "schema" in tree:
        schema = {key: value for key, value in tree["schema"].items() if key != "other_labels"}
        found["schema"] = {**schema, "label": label}
        found["groups"] = [{**group, "name": _group(group["name"], label)} for group in tree["groups"]]
        # Under other names the same bytes, so checksums stay what they are.
        found["shards"] = [
            {**shard, "crc32": {_group(name, label): crc32 for name, crc32 in shard["crc32"].items()}}
            for shard in tree["shards"]
        ]
    return found


def _group(name: str, label: str) -> str:
    return LABEL if name == LABEL_OF + label else name


def _link(place: Path, link: Path) -> None:
    remove(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(place.absolute())
