"""Inputs that are edited while a stage runs: noticed, so that no output is recorded as made from what it was not.

DVC hashes a stage's dependencies when the stage has ended. What was edited meanwhile would be recorded in `dvc.lock`,
and in the run cache that others pull from, as what made the outputs.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from qin.runtime.errors import EditedError
from qin.runtime.sources import Source, exists, is_uri, items_of, list_files

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("qin", "stages")

# Of files up to this size the content counts, as for DVC; of larger ones size, time and inode.
_SMALL_BYTES = 1 << 20
_SHOWN = 3

_State = tuple[object, ...] | None
_code_at_start: dict[Path, _State] = {}


def remember_code() -> None:
    """Take down the sources as they are now, before a stage's modules are imported, which takes seconds."""
    _code_at_start.update(_sources())


class InputWatch:
    """The state of a stage's inputs at its start: the code, and what is added before it is read."""

    def __init__(self) -> None:
        self._code = dict(_code_at_start) or _sources()
        self._states: dict[Path | str, _State] = {}

    def add(self, *sources: Source | None) -> None:
        """Watch files, folders and URIs, which may be missing."""
        items = [item for source in sources if source is not None for item in items_of(source)]
        places = [item if is_uri(item) else Path(item) for item in items]
        self._states.update({place: _state(place) for place in places})

    def check(self, stage: str) -> None:
        """Compare every input, and every source that has been imported, with its state at the start.

        Raises:
            EditedError: If one has changed, appeared or gone.
        """
        before: dict[Path | str, _State] = {
            **{path: self._code[path] for path in _imported() if path in self._code},
            **self._states,
        }
        edited = [_shown(path) for path, state in before.items() if _state(path) != state]
        if edited:
            more = f" and {len(edited) - _SHOWN} more" if len(edited) > _SHOWN else ""
            raise EditedError(
                f"{', '.join(edited[:_SHOWN])}{more}: edited while stage {stage} ran, "
                "so that its outputs would not be those of its inputs; run it again"
            )


def _state(path: Path | str) -> _State:
    if isinstance(path, str):
        return _remote_state(path)
    try:
        if path.is_dir():
            return tuple((entry.name, _state(entry)) for entry in sorted(path.iterdir()))
        found = path.stat()
        if found.st_size <= _SMALL_BYTES:
            return (hashlib.sha256(path.read_bytes()).digest(),)
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _remote_state(uri: str) -> _State:
    """Name, size and time of each object: what object storage tells without reading it."""
    if not exists(uri):
        return None
    try:
        return tuple((file.name, file.state()) for file in list_files(uri))
    except FileNotFoundError:  # it went while it was looked at
        return None


def _sources() -> dict[Path, _State]:
    return {path: _state(path) for name in _PACKAGES for path in (_ROOT / name).rglob("*.py")}


def _imported() -> Iterator[Path]:
    """Files of our modules that this process has imported, or runs."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(_ROOT):
            yield Path(file)


def _shown(path: Path | str) -> str:
    if isinstance(path, str):
        return path
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) and path.suffix == ".py" else str(path)
