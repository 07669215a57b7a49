"""A copy of the pipeline with a small log, in which stages can be run."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from qin.config.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]

# All that a run leaves.
OUTPUTS = ("dvc.lock", "data/prepared", "data/split", "artifacts", "metrics", "plots", "outputs")

RAW_FILES = ("train.parquet", "test.parquet", "sample_submission.csv")

SMALL: dict[str, Any] = {
    "features.num_buckets": 256,
    "features.num_buckets_of": {},
    "features.sequences.0.num_buckets": 1024,
    "features.sequences.0.max_len": 20,
    "split.val_ratio": 0.3,
    "model.embedding_dim": 4,
    "model.attention_dim": 8,
    "model.num_layers": 1,
    "model.alternatives": [],  # which would train two networks
    "model.seeds": 1,  # auto would train four on so few rows
    "train.num_threads": 1,
    "train.batch_size": 256,
    "train.epochs": 2,
    "train.checks_per_epoch": 2,
    "train.warmup_steps": 2,
    "trees.max_rounds": 20,
    "trees.patience": 5,
    "evaluate.num_bins": 5,
    "evaluate.num_curve_points": 50,
    "evaluate.importance_rows": 100,
}


def set_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Change values of a params file by dotted path; list positions are numbers."""
    tree = read_yaml(path)
    for dotted, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in dotted.split(".")]
        node = tree
        for part in parents:
            node = node[part]
        node[last] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")


def copy_project(folder: Path, *, log: Path) -> Path:
    """Copy what git holds of the project (code, dvc.yaml, params.yaml, settings) and a log's files."""
    for name in ("qin", "stages", ".dvc/plots"):  # with what numba compiled, which takes seconds to make again
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in (
        "dvc.yaml",
        "params.yaml",
        ".dvcignore",
        ".gitignore",
        ".dvc/config",
        ".dvc/.gitignore",
        "data/.gitignore",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in RAW_FILES:
        shutil.copy(log / name, folder / "data" / name)
    set_params(folder / "params.yaml", SMALL)
    return folder


def git_project(folder: Path, *, log: Path) -> Path:
    """A copy of the project in a new git repository, where DVC can run."""
    project = copy_project(folder, log=log)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    return project


def dvc_command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """A DVC command line and the environment in which its stages find this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return [sys.executable, "-m", "dvc", *arguments], {**os.environ, "PATH": path}


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a DVC command in a project."""
    command, environment = dvc_command(*arguments)
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Stages that a `dvc repro` ran."""
    assert done.returncode == 0, done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def digests(project: Path) -> dict[str, str]:
    """SHA-256 of each file that a run leaves, by its path in the project."""
    files = [path for name in OUTPUTS for path in (project / name, *(project / name).rglob("*"))]
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name != ".gitignore"
    }


def git(project: Path, *arguments: str) -> str:
    """Run git in a project; returns what it prints."""
    return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=True).stdout


def committed_project(folder: Path, *, log: Path, run: bool) -> Path:
    """A project whose raw files DVC tracks, in one commit; with `run`, its pipeline has run."""
    project = git_project(folder, log=log)
    steps = [["add", *(f"data/{name}" for name in RAW_FILES)], *([["repro"]] if run else [])]
    for arguments in steps:
        done = dvc(project, *arguments)
        assert done.returncode == 0, done.stderr
    for name, value in {"user.name": "t", "user.email": "t@t"}.items():
        git(project, "config", name, value)
    git(project, "add", "-A")
    git(project, "commit", "-qm", "start")
    return project


def processes_in(folder: Path, word: str) -> list[int]:
    """Processes that work in a folder or below it and whose command line has a word."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()) and Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile, or is not ours
            continue
    return found
