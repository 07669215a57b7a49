"""What several benchmarks share: the repository, a log's files, a profile with changes, and its prepared rows."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from qin.config import Params, load_params
from qin.experiments.changes import changed as with_changes
from qin.experiments.overlay import apply_overlays
from qin.shards.files import ShardReader
from qin.shards.folds import read_folds

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
CAPABILITIES = "capabilities_"  # and a log's name: what `benchmarks.capabilities` writes
FILES = ("train.parquet", "test.parquet", "sample_submission.csv")


def example(folder: Path, *overlays: str) -> Path:
    """A params file in a folder: the repository's with overlays such as `kuairand/params` of examples/."""
    path = folder / "profile.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    apply_overlays([ROOT / f"examples/{name}.yaml" for name in overlays], params=path)
    return path


@cache
def kuairand_params() -> Params:
    """The settings of the KuaiRand example."""
    with tempfile.TemporaryDirectory() as folder:
        return load_params(example(Path(folder), "kuairand/params"))


def changed(base: Params, changes: dict[str, Any], seed: int) -> Params:
    """The profile with dotted keys replaced and a seed of training, checked again."""
    return with_changes(base, {**changes, "train.seed": seed})


def clone_environment(clone: Path) -> dict[str, str]:
    """The environment of commands in a clone: this Python, the clone's code, and kernels that are compiled there."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "NUMBA_CACHE_DIR": str(clone / ".qin/numba"),
    }


def prepare(folder: Path, params: Path, data: Path) -> tuple[ShardReader, Any]:
    """Run prepare and split in a folder, with links to the three files of `data`."""
    (folder / "data").mkdir()
    for name in FILES:
        (folder / "data" / name).symlink_to((data / name).resolve())
    (folder / "params.yaml").write_text(params.read_text())
    for stage in ("prepare", "split"):
        command = [sys.executable, "-m", "stages", stage]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    reader = ShardReader(folder / "data/prepared/train")
    return reader, read_folds(folder / "data/split", num_rows=reader.num_rows)
