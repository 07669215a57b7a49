"""Commands of the pages: all name what exists; those that show their output run, and print it but for the numbers."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import parse_args
from typer.main import get_command

from qin.cli import app
from tests.docs.test_pages import IDS, MARKDOWN
from tests.project import SMALL, set_params
from tools.console import plain_commands, shown_commands
from tools.walk import PAGES, ROOT, copy_repository, walked


def parts_of(path: Path) -> Iterator[list[str]]:
    """The words of each simple command of a page."""
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`(make [a-z-]+|python -m [\w.]+)", text)
    for line in [*plain_commands(text), *(command.text for command in shown_commands(text)), *inline]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        words = list(lexer)
        while words:
            end = next((number for number, word in enumerate(words) if set(word) <= set("&;|")), len(words))
            yield words[:end]
            words = words[end + 1 :]


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_commands_name_what_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in parts_of(path):
        match words:
            case ["make", *rest]:
                assert {word for word in rest if "=" not in word} <= targets, words
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module) is not None, words
            case ["qin", name, *rest]:
                group = get_command(app)
                command = group.commands[name]  # type: ignore[attr-defined]
                command.make_context(name, list(rest))
            case ["dvc", *rest]:
                parse_args(rest)


@pytest.mark.slow
def test_shown_commands_print_what_the_pages_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small log and a small model, so numbers are other ones."""
    monkeypatch.setenv("SAMPLE_ROWS", "8000")
    project = copy_repository(tmp_path / "project")
    for name in ("train.parquet", "test.parquet", "sample_submission.csv"):
        (project / f"data/{name}.dvc").unlink()  # of the default log
    small = {key: value for key, value in SMALL.items() if key != "model.alternatives"}
    # A page leaves the second form of the network away, and shows other figures: so that one must be kept, and count.
    small |= {"model.embedding_std": 10.0, "model.members": ["network"]}
    set_params(project / "params.yaml", small)
    for page in PAGES:
        walked((ROOT / page).read_text(encoding="utf-8"), project)
