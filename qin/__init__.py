"""Click-through-rate models with leak-free splits, honest calibration and reproducible training."""

from importlib import import_module
from typing import Any

# Read when they are asked for, by name: an import of the package is light, and no stage depends on what serves.
_LAZY = {"Scorer": "qin.serving.scorer"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
