"""The Dockerfile's steps in an empty folder: what it copies is enough to install the package and to answer."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from qin.serving.scorer import Scorer
from tests.project import ROOT
from tests.serving.test_service import _free_port, _ready, plain

LINES = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
COPIED = [word for line in LINES if line.startswith("COPY ") for word in line.split()[1:-1]]


def test_nothing_else_is_sent_to_the_builder() -> None:
    """What is copied is what .dockerignore lets through, and all but the artifacts is in the repository."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(COPIED)
    assert [name for name in COPIED if not (ROOT / name).exists() and name != "artifacts"] == []


def test_versions_are_those_of_the_tests() -> None:
    install = next(line for line in LINES if "pip install" in line)
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    words = shlex.split(install)
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert next(word for word in words if word.startswith("torch==")) in pinned


@pytest.mark.slow
def test_what_is_copied_installs_and_answers(sampled: Path, tmp_path: Path) -> None:
    """As the image does, but for the libraries, which are this environment's."""
    image, site = tmp_path / "image", tmp_path / "site"
    image.mkdir()
    for name in COPIED:
        source = sampled / name if name == "artifacts" else ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, image / name)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, "."], cwd=image, check=True)
    command = json.loads(next(line for line in LINES if line.startswith("CMD ")).removeprefix("CMD "))
    port = str(_free_port())
    command = [str(site / "bin" / command[0]), *command[1:]]
    command[command.index("--host") + 1], command[command.index("--port") + 1] = "127.0.0.1", port
    env = {**os.environ, "PYTHONPATH": str(site)}
    process = subprocess.Popen([sys.executable, *command], cwd=image, env=env, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _ready(client, process)
            rows = pq.read_table(sampled / "data/test.parquet").slice(0, 3)
            answer = client.post("/score", json={"rows": plain(rows)}).json()
        assert answer["probabilities"] == Scorer.load(sampled / "artifacts").score(rows).tolist()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
