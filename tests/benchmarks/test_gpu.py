"""The run for a GPU works, tiny, on the CPU; without what the machine with the GPU lacks; and past what fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_cases import TINY
from tests.project import ROOT

MISSING = ("pydantic", "ruamel", "dvc", "typer", "click", "rich", "lightgbm")
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def test_every_section_runs_where_the_settings_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert set(found) == {"machine", *gpu.SECTIONS}
    for name, distances in found["parity"]["result"].items():
        assert max(distances["logit_float32"], distances["gradient_float32"]) < 1e-5, name
        assert max(distances["logit_bfloat16"], distances["gradient_bfloat16"]) < 0.1, name
    assert found["determinism"]["result"] == {"repeats": {"eager, dense": True, "eager, sparse": True}, "resumed": True}
    assert abs(found["accuracy"]["result"]["difference"]) < 0.02


def test_a_section_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: gpu.Plan) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "SECTIONS", {"first": failing, "second": lambda _: 1, "third": lambda _: 2})
    monkeypatch.setattr(gpu, "fix_threads", lambda _: None)
    moments = iter([0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 1000.0])
    monkeypatch.setattr("benchmarks.gpu.time.monotonic", lambda: next(moments))
    plan = gpu.Plan(torch.device("cpu"), TINY, batch_sizes=(8,), num_rows=8, num_steps=1, seconds=10.0)
    found = gpu.run(plan, tmp_path)
    assert found["first"]["result"]["error"] == "RuntimeError: no such kernel"
    assert "in failing" in found["first"]["result"]["traceback"]
    assert found["second"]["result"] == 1
    assert found["third"] == {"skipped": "the time was over"}
