"""The command line as a whole."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from qin.cli import app

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
