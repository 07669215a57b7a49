"""Files that stages hand to each other: written whole or not at all, with the same bytes for the same content."""

import errno
import hashlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from qin.runtime.errors import ArtifactError
from qin.runtime.replacing import beside, place_of, recover, replace_directory, replace_file, staging_directory
from qin.runtime.staging import held_directory, held_file

JSON_DIGITS = 6
_QUOTE = '"'
_SPECIAL = re.compile(r'[,"\r\n]')
_CHECKSUM = "checksum"
_BLOCK_BYTES = 1 << 20

# What only writing meets: the disk, the user's share of it, or the largest file allowed is full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Exact(float):
    """A float that JSON files keep every digit of: a key such as a boundary, not a figure."""


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a fresh directory to fill; it takes `path`'s place only if the block succeeds.

    Raises:
        OSError: If something cannot be written; its file name is the final one. The old content stays.
        ArtifactError: If `path` is a link that leads nowhere, or another process is writing it.
    """
    place = place_of(path)
    staging = staging_directory(place)
    with named_errors(path, staging=staging), held_directory(staging, path=path):
        recover(place, keep=staging)
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        yield staging
        _set_default_modes(staging)
        replace_directory(staging, place)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file takes `path`'s place only if the block succeeds.

    Raises:
        OSError: If something cannot be written; its file name is the final one. The old content stays.
        ArtifactError: If `path` is a link that leads nowhere, or a device or a pipe.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = place_of(path)
    if place.exists() and not (place.is_file() or place.is_dir()):  # such as /dev/null, which is the whole machine's
        raise ArtifactError(f"{path}: is a device or a pipe, whose place no file may take")
    with named_errors(path, staging=beside(place, "tmp")), held_file(place) as staging:
        recover(place)
        with named_errors(path, staging=staging):
            yield staging
            replace_file(staging, place)


@contextmanager
def named_errors(path: Path, *, staging: Path | None = None) -> Iterator[None]:
    """Let errors of writing name the file as it will be called: for a full disk hardly any library names one.

    Args:
        path: What is being written, for errors that name nothing.
        staging: Where it is written until it is whole.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in _FULL):
            raise
        name = Path(error.filename or path)
        if staging is not None and name.is_relative_to(staging):
            name = path / name.relative_to(staging)
        raise OSError(error.errno, os.strerror(error.errno), str(name)) from error


def _set_default_modes(folder: Path) -> None:
    """Give files the mode that the umask gives new ones; some libraries write files that only their owner may read."""
    probe = folder / ".mode.tmp"  # the umask cannot be asked for without changing it, for all threads
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.rglob("*"):
        found = file.stat()
        if (
            file.is_file() and found.st_nlink == 1 and stat.S_IMODE(found.st_mode) != mode
        ):  # a link is another's file too
            file.chmod(mode)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a JSON file: floats at 6 significant digits, keys in the given order, NaN refused.

    Raises:
        ArtifactError: If a number is NaN or infinite; the message has its dotted path.
    """
    text = json.dumps(_rounded(tree, ""), indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def write_exact_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a JSON file that keeps every digit and ends with a checksum, for values that are computed with later."""
    text = json.dumps({**tree, _CHECKSUM: _json_checksum(tree)}, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def read_exact_json(path: Path) -> dict[str, Any]:
    """Inverse of `write_exact_json`.

    Raises:
        ArtifactError: If the file is missing, is not a JSON object, or is not as it was written.
    """
    tree = read_json(path)
    if tree.pop(_CHECKSUM, None) != _json_checksum(tree):
        raise ArtifactError(
            f"{path}: its checksum is not that of its content: damaged, edited by hand, or of another version; "
            "run the stage that writes it again"
        )
    return tree


def _json_checksum(tree: Mapping[str, Any]) -> str:
    return fingerprint(json.loads(json.dumps(tree)))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: If the file is missing or is not a JSON object.
    """
    try:
        return parse_json(path.read_bytes(), source=str(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: file not found; run the stage that writes it") from error


def parse_json(text: str | bytes, *, source: str) -> dict[str, Any]:
    """A JSON object from its text.

    Args:
        text: In UTF-8.
        source: What messages call it.

    Raises:
        ArtifactError: If it is none.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ArtifactError(f"{source}: expected a JSON object, got {type(tree).__name__}")
    return tree


def check_keys(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that a JSON object has exactly these keys.

    Raises:
        ValueError: Naming those missing and those unknown.
    """
    missing, unknown = sorted(set(names) - set(values)), sorted(set(values) - set(names))
    if missing or unknown:
        raise ValueError(f"keys must be exactly {sorted(names)}: {missing=}, {unknown=}")


def write_csv(
    path: Path, rows: Sequence[Mapping[str, float | int | str]], *, columns: Sequence[str] | None = None
) -> None:
    """Write rows of equal keys as CSV, floats at 6 significant digits.

    Args:
        path: The file.
        rows: Its rows.
        columns: Header of a file that may have no rows.
    """
    header = columns or (rows[0] if rows else ())
    with atomic_file(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_text([list(header), *([_cell(value) for value in row.values()] for row in rows)]))


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as CSV, whatever characters they hold.

    Python's own writer leaves a carriage return without quotes where lines end otherwise, which readers then take for
    the end of a line.
    """
    return "".join(f"{','.join(map(quoted_cell, row))}\n" for row in rows)


def quoted_cell(text: str) -> str:
    """A cell of a CSV file, in quotes where its text demands them."""
    return f'"{text.replace(_QUOTE, _QUOTE * 2)}"' if _SPECIAL.search(text) else text


def write_array(path: Path, array: npt.NDArray[Any]) -> int:
    """Write one array as `.npy`; returns the checksum of the whole file.

    Raises:
        OSError: If it cannot be written; unlike `np.save`'s, it says why.
    """
    with named_errors(path), path.open("wb") as file:
        summed = SummedFile(file)
        np.lib.format.write_array(summed, array, allow_pickle=False)
    return summed.crc32


def check_file(path: Path, *, crc32: int, stage: str, otherwise: str) -> None:
    """Check that a file is there and as it was written.

    Args:
        path: The file.
        crc32: Checksum of the whole file.
        stage: The stage that writes it, for messages.
        otherwise: What it is if it is not damaged, for messages.

    Raises:
        ArtifactError: If it is missing, or has another checksum.
    """
    try:
        found = file_crc32(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: file not found; run the {stage} stage") from error
    if found != crc32:
        raise ArtifactError(f"{path}: damaged or {otherwise}; run the {stage} stage again")


def read_array(path: Path, *, crc32: int, dtype: str, shape: tuple[int, ...], stage: str) -> npt.NDArray[Any]:
    """Read one array.

    Args:
        path: A file of `write_array`.
        crc32: Checksum of the whole file, header included: one bit of it can swap the byte order of every value.
        dtype: NumPy's name of the type that the array must have.
        shape: The shape that it must have.
        stage: The stage that writes it, for messages.

    Raises:
        ArtifactError: If the file is missing, damaged, or of another type or shape.
    """
    check_file(path, crc32=crc32, stage=stage, otherwise="edited by hand")
    array = np.asarray(np.load(path, allow_pickle=False))
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ArtifactError(
            f"{path}: {array.dtype} of shape {array.shape}, expected {dtype} of shape {shape}; "
            f"run the {stage} stage again"
        )
    return array


class SummedFile:
    """A file that checksums what is written to it, and remembers why it could not be.

    Args:
        file: Open for writing, buffered or not.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc32 = 0
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        try:
            self.crc32, rest = zlib.crc32(data, self.crc32), memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""


def file_crc32(path: Path) -> int:
    """Checksum of a file's bytes, read in blocks."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def fingerprint(*parts: Any) -> str:
    """A short name for JSON-like content: equal content gives equal names."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, f"{path}.{i}") for i, item in enumerate(value)]
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise ArtifactError(f"{path}: {value} cannot be written as JSON")
        return float(value) if isinstance(value, Exact) else float(f"{value:.{JSON_DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value


def _cell(value: float | int | str) -> str:
    return f"{value:.{JSON_DIGITS}g}" if isinstance(value, float | np.floating) else str(value)
