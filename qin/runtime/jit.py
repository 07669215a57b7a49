"""Compiled kernels, whose machine code is kept on disk for as long as no source that they may depend on changes.

Numba's own cache (`njit(cache=True)`) notices a change of the file that defines a kernel, not of the files whose
kernels it inlines, so an edit of `hash_int` left prepare running the old one. It also ends the import where no folder
can be written, and the run where a file of it is damaged. Here the name of a file holds the fingerprint of all that
the kernel's module imports, and the file its own checksum; what cannot be read is compiled again, and where nothing
can be written, kernels are compiled at every start.
"""

import glob
import hashlib
import logging
import os
import pickle
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
from numba.core import config, serialize
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher

from qin.runtime.provenance import code_fingerprint

_FOLDER = "qin-kernels"
_IN_TREE = Path(__file__).resolve().parents[1] / "__pycache__" / _FOLDER
_CHECKSUM_BYTES = 32

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

log = logging.getLogger("qin")


def njit(**options: Any) -> Callable[[Kernel], Kernel]:
    """`numba.njit` with the cache of this module; the options are Numba's."""

    def compiled(function: Kernel) -> Kernel:
        kernel: Any = numba.njit(**options)(function)
        if isinstance(kernel, Dispatcher):  # and not the function itself, as with NUMBA_DISABLE_JIT
            vars(kernel)["_cache"] = _KernelCache(function)
        return cast("Kernel", kernel)

    return compiled


def cache_folders() -> list[Path]:
    """Where machine code may lie, first choice first: `NUMBA_CACHE_DIR`, the package's folder, the user's cache."""
    chosen = vars(config)["CACHE_DIR"]
    if chosen:
        return [Path(chosen) / _FOLDER]
    folders = [_IN_TREE]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if home.is_absolute():  # an unknown user without HOME has none
        folders.append(home / _FOLDER)
    return folders


class _KernelCache:
    """What a Numba dispatcher asks before it compiles a kernel, and tells afterwards."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name, self._module = f"{function.__module__}.{function.__qualname__}", function.__module__
        self._source = _source_fingerprint(self._module)  # what is imported now, whatever happens to the files later
        self.cache_path = str(cache_folders()[0])

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The machine code for some argument types, or None if none is kept."""
        target.refresh()
        name = self._file_name(signature, target.codegen())
        for folder in cache_folders():
            data = _read(folder / name)
            if data is not None:
                return _rebuilt(target, data)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep the machine code for some argument types, if the source on disk still is what was compiled."""
        if result.library.has_dynamic_globals or _source_fingerprint(self._module) != self._source:
            return
        folder = _writable_folder()
        if folder is None:
            return
        path = folder / self._file_name(signature, result.codegen)
        try:
            _write(path, _reduced(result))
            self._delete_older(folder)
        except OSError as error:  # such as a full disk; the kernel itself is ready
            log.info("%s: not kept, so compiled again at the next start: %s", path, error.strerror)

    def _file_name(self, signature: Any, codegen: Any) -> str:
        """A name for the kernel, its source, its argument types and the processor."""
        key = repr((str(signature), codegen.magic_tuple()))
        return f"{self._name}-{self._source}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    def _delete_older(self, folder: Path) -> None:
        """Delete machine code of other states of the source, but not in folders that checkouts share."""
        if folder == _IN_TREE:
            for path in folder.glob(f"{glob.escape(self._name)}-*.nbc"):
                if not path.name.startswith(f"{self._name}-{self._source}-"):
                    path.unlink(missing_ok=True)


def _source_fingerprint(module: str) -> str:
    """A digest of the source that a module of ours runs, and of what compiles it; constant for others, as in tests."""
    path = f"{module.replace('.', '/')}.py"
    source = code_fingerprint(path) if module.startswith("qin.") else ""
    text = f"{source} {numba.__version__} {llvmlite.__version__} {sys.implementation.cache_tag}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reduced(result: Any) -> bytes:
    data: bytes = serialize.dumps(result._reduce())  # type: ignore[no-untyped-call]
    return data


def _rebuilt(target: Any, data: bytes) -> Any:
    return CompileResult._rebuild(target, *pickle.loads(data))  # type: ignore[no-untyped-call]  # noqa: S301


def _read(path: Path) -> bytes | None:
    """The content of a file of the cache; None if it is missing, unreadable or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, data = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    return data if hashlib.sha256(data).digest() == checksum else None


@cache
def _writable_folder() -> Path | None:
    """The first folder that takes files."""
    for folder in cache_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / ".probe", b"")
            (folder / ".probe").unlink(missing_ok=True)
        except OSError:
            continue
        return folder
    log.info("kernels are compiled at every start: none of %s can be written", ", ".join(map(str, cache_folders())))
    return None


def _write(path: Path, data: bytes) -> None:
    staging = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        staging.write_bytes(hashlib.sha256(data).digest() + data)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
