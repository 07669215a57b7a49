"""Where raw files are: one file, a folder of parts, folders named `day=2022-05-01`, several of these, or URIs.

Whatever names them, they are one log: files in natural order of their paths, the items of a list in the list's order.
Object storage is read through `pyarrow.fs`, with the credentials that its environment variables name.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

from qin.runtime.errors import DataError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

Source = str | Path | Sequence[str]

_NUMBERS = re.compile(r"(\d+)")
_URI = re.compile(r"[a-z][a-z0-9+.-]+://")
_PARTITION = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # as Spark and Hive write it
_TABLES = (".parquet", ".parq", ".pq")
TEXTS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_HIDDEN = ("_", ".")  # what writers leave beside the parts: _SUCCESS, .part-0.parquet.crc
_SHOWN_CHARACTERS = 200

Partition = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class SourceFile:
    """One file of a log.

    Attributes:
        name: Path or URI, as messages name it.
        inside: Its path inside the folder that was named; empty for a file that was named itself.
        partition: Names and values of the columns that are folders, outermost first; None where one is missing.
        filesystem: What a URI is opened with; None for a local file.
    """

    name: str
    inside: str = ""
    partition: Partition = ()
    filesystem: "FileSystem | None" = field(default=None, repr=False, compare=False)
    path: str = field(default="", repr=False, compare=False)

    def open(self) -> "IO[bytes] | Any":
        """Open it for reading at any place.

        Raises:
            DataError: If there is no such file, or it may not be read.
        """
        try:
            return Path(self.name).open("rb") if self.filesystem is None else self.filesystem.open_input_file(self.path)
        except FileNotFoundError as error:
            raise DataError(f"{self.name}: file not found") from error
        except IsADirectoryError as error:
            raise DataError(f"{self.name}: is a folder, where a file was") from error
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({first_line(error)})") from error

    @property
    def is_text(self) -> bool:
        """Whether it is a CSV file, by its name; what is not is a Parquet file."""
        return self.name.lower().endswith(TEXTS)

    @property
    def delimiter(self) -> str:
        """What divides the cells of a CSV file."""
        return "\t" if ".tsv" in Path(self.name).name.lower() else ","

    def open_text(self) -> Any:
        """Open it for reading from its beginning, decompressed by its name.

        Raises:
            DataError: If there is no such file, or it may not be read.
        """
        self.open().close()  # says in our words what is missing
        if self.filesystem is None:
            return _arrow("lib").input_stream(self.name, compression="detect")
        return self.filesystem.open_input_stream(self.path)  # decompressed by the name, too

    def state(self) -> tuple[int, ...]:
        """Size, time and place of its content, which tell that it has been edited.

        Raises:
            FileNotFoundError: If it has gone.
        """
        if self.filesystem is None:
            found = Path(self.name).stat()
            return found.st_size, found.st_mtime_ns, found.st_ino
        info = _remote_info(self.filesystem, self.path, self.name)
        if info is None:
            raise FileNotFoundError(self.name)
        return info.size, info.mtime_ns or 0


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key by which `x_2` comes before `x_10`; names that differ only in leading zeros are told apart last."""
    parts = _NUMBERS.split(name)  # text and digits by turns, text first: like is compared with like
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts)), name


def is_uri(name: str | Path) -> bool:
    """Whether a source is a URI."""
    return isinstance(name, str) and _URI.match(name) is not None


def items_of(source: Source) -> list[str]:
    """The files, folders and URIs that a source names."""
    return [str(source)] if isinstance(source, str | Path) else list(source)


def source_name(source: Source) -> str:
    """What messages call a source."""
    first, *others = items_of(source)
    return f"{first} and {len(others)} more" if others else first


def list_files(source: Source) -> tuple[SourceFile, ...]:
    """The files of a log, in order.

    Raises:
        DataError: If there are none, one is named twice, or something else lies among them.
    """
    files = [file for item in items_of(source) for file in (_remote(item) if is_uri(item) else _local(item))]
    seen: set[str] = set()
    for file in files:
        if file.name in seen:
            raise DataError(f"{file.name}: named twice; its rows would count twice")
        seen.add(file.name)
    return tuple(files)


def exists(source: Source) -> bool:
    """Whether there is something where each item of a source points to."""
    for item in items_of(source):
        if is_uri(item):
            filesystem, path = _open_uri(item)
            if _remote_info(filesystem, path, item) is None:
                return False
        elif not Path(item).exists():
            return False
    return True


def first_line(error: Exception) -> str:
    """What went wrong, in one line of readable length; libraries print pages."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."


def _local(item: str) -> Iterator[SourceFile]:
    folder = Path(item)
    if not folder.exists():
        hint = "; patterns are not expanded, name the folder or a list" if any(c in item for c in "*?") else ""
        raise DataError(f"{item}: file not found{hint}")
    if not folder.is_dir():
        yield SourceFile(str(folder))
        return
    for parts in _ordered(item, _walk(folder)):
        inside = "/".join(parts)
        yield SourceFile(str(folder / inside), inside, _partition(parts))


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for entry in folder.iterdir():
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry, (*above, entry.name))
        else:
            yield (*above, entry.name)


def _remote(item: str) -> Iterator[SourceFile]:
    filesystem, path = _open_uri(item)
    info = _remote_info(filesystem, path, item)
    scheme = f"{item.split('://', maxsplit=1)[0]}://"
    if info is None:
        raise DataError(f"{item}: file not found")
    if info.type == _arrow("fs").FileType.File:
        yield SourceFile(f"{scheme}{path}", filesystem=filesystem, path=path)
        return
    root = path.rstrip("/") + "/"
    with _reached(item):
        found = filesystem.get_file_info(_arrow("fs").FileSelector(path, recursive=True))
    inside = (
        tuple(entry.path.removeprefix(root).split("/")) for entry in found if entry.type == _arrow("fs").FileType.File
    )
    for parts in _ordered(item, (parts for parts in inside if not any(map(_is_hidden, parts)))):
        name = "/".join(parts)
        yield SourceFile(f"{scheme}{root}{name}", name, _partition(parts), filesystem, root + name)


def _open_uri(uri: str) -> "tuple[FileSystem, str]":
    """The file system of a URI, and the path in it; one connection for all files of a bucket."""
    base, _, options = uri.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in ("s3", "gs", "gcs"):
        with _reached(uri):
            return _filesystem(uri)
    with _reached(uri):  # of the bucket alone, because to connect may take a request of its own
        filesystem, root = _filesystem(f"{scheme}://{bucket}" + (f"?{options}" if options else ""))
    return filesystem, f"{root}/{unquote(key)}".rstrip("/")


@lru_cache(maxsize=64)
def _filesystem(uri: str) -> "tuple[FileSystem, str]":
    filesystem, path = _arrow("fs").FileSystem.from_uri(uri)
    return filesystem, path


def _remote_info(filesystem: "FileSystem", path: str, name: str) -> "FileInfo | None":
    with _reached(name):
        info = filesystem.get_file_info(path)
    return None if info.type == _arrow("fs").FileType.NotFound else info


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """Turn what a file system says into one line that names the file."""
    try:
        yield
    except (OSError, ValueError, _arrow("lib").ArrowException) as error:
        raise DataError(f"{name}: cannot be reached ({first_line(error)})") from error


def _arrow(name: str) -> Any:
    """A module of Arrow, loaded when a URI is met: commands that read no log start without it."""
    return import_module(f"pyarrow.{name}")


def _is_hidden(name: str) -> bool:
    # A folder named by a column may begin with one of these signs, and would be left out in silence.
    return name.startswith(_HIDDEN) and "=" not in name


def _is_table(name: str) -> bool:
    return name.lower().endswith((*_TABLES, *TEXTS))


def _ordered(root: str, found: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Paths inside a folder in natural order, if all are parts of one log."""
    ordered = sorted(found, key=lambda parts: [natural_key(part) for part in parts])
    for *folders, name in ordered:
        for depth, folder in enumerate(folders):
            if not _PARTITION.fullmatch(folder):
                raise DataError(
                    f"{_join(root, folders[: depth + 1])}: a folder inside a folder of parts, and not named "
                    "`column=value`; name the folders themselves as a list, or put all parts into one"
                )
        if not _is_table(name):
            raise DataError(
                f"{_join(root, [*folders, name])}: no Parquet or CSV file by its name; a folder of parts holds "
                "nothing but *.parquet, *.csv and *.csv.gz"
            )
    if not ordered:
        raise DataError(f"{root}: an empty folder; expected a Parquet or CSV file, or a folder of them")
    # Folders of one depth and of the same columns, or rows of some files would lack a column.
    expected = [name for name, _ in _partition(ordered[0])]
    for parts in ordered:
        columns = [name for name, _ in _partition(parts)]
        if columns != expected or len(set(columns)) != len(columns):
            raise DataError(
                f"{_join(root, parts)}: in folders of {_listed(columns)}, but the first part is in those of "
                f"{_listed(expected)}"
            )
    return ordered


def _partition(parts: Sequence[str]) -> Partition:
    pairs = (part.partition("=") for part in parts[:-1])
    return tuple((unquote(name), None if value == _NO_VALUE else unquote(value)) for name, _, value in pairs)


def _join(root: str, parts: Sequence[str]) -> str:
    return "/".join([root.rstrip("/"), *parts])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no column"
