"""Run the commands of `PAGES`, in order, in one copy of the project, and compare the output.

`python -m tools.walk` does so with the default log and settings, which takes about ten minutes; `--write` puts what was
printed into the pages. A page shows excerpts: each of its lines must be printed, in its order, by its command.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tools.console import Command, matched, shown_commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/terminal.md", "docs/experiments.md")
_QUEUE_SECONDS = 1800
_IDENTITY = ("-c", "user.name=reader", "-c", "user.email=reader@example.com")


def main(
    *, write: Annotated[bool, typer.Option("--write", help="Put what was printed into the pages.")] = False
) -> None:
    """Walk the pages with the default log."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy_repository(Path(folder) / "project")
        for name in PAGES:
            page = ROOT / name
            text = page.read_text(encoding="utf-8")
            walked_text = walked(text, project)
            if write:
                page.write_text(walked_text, encoding="utf-8")
            print(f"{name}: {'as printed' if walked_text == text else 'other numbers'}")


def copy_repository(folder: Path) -> Path:
    """What git holds or would add of this checkout, committed in a new repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a file that was removed and not yet committed is listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*_IDENTITY, "commit", "-qm", "start"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def walked(page: str, project: Path) -> str:
    """The page with its shown lines as they are printed in the project.

    Raises:
        ValueError: If a command ends otherwise, or prints otherwise, than the page shows.
    """
    lines = page.splitlines()
    for command in shown_commands(page):
        printed = run(command, project)
        try:
            found = matched(command.output, printed)
        except ValueError as error:
            raise ValueError(f"$ {command.text}\n{error}\n" + "\n".join(printed)) from error
        lines[command.first : command.first + len(command.output)] = found
    return "\n".join(lines) + "\n"


def run(command: Command, project: Path) -> list[str]:
    """Lines that a command prints; a queue that it starts is waited for.

    Raises:
        ValueError: If it fails and the page shows no error, or the other way round.
    """
    text = command.text
    if text.startswith("make "):  # the environment is there
        text = f"make -o .venv/installed {text.removeprefix('make ')}"
    done = _shell(text, project)
    if (done.returncode != 0) != command.fails:
        raise ValueError(f"$ {command.text}\nends with {done.returncode}\n{done.stdout}")
    if text.startswith("dvc queue start"):
        _wait_for_queue(project)
    return done.stdout.replace(str(project.resolve()), "/path/to/repository").splitlines()


def _shell(text: str, project: Path) -> "subprocess.CompletedProcess[str]":
    identity = {f"GIT_{who}_{what}": "reader" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=project, env={**environment, **identity, "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def _wait_for_queue(project: Path) -> None:
    deadline = time.monotonic() + _QUEUE_SECONDS
    while any(word in _shell("dvc queue status", project).stdout for word in ("Queued", "Running")):
        if time.monotonic() > deadline:
            raise ValueError(f"the queue has not ended after {_QUEUE_SECONDS} seconds")
        time.sleep(2)


if __name__ == "__main__":
    typer.run(main)
