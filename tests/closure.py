"""Modules that a stage runs."""

from qin.runtime.provenance import import_closure

PACKAGES = frozenset({"qin", "stages"})


def stage_closure(name: str) -> list[str]:
    """Paths of the modules that `python -m stages <name>` imports."""
    entries = ("stages/__main__.py", f"stages/{name}.py")
    return sorted({path for entry in entries for path in import_closure(entry, packages=PACKAGES)})
