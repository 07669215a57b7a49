"""The code's fingerprint follows what a module imports, and nothing else."""

import shutil
from pathlib import Path

import pytest

from qin.runtime import provenance
from qin.runtime.provenance import code_fingerprint, import_closure
from tests.project import ROOT


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "qin", tmp_path / "qin", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return tmp_path


def test_training_code_is_what_fit_imports() -> None:
    closure = import_closure("qin/train/fit.py")
    assert {"qin/train/loop.py", "qin/network/attention.py", "qin/shards/files.py"} < set(closure)
    assert not {"qin/predict/submission.py", "qin/runtime/stage.py", "qin/evaluate/figures.py"} & set(closure)


def test_fingerprint_follows_imported_code_alone(copy: Path) -> None:
    before = code_fingerprint("qin/train/fit.py")
    for path in ("README.md", "qin/predict/submission.py", "qin/sample/world.py"):
        with (copy / path).open("a") as file:
            file.write("# changed\n")
    assert code_fingerprint("qin/train/fit.py") == before
    with (copy / "qin/train/losses.py").open("a") as file:
        file.write("# changed\n")
    assert code_fingerprint("qin/train/fit.py") != before
