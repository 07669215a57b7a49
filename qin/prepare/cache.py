"""Encoded files of earlier runs, so that a day that is added is the only one to be encoded.

An entry is a folder in `.qin/prepared`, named by all that decides a file's shards: the file's content, the resolved
columns, rows per shard, the code that encodes, and its rows' features of impressions. Its files are hard links to those
in `data/prepared`, which take no room of their own, and stay when DVC removes its outputs before a stage runs. What the
last complete run did not use is dropped. A stage that is killed finds the files that were done when it runs again.
"""

import os
import shutil
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

from qin.prepare.part import EncodedPart, PartTask
from qin.runtime.checksums import file_checksum
from qin.runtime.errors import ArtifactError
from qin.runtime.files import file_crc32, fingerprint, read_exact_json, write_exact_json
from qin.runtime.provenance import code_fingerprint
from qin.shards.files import FORMAT, Group, Shard, damaged_group, layout, shard_name

_ENTRY, _COUNTS = "part.json", "counts.npz"
_BLOCK_ROWS = 1 << 16


class PartCache:
    """Encoded files by what they were made from.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._code = code_fingerprint("qin/prepare/part.py"), version("numpy"), version("pyarrow")
        self._used: set[str] = set()

    def key(self, task: PartTask) -> str:
        """The name of all that decides what a file is encoded to."""
        content = file_checksum(task.part.file), task.part.file.partition, str(task.part.schema)
        options = task.schema.to_json(), task.with_label, task.knobs.shard_rows, _crc32_of_rows(task)
        key = fingerprint(FORMAT, self._code, content, options)
        self._used.add(key)
        return key

    def get(self, key: str, task: PartTask) -> EncodedPart | None:
        """Put an encoded file's shards into the task's folder, if they are known and whole."""
        entry = self._folder / key
        try:
            tree = read_exact_json(entry / _ENTRY)
        except ArtifactError:
            return None
        kept: list[Shard] = tree["shards"]
        groups = layout(task.schema, with_label=task.with_label)
        # Linked files are those of `data/prepared`, which somebody may have edited since: all of them are whole, or
        # none is taken.
        whole = _is_whole(entry / _COUNTS, tree["counts_crc32"])
        if not whole or any(not _is_shard(entry / shard["file"], shard, groups) for shard in kept):
            shutil.rmtree(entry)
            return None
        shards = []
        # A file keeps its shards, but their numbers follow from the files before it, which may be others by now.
        for number, shard in enumerate(kept, task.first_shard):
            _link(entry / shard["file"], task.folder / shard_name(number))
            shards.append({**shard, "file": shard_name(number)})
        with np.load(entry / _COUNTS, allow_pickle=False) as counts:
            return EncodedPart(shards, dict(counts))

    def keep(self, key: str, task: PartTask, encoded: EncodedPart) -> None:
        """Remember a file that is encoded; where files cannot be linked, nothing is kept."""
        # Renamed at the end: a folder that has its name is complete, whenever this process is killed.
        staging = self._folder / f".{key}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            for shard in encoded.shards:
                os.link(task.folder / shard["file"], staging / shard["file"])
        except OSError:  # another disk, or one that knows no links: a copy would take the room twice
            shutil.rmtree(staging)
            return
        np.savez(staging / _COUNTS, allow_pickle=False, **encoded.counts)
        write_exact_json(staging / _ENTRY, {"shards": encoded.shards, "counts_crc32": file_crc32(staging / _COUNTS)})
        shutil.rmtree(self._folder / key, ignore_errors=True)
        staging.rename(self._folder / key)

    def prune(self) -> None:
        """Drop what this run has not asked for; to be called when all is in its place."""
        for entry in self._folder.iterdir() if self._folder.is_dir() else ():
            if entry.name not in self._used:
                shutil.rmtree(entry)


def _is_whole(path: Path, crc32: int) -> bool:
    return path.is_file() and file_crc32(path) == crc32


def _is_shard(path: Path, shard: Shard, groups: tuple[Group, ...]) -> bool:
    return path.is_file() and damaged_group(path, shard, groups) is None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the output is on another disk by now
        shutil.copyfile(source, target)


def _crc32_of_rows(task: PartTask) -> int:
    """A checksum of the features of impressions of a file's rows, which depend on other files too."""
    features, part, checksum = task.impressions, task.part, 0
    if features is None:
        return checksum
    for start in range(part.first_row, part.first_row + part.num_rows, _BLOCK_ROWS):
        num_rows = min(_BLOCK_ROWS, part.first_row + part.num_rows - start)
        rows = np.empty((num_rows, features.num_columns), np.float32)
        features.read_into(start, rows)
        checksum = zlib.crc32(rows.tobytes(), checksum)
    return checksum
