"""Files that stages hand to each other: written whole or not at all, with the same bytes for the same content."""

import csv
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.errors import ArtifactError

JSON_DIGITS = 6
_CHECKSUM = "checksum"
_BLOCK_BYTES = 1 << 20


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a fresh directory beside `path` to fill; it takes `path`'s place only if the block succeeds."""
    staging = _staging(path)
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        if path.exists():
            shutil.rmtree(path)
        staging.rename(path)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; the file takes `path`'s place only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = _staging(path)
    try:
        yield staging
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


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
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: file not found; run the stage that writes it") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ArtifactError(f"{path}: expected a JSON object, got {type(tree).__name__}")
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
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row.values()] for row in rows)


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read one array.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: file not found; run the stage that writes it") from error
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: damaged array file: {error}") from error


def array_crc32(array: npt.NDArray[Any]) -> int:
    """Checksum of an array's values."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


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


def _staging(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _rounded(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, f"{path}.{i}") for i, item in enumerate(value)]
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise ArtifactError(f"{path}: {value} cannot be written as JSON")
        return float(f"{value:.{JSON_DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value


def _cell(value: float | int | str) -> str:
    return f"{value:.{JSON_DIGITS}g}" if isinstance(value, float | np.floating) else str(value)
