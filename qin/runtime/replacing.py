"""Old aside, new in, old away: new content takes the place of old, also behind links and on mount points.

A process that is killed at any moment leaves the old content or the new, in its place or under a name beside or inside
it that `recover` knows. What is put aside has these names, for a place `out`:

1. `.out.tmp` beside it: new content that is being written (`.out.2.tmp`, where another process writes to the same
   file); dropped by the next run. See `qin.runtime.staging`.
2. `.out.old` beside it: old content while the new takes its place. A folder was renamed, so it is whole; a file that
   could not be renamed (a mount point) was copied, so it is whole as well.
3. `.new`, `.leaving`, `.old`, `.done` inside a folder that cannot be renamed, see `_replace_inside`.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from qin.runtime.errors import ArtifactError

_NEW, _LEAVING, _OLD, _DONE = ".new", ".leaving", ".old", ".done"
_NOT_OURS = "lost+found"  # at the top of a disk

# What renaming a mount point says, or across one.
_CANNOT_RENAME = (errno.EBUSY, errno.EXDEV)


def place_of(path: Path) -> Path:
    """Where the content of a path is, which is elsewhere if it is a symbolic link.

    A link to a file that nobody may write is replaced itself: DVC links outputs to its cache so, and what is in there
    must not change.

    Raises:
        ArtifactError: If the link leads nowhere; the disk may not be there.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if not target.exists():
        raise ArtifactError(f"{path}: is a link to {target}, which does not exist")
    is_protected = target.is_file() and not target.stat().st_mode & 0o222
    return path if is_protected else target


def staging_directory(place: Path) -> Path:
    """Where a folder's new content is written: on the same disk, so that a rename brings it into place."""
    return place / _NEW if os.path.ismount(place) else beside(place, "tmp")


def replace_directory(staging: Path, place: Path) -> None:
    """Let a folder take the place of another, or of none.

    Raises:
        OSError: If it cannot; the old content stays.
    """
    if staging == place / _NEW:
        _replace_inside(place)
        return
    aside = beside(place, "old")
    try:
        place.rename(aside)
    except FileNotFoundError:
        staging.rename(place)
        return
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        shutil.copytree(staging, place / _NEW)  # a mount of the same disk, which only a rename tells
        _replace_inside(place)
        return
    try:
        staging.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    _drop(aside)


def replace_file(staging: Path, place: Path) -> None:
    """Let a file take the place of another, or of none.

    Raises:
        OSError: If it cannot; the old content stays.
    """
    try:
        staging.replace(place)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        aside = beside(place, "old")
        shutil.copyfile(place, beside(aside, "tmp"))
        beside(aside, "tmp").rename(aside)
        _overwrite(place, staging)
        aside.unlink()


def put_back(place: Path) -> None:
    """Put old content back that a killed run had put aside and nothing has replaced; for who wants to read it."""
    aside = beside(place, "old")
    if aside.exists() and not place.exists():
        aside.rename(place)


def recover(place: Path, *, keep: Path | None = None) -> None:
    """Put back, or clear away, what a run left that was killed while it replaced this place.

    Args:
        place: Of an output.
        keep: What this process is about to write to.
    """
    aside = beside(place, "old")
    if aside.is_file() and place.exists():  # a copy of a file that was being overwritten
        _overwrite(place, aside)
        aside.unlink()
    elif aside.exists() and place.exists():
        _drop(aside)
    put_back(place)
    if place.is_dir():
        _recover_inside(place, keep=keep)
    remove(beside(aside, "tmp"))


def _replace_inside(place: Path) -> None:
    """Replace the content of a folder that cannot be renamed by that of `.new` in it.

    1. Old entries move to `.leaving`; none of the new is in place.
    2. `.leaving` becomes `.old`: none of the old is in place.
    3. New entries move from `.new`.
    4. `.old` becomes `.done`: from here on the new content counts. The rest is clearing away.
    """
    leaving, old, done = place / _LEAVING, place / _OLD, place / _DONE
    leaving.mkdir()
    try:
        for entry in _entries(place):
            entry.rename(leaving / entry.name)
        leaving.rename(old)
        for entry in list((place / _NEW).iterdir()):
            entry.rename(place / entry.name)
        old.rename(done)
    except BaseException:
        _recover_inside(place)
        raise
    shutil.rmtree(done)
    (place / _NEW).rmdir()


def _recover_inside(place: Path, *, keep: Path | None = None) -> None:
    """Undo `_replace_inside` up to its third step; may itself be ended and begun again."""
    leaving, old = place / _LEAVING, place / _OLD
    if old.exists():
        for entry in _entries(place):
            remove(entry)
        old.rename(leaving)
    if leaving.exists():
        for entry in list(leaving.iterdir()):
            entry.rename(place / entry.name)
        leaving.rmdir()
    for name in (_NEW, _DONE):
        if place / name != keep:
            remove(place / name)


def _entries(place: Path) -> list[Path]:
    return [entry for entry in place.iterdir() if entry.name not in (_NEW, _LEAVING, _OLD, _DONE, _NOT_OURS)]


def _overwrite(place: Path, source: Path) -> None:
    """Write a file's content into another that must stay the same file."""
    with source.open("rb") as content, place.open("r+b") as file:
        shutil.copyfileobj(content, file)
        file.truncate()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _drop(folder: Path) -> None:
    """Remove a whole folder, which another process may be removing as well."""

    def on_error(
        _: Callable[..., Any], __: str, error: tuple[type[BaseException], BaseException, TracebackType]
    ) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(folder, onerror=on_error)


def beside(path: Path, kind: str) -> Path:
    """The name of something of a place that lies beside it."""
    return path.with_name(f".{path.name}.{kind}")
