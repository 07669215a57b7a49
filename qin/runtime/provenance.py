"""What a result depends on besides settings and data: the code and the libraries that computed it."""

import ast
import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def import_closure(entry: str, *, packages: frozenset[str] = frozenset({"qin"})) -> list[str]:
    """Paths of a module (such as `qin/train/fit.py`) and of every module of ours that it imports, directly or not.

    Args:
        entry: Path relative to the repository.
        packages: Packages that are ours.
    """
    seen: set[str] = set()
    pending = [entry]
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            for name in _imported((_ROOT / path).read_bytes()):
                if name.split(".")[0] in packages:
                    pending.extend(_files(name))
    return sorted(path for path in seen if (_ROOT / path).stat().st_size)


def code_fingerprint(entry: str) -> str:
    """A digest of the source that a module runs; other files, and other commits of the same files, do not change it."""
    digest = hashlib.sha256()
    for path in import_closure(entry):
        digest.update(path.encode())
        digest.update((_ROOT / path).read_bytes())
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions that the weights may depend on."""
    return {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}


# By content, as every kernel asks for its module's closure when it is defined and again when it is compiled, by when
# the file may have changed: parsing the same sources a dozen times took two seconds of prepare's start.
@cache
def _imported(source: bytes) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _files(name: str) -> list[str]:
    base = name.replace(".", "/")
    return [path for path in (f"{base}.py", f"{base}/__init__.py") if (_ROOT / path).is_file()]
