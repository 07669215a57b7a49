"""The same bytes up to training on another kind of processor, and figures near each other after it.

Libraries are told to use fewer vector instructions than there are, and Numba to compile for an older processor, which
stands for another machine. Where nothing knows these settings both runs are equal.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT, copy_project, digests, set_params

pytestmark = pytest.mark.slow

OTHER = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
if platform.machine() == "x86_64":
    OTHER["NUMBA_CPU_NAME"] = "haswell"
    OTHER["NUMBA_CPU_FEATURES"] = "+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2"

# Largest differences of two trainings on the log below, as docs/reproducibility.md states them.
DISTANCE = {"val_log_loss": 0.0005, "val_ap": 0.002, "val_auc": 0.005}


def run(project: Path, stages: tuple[str, ...], **environment: str) -> dict[str, Any]:
    for stage in stages:
        done = subprocess.run(
            [sys.executable, "-m", "stages", stage],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads((project / f"metrics/{stages[-1]}.json").read_text())
    return metrics


def test_another_processor_prepares_the_same_bytes_and_trains_to_near_figures(tmp_path: Path, small_log: Path) -> None:
    """In either precision, and also where one has units for bfloat16 and the other has none."""
    figures, prepared = [], []
    for name, environment in {"this": {}, "other": OTHER}.items():
        project = copy_project(tmp_path / name, log=small_log)
        run(project, ("prepare", "split"), **environment)
        prepared.append(digests(project))
        for precision in ("fp32", "bf16"):
            set_params(project / "params.yaml", {"train.precision": precision})
            figures.append(run(project, ("train",), **environment))
    assert prepared[0] == prepared[1]
    for key, largest in DISTANCE.items():
        values = [each[key] for each in figures]
        assert max(values) - min(values) <= largest, (key, values)
