"""The prepared log on disk: fixed-width little-endian arrays in shards of equal row counts, and a manifest.

A shard file holds its groups one after the other, each a row-major `(num_rows, width)` array:
`categorical`, `numeric`, one `sequence.<name>` each, and `label` (train). Fixed widths make any range of rows a
single read per group and shard, without a memory map, so resident memory is what was asked for.
"""

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.artifacts import read_json, write_exact_json
from qin.errors import ArtifactError
from qin.schema import Schema

FORMAT = 1
MANIFEST = "manifest.json"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Group:
    """One array per shard: its name, NumPy dtype string and values per row."""

    name: str
    dtype: str
    width: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * self.width

    def empty(self, num_rows: int) -> npt.NDArray[Any]:
        """A zeroed array of this group."""
        return np.zeros((num_rows, self.width), self.dtype)


def layout(schema: Schema, *, with_label: bool) -> tuple[Group, ...]:
    """The groups of a prepared file, in file order; bucket numbers take 16 bits where all of them fit."""
    groups = [Group("categorical", _bucket_dtype([f.num_buckets for f in schema.categorical]), len(schema.categorical))]
    groups.append(Group("numeric", "<f4", len(schema.numeric)))
    groups += [Group(f"sequence.{f.name}", _bucket_dtype([f.num_buckets]), f.max_len) for f in schema.sequences]
    if with_label:
        groups.append(Group("label", "|u1", 1))
    return tuple(groups)


def _bucket_dtype(num_buckets: Sequence[int]) -> str:
    return "<u2" if max(num_buckets, default=0) <= 1 << 16 else "<i4"


class ShardWriter:
    """Writes rows into shards of `shard_rows`; the result does not depend on how rows were batched."""

    def __init__(self, folder: Path, groups: Sequence[Group], *, shard_rows: int) -> None:
        self._folder = folder
        self._groups = tuple(groups)
        self._shard_rows = shard_rows
        self._buffer = {group.name: group.empty(shard_rows) for group in groups}
        self._filled = 0
        self._shards: list[dict[str, Any]] = []

    def append(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add rows; every group has the same number of them."""
        num_rows, taken = len(next(iter(arrays.values()))), 0
        while taken < num_rows:
            take = min(num_rows - taken, self._shard_rows - self._filled)
            for group in self._groups:
                self._buffer[group.name][self._filled : self._filled + take] = arrays[group.name][taken : taken + take]
            self._filled += take
            taken += take
            if self._filled == self._shard_rows:
                self._flush()

    def close(self, *, schema: Schema, extra: Mapping[str, Any]) -> None:
        """Write the last shard and the manifest."""
        if self._filled:
            self._flush()
        manifest = {
            "format": FORMAT,
            "num_rows": sum(shard["num_rows"] for shard in self._shards),
            "shard_rows": self._shard_rows,
            "groups": [asdict(group) for group in self._groups],
            "shards": self._shards,
            "schema": schema.to_json(),
            **extra,
        }
        write_exact_json(self._folder / MANIFEST, manifest)

    def _flush(self) -> None:
        name, checksum = f"{len(self._shards):05d}.bin", 0
        with (self._folder / name).open("wb") as file:
            for group in self._groups:
                data = self._buffer[group.name][: self._filled].data
                checksum = zlib.crc32(data, checksum)
                file.write(data)
        self._shards.append({"file": name, "num_rows": self._filled, "crc32": checksum})
        self._filled = 0


class ShardReader:
    """Reads ranges of rows of a prepared file.

    Raises:
        ArtifactError: If the manifest or a shard is missing, or a shard's size is not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ArtifactError(f"{folder / MANIFEST}: format {manifest.get('format')!r}, expected {FORMAT}")
        self.num_rows: int = manifest["num_rows"]
        self.shard_rows: int = manifest["shard_rows"]
        self.schema = Schema.from_json(manifest["schema"])
        self.manifest = manifest
        self._groups = {group["name"]: Group(**group) for group in manifest["groups"]}
        self._shards: list[dict[str, Any]] = manifest["shards"]
        row_bytes = sum(group.row_bytes for group in self._groups.values())
        for shard in self._shards:
            self._check_size(folder / shard["file"], shard["num_rows"] * row_bytes)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of each shard, in file order."""
        return tuple(self._groups.values())

    def read(self, group: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of a group, as an array `(stop - start, width)`.

        Raises:
            ValueError: If the range is not inside the file.
            ArtifactError: If the shard has been truncated since the reader was made.
        """
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"rows must be a range inside 0 to {self.num_rows}, got {start=} {stop=}")
        spec = self._groups[group]
        out = np.empty((stop - start, spec.width), spec.dtype)
        for number in range(start // self.shard_rows, -(-stop // self.shard_rows) if spec.width else 0):
            first = number * self.shard_rows
            low, high = max(start, first), min(stop, first + self.shard_rows)
            part = out[low - start : high - start]
            self._read_into(number, spec, low - first, part)
        return out

    def _read_into(self, number: int, spec: Group, row: int, part: npt.NDArray[Any]) -> None:
        path = self.folder / self._shards[number]["file"]
        offset = row * spec.row_bytes
        for group in self.groups:
            if group.name == spec.name:
                break
            offset += group.row_bytes * self._shards[number]["num_rows"]
        with path.open("rb") as file:
            num_bytes = os.preadv(file.fileno(), [part.data], offset)
            if num_bytes != part.nbytes:
                raise ArtifactError(f"{path}: truncated: {num_bytes} bytes at {offset}, expected {part.nbytes}")

    def _check_size(self, path: Path, expected: int) -> None:
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise ArtifactError(f"{path}: file not found; run the prepare stage") from error
        if size != expected:
            raise ArtifactError(f"{path}: has {size} bytes, expected {expected}; run the prepare stage again")
