"""The project's own modules that a module imports, directly or not, as file paths relative to the repository."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def import_closure(entry: str) -> list[str]:
    """Paths of `entry` (such as `stages/train.py`) and of every project module it needs."""
    seen: set[str] = set()
    pending = [entry]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imported(ROOT / path):
            pending.extend(_files(name))
    return sorted(path for path in seen if (ROOT / path).stat().st_size)


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in {"qin", "stages"}}


def _files(name: str) -> list[str]:
    base = name.replace(".", "/")
    return [path for path in (f"{base}.py", f"{base}/__init__.py") if (ROOT / path).is_file()]
