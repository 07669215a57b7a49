"""The command line as a whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qin.cli import app
from tests.project import ROOT

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)  # type: ignore[union-attr]


def test_help_needs_none_of_the_heavy_libraries() -> None:
    heavy = ("torch", "numba", "dvc", "pyarrow", "pandas", "scipy", "pydantic", "lightgbm", "sklearn")
    code = f"import qin.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert f"Example: qin {command}" in shown.output


def test_the_shell_can_complete_commands() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    """As `head` is: the command ends without a word."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "qin.cli", "files"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, cwd=tmp_path, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
