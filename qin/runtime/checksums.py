"""Names for the content of raw files, computed once for each state of a file.

A process remembers what it has read. Of a file in object storage the name is kept in `.qin/checksums` as well, with the
object's size and time, so that no stage reads it again only to name it. Object storage tells time in seconds: an object
that was written a moment ago is not remembered, because another of its size may take its place within the same second.
"""

import hashlib
import os
import time

from qin.runtime.errors import ArtifactError
from qin.runtime.files import fingerprint, read_exact_json, write_exact_json
from qin.runtime.paths import CHECKSUMS
from qin.runtime.sources import SourceFile

_VERSION = 1
_WHOLE_BYTES, _BLOCK_BYTES, _NUM_BLOCKS, _TAIL_BYTES = 64 << 20, 1 << 20, 32, 16 << 20
_SETTLED_SECONDS = 60.0

_known: dict[tuple[str, tuple[int, ...]], str] = {}


def file_checksum(source: SourceFile) -> str:
    """A name for the content of one file of a log; see `qin.runtime.chain.raw_checksum`.

    Raises:
        DataError: If the file is missing, or may not be read.
    """
    try:
        state = source.state()
    except FileNotFoundError:
        return _checksum(source)  # which says so
    key = source.name, state
    if not _is_settled(state):
        return _checksum(source)
    if key not in _known:
        _known[key] = _checksum(source) if source.filesystem is None else _kept(source, state)
    return _known[key]


def _is_settled(state: tuple[int, ...]) -> bool:
    """Whether the file was written so long ago that a later content of it has another time."""
    return time.time() - state[1] / 1e9 > _SETTLED_SECONDS


def _kept(source: SourceFile, state: tuple[int, ...]) -> str:
    """The checksum of a remote file, from an earlier run where the file is as it was."""
    place = CHECKSUMS / f"{fingerprint(source.name)}.json"
    expected = {"version": _VERSION, "file": source.name, "state": list(state)}
    try:
        tree = read_exact_json(place)
    except ArtifactError:
        tree = {}
    if {name: tree.get(name) for name in expected} == expected:
        return str(tree["content"])
    checksum = _checksum(source)
    write_exact_json(place, {**expected, "content": checksum})
    return checksum


def _checksum(source: SourceFile) -> str:
    digest = hashlib.sha256()
    with source.open() as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        starts = (
            range(0, size - _TAIL_BYTES, (size - _TAIL_BYTES) // _NUM_BLOCKS)
            if size > _WHOLE_BYTES and not source.is_text
            else ()
        )
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
        file.seek(size - _TAIL_BYTES if starts else 0)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:16]
