"""The commands of a new user's way exist, and the search is the one that the page shows."""

from dvc.cli import parse_args
from typer.main import get_command

from benchmarks.first_steps import SEARCH, WAYS
from qin.cli import app
from tests.project import ROOT


def test_every_command_of_the_way_exists() -> None:
    group = get_command(app)
    for commands, _ in WAYS.values():
        for name, *words in commands:
            if name == "qin":
                group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
            elif name == "dvc":
                parse_args(words)
            else:
                assert (ROOT / words[1].replace(".", "/") / "__main__.py").is_file()


def test_the_search_is_that_of_the_page() -> None:
    assert f"$ {SEARCH}\n" in (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
