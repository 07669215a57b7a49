"""What a benchmark ran on, and where its figures go."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qin.runtime.host import num_cores, total_memory_bytes

_LIBRARIES = ("dvc", "numba", "numpy", "pyarrow", "torch")


def describe() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and versions."""
    return {
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
        "num_cores": num_cores(),
        "memory_gib": round(total_memory_bytes() / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def report(result: Mapping[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and write it to a file if there is one."""
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if out is not None:
        out.write_text(text)
