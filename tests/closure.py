"""The project's own modules that a stage imports."""

from qin.provenance import import_closure


def stage_closure(stage: str) -> list[str]:
    """Paths, relative to the repository, of a stage's module and of every project module it needs."""
    return import_closure(f"stages/{stage}.py", packages=frozenset({"qin", "stages"}))
