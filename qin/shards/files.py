"""The prepared log on disk: fixed-width little-endian arrays in shards, which end where raw files end, and a manifest.

A shard file holds its groups one after the other, each a row-major `(num_rows, width)` array:
`categorical`, `numeric`, one `sequence.<name>` each, and `label` (train). Of several labels there is a `label.<name>`
each instead, which no reader of rows gets with the others: whoever wants one names it. Fixed widths make any range of
rows a single read per group and shard, without a memory map, so resident memory is what was asked for.
"""

import os
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from qin.columns.schema import Schema
from qin.runtime.chain import Origin, origin_entry
from qin.runtime.errors import ArtifactError
from qin.runtime.files import file_crc32, read_exact_json, write_exact_json
from qin.runtime.labelled import LABEL, LABEL_OF

# 3: shards end where raw files end, so that a new day's file leaves the shards of the others as they are.
FORMAT = 3
MANIFEST = "manifest.json"
_BLOCK_BYTES = 1 << 20

Arrays = dict[str, npt.NDArray[Any]]
Shard = dict[str, Any]  # file, num_rows, and crc32 by group


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
        groups += [Group(name, "|u1", 1) for name in label_groups(schema)]
    return tuple(groups)


def label_groups(schema: Schema) -> dict[str, str]:
    """The column of each label by the name of its group."""
    return {LABEL: schema.label} if not schema.other_labels else {LABEL_OF + name: name for name in schema.labels}


def _bucket_dtype(num_buckets: Sequence[int]) -> str:
    # Not <u4: PyTorch has no arithmetic for unsigned words, and no vocabulary has 2**31 buckets.
    return "<u2" if max(num_buckets, default=0) <= 1 << 16 else "<i4"


class ShardWriter:
    """Writes the rows of one raw file into shards of `shard_rows`; how rows were batched does not show.

    Rows go straight to their place in the file, so nothing is held back here.

    Args:
        folder: Existing empty folder.
        groups: Arrays of each shard.
        num_rows: Rows that will be appended.
        shard_rows: Rows per shard; the last may have fewer.
        first_shard: Number of the first shard in the log.
    """

    def __init__(
        self, folder: Path, groups: Sequence[Group], *, num_rows: int, shard_rows: int, first_shard: int = 0
    ) -> None:
        self._folder, self._groups = folder, tuple(groups)
        self._num_rows, self._shard_rows, self._first_shard = num_rows, shard_rows, first_shard
        self._row = 0
        self._shards: list[Shard] = []

    def append(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add rows; every group has the same number of them.

        Raises:
            ValueError: If there are more rows than were announced.
        """
        num_rows, taken = len(next(iter(arrays.values()))), 0
        if self._row + num_rows > self._num_rows:
            raise ValueError(f"num_rows was {self._num_rows}, got {self._row + num_rows} rows")
        while taken < num_rows:
            number, row = divmod(self._row, self._shard_rows)
            if row == 0:
                self._begin_shard(number)
            take = min(num_rows - taken, self._shards[number]["num_rows"] - row)
            self._write(number, row, {name: array[taken : taken + take] for name, array in arrays.items()})
            taken += take
            self._row += take

    def close(self, *, schema: Schema, other_files: Sequence[str] = (), origin: Origin | None = None) -> None:
        """Write the manifest of a log that is one file; see `write_manifest`.

        Raises:
            ValueError: If there are fewer rows than were announced.
        """
        write_manifest(self._folder, self._groups, self.finish(), schema=schema, other_files=other_files, origin=origin)

    def finish(self) -> list[Shard]:
        """The shards, when all rows are there.

        Raises:
            ValueError: If there are fewer rows than were announced.
        """
        if self._row != self._num_rows:
            raise ValueError(f"num_rows was {self._num_rows}, got {self._row} rows")
        return self._shards

    def _begin_shard(self, number: int) -> None:
        size = min(self._shard_rows, self._num_rows - number * self._shard_rows)
        checksums = {group.name: 0 for group in self._groups}
        self._shards.append({"file": shard_name(self._first_shard + number), "num_rows": size, "crc32": checksums})

    def _write(self, number: int, row: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        shard, offset = self._shards[number], 0
        path = self._folder / shard["file"]
        # Groups lie one after the other, so each batch of rows has a place of its own in each of them.
        # Never appended to: Linux would then write at the end, whatever the place.
        with path.open("r+b" if row else "wb") as file:
            for group in self._groups:
                data = np.ascontiguousarray(arrays[group.name], group.dtype).reshape(-1).view(np.uint8).data
                # Rows come in their order, so a group's checksum goes on from the batch before, though the file is
                # filled in stripes.
                shard["crc32"][group.name] = zlib.crc32(data, shard["crc32"][group.name])
                _write_at(file.fileno(), data, offset + row * group.row_bytes, path)
                offset += group.row_bytes * shard["num_rows"]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"{number:05d}.bin"


def write_manifest(
    folder: Path,
    groups: Sequence[Group],
    shards: Sequence[Shard],
    *,
    schema: Schema,
    other_files: Sequence[str] = (),
    origin: Origin | None = None,
) -> None:
    """Write what a folder of shards holds.

    Args:
        folder: Where they are.
        groups: Arrays of each shard.
        shards: The shards, in the order of their rows.
        schema: The resolved columns.
        other_files: Names of finished files in the folder that `ShardReader.verify` checks as well.
        origin: What the log was made from, without which no stage reads it.
    """
    manifest = {
        "format": FORMAT,
        "num_rows": sum(shard["num_rows"] for shard in shards),
        "groups": [asdict(group) for group in groups],
        "shards": shards,
        "schema": schema.to_json(),
        "other_files": {name: file_crc32(folder / name) for name in other_files},
        **origin_entry(origin),
    }
    write_exact_json(folder / MANIFEST, manifest)


def damaged_group(path: Path, shard: Shard, groups: Sequence[Group]) -> str | None:
    """The first group of a shard's file whose checksum is not the shard's; None where all are."""
    with path.open("rb") as file:
        for group in groups:
            if _crc32_of_next(file, group.row_bytes * shard["num_rows"]) != shard["crc32"][group.name]:
                return group.name
    return None


def _crc32_of_next(file: IO[bytes], num_bytes: int) -> int:
    checksum, done = 0, 0
    while done < num_bytes and (block := file.read(min(_BLOCK_BYTES, num_bytes - done))):
        checksum, done = zlib.crc32(block, checksum), done + len(block)
    return checksum


def _write_at(descriptor: int, data: memoryview, offset: int, path: Path) -> None:
    """Write all of `data`; unlike `os.pwrite`, errors name the file."""
    while data:
        try:
            num_bytes = os.pwrite(descriptor, data, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        data, offset = data[num_bytes:], offset + num_bytes


class RowReader(Protocol):
    """What reads ranges of prepared rows: a `ShardReader`, or one with more columns."""

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        ...

    @property
    def schema(self) -> Schema:
        """Its columns."""
        ...

    @property
    def folder(self) -> Path:
        """Where it lies, for messages."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its content is, down to checksums, as JSON values."""
        ...

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of arrays, in file order."""
        ...

    def read(self, group: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of a group, as an array `(stop - start, width)`."""
        ...

    def read_into(self, group: str, start: int, out: npt.NDArray[Any]) -> None:
        """Fill `out (num_rows, width)`, contiguous and of the group's type, with its rows from `start` on."""
        ...


class ShardReader:
    """Reads ranges of rows of a prepared file.

    Raises:
        ArtifactError: If the manifest or a shard is missing, or a shard's size is not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_exact_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ArtifactError(f"{folder / MANIFEST}: format {manifest.get('format')!r}, expected {FORMAT}")
        self.num_rows: int = manifest["num_rows"]
        self.schema = Schema.from_json(manifest["schema"])
        self.manifest = manifest
        self._groups = {group["name"]: Group(**group) for group in manifest["groups"]}
        self._shards: list[Shard] = manifest["shards"]
        self._starts = [0, *accumulate(shard["num_rows"] for shard in self._shards)]
        row_bytes = sum(group.row_bytes for group in self._groups.values())
        # Sizes, which cost nothing to ask for; whoever must know the content calls `verify`, once.
        for shard in self._shards:
            self._check_size(folder / shard["file"], shard["num_rows"] * row_bytes)

    def verify(self) -> None:
        """Read every file once and compare checksums, which takes a second per gigabyte, or what the disk takes.

        Raises:
            ArtifactError: Naming the file that is damaged or missing, and the group in a shard.
        """
        for shard in self._shards:
            path = self.folder / shard["file"]
            damaged = damaged_group(path, shard, self._all_groups)
            if damaged is not None:
                raise ArtifactError(f"{path}: {damaged}: damaged; run the prepare stage again")
        for name, checksum in self.manifest["other_files"].items():
            path = self.folder / name
            if not path.exists() or file_crc32(path) != checksum:
                raise ArtifactError(f"{path}: damaged or missing; run the prepare stage again")

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of each shard, in file order, without those of further labels."""
        return tuple(group for group in self._all_groups if not group.name.startswith(LABEL_OF))

    @property
    def _all_groups(self) -> tuple[Group, ...]:
        return tuple(self._groups.values())

    def read(self, group: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of a group, as an array `(stop - start, width)`; see `read_into`."""
        if stop < start:
            raise ValueError(f"rows must be a range inside 0 to {self.num_rows}, got {start=} {stop=}")
        spec = self._groups[group]
        out = np.empty((stop - start, spec.width), spec.dtype)
        self.read_into(group, start, out)
        return out

    def read_into(self, group: str, start: int, out: npt.NDArray[Any]) -> None:
        """Fill `out (num_rows, width)`, contiguous and of the group's type, with its rows from `start` on.

        Raises:
            ValueError: If the rows are not inside the file.
            ArtifactError: If the shard has been truncated since the reader was made.
        """
        stop = start + len(out)
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"rows must be a range inside 0 to {self.num_rows}, got {start=} {stop=}")
        spec = self._groups[group]
        number = bisect_right(self._starts, start) - 1
        # A group without columns has no bytes to ask for.
        while start < stop and spec.width:
            first, end = self._starts[number : number + 2]
            high = min(stop, end)
            self._read_shard(number, spec, start - first, out[: high - start])
            out, start, number = out[high - start :], high, number + 1

    def _read_shard(self, number: int, spec: Group, row: int, part: npt.NDArray[Any]) -> None:
        path = self.folder / self._shards[number]["file"]
        offset = row * spec.row_bytes
        for group in self._all_groups:
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


def read_labels(reader: RowReader) -> npt.NDArray[np.uint8]:
    """All labels of a prepared train file, `(num_rows,)`."""
    return np.asarray(reader.read("label", 0, reader.num_rows)[:, 0])
