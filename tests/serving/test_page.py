"""What docs/serving.md shows runs: its Python, `qin score`, and its requests to a service that was really started."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.serving.scorer import Scorer
from tests.project import ROOT
from tests.serving.test_service import _free_port, _ready
from tools.console import Command, blocks, shown_commands

PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def commands(start: str) -> list[Command]:
    """The page's commands that begin so."""
    found = [command for command in shown_commands(PAGE) if command.text.startswith(start)]
    assert found
    return found


def test_its_python_runs(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sampled)
    scope: dict[str, Any] = {}
    lines = ["\n".join(block.lines) for block in blocks(PAGE) if block.language == "python"]
    assert len(lines) == 2
    for block in lines:
        exec(block, scope)
    assert repr(scope["scorer"].columns["hour"]) in lines[0]
    assert len(scope["scorer"].score_candidates(scope["user"], scope["items"])) == 200


def test_its_log_is_scored(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sampled)
    [command] = commands("qin score")
    done = CliRunner().invoke(app, shlex.split(command.text)[1:])
    rows = pq.read_table("data/test.parquet").num_rows
    assert done.output.splitlines() == [f"scores.parquet: {rows} rows, model {Scorer.load().version}"]
    assert pq.read_table("scores.parquet").column_names == ["ID", "probability"]


def test_its_requests_are_answered(sampled: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    [serve], [rows], requests = commands("qin serve"), commands("python -c"), commands("curl")
    project = tmp_path / "project"
    for name in ("artifacts", "data/test.parquet"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).symlink_to(sampled / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    port = str(_free_port())
    program = [sys.executable, "-c", "import sys; from qin.cli import app; app(sys.argv[1:])"]
    arguments = [port if word == "8000" else word for word in shlex.split(serve.text)[1:]]
    process = subprocess.Popen([*program, *arguments], cwd=project, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            model = _ready(client, process)
        lines = [command.text.replace("localhost:8000", f"127.0.0.1:{port}") for command in (rows, *requests)]
        printed = [subprocess.check_output(["sh", "-c", line], cwd=project, env=environment) for line in lines]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    expected = Scorer.load(project / "artifacts").score(pq.read_table(project / "data/test.parquet").slice(0, 1))
    answers = [json.loads(answer) for answer in printed[1:]]
    assert answers == [{"model": model, "probabilities": expected.tolist()}, {"model": model}]
    assert [json.loads(command.output[0]).keys() for command in requests] == [answer.keys() for answer in answers]
