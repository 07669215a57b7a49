"""Outputs of stages in folders of their own, linked into folders that look like the repository after a run."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def outputs_of(folder: Path) -> Iterator[Path]:
    """What a stage wrote in a folder: all that is in `data/`, `artifacts/` and so on and not a link to another's.

    Args:
        folder: Where a stage has run.
    """
    for top in sorted(folder.iterdir()):
        if top.is_dir() and not top.name.startswith("."):
            yield from (place for place in sorted(top.iterdir()) if not place.is_symlink())


def link_outputs(made: Iterable[Path], folder: Path) -> None:
    """Link outputs of stages into their places in a folder, by relative paths, so that both can be moved together.

    Args:
        made: Folders in which stages have run.
        folder: Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place in made:
        for output in outputs_of(place):
            link = folder / output.relative_to(place)
            link.parent.mkdir(exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(output, link.parent))
