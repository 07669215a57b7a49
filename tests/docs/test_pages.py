"""Pages that are made from code and results are up to date; what they name exists."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.tables import END, PAGES, START, tables
from qin.config import Params
from tools import settings_page
from tools.console import blocks

ROOT = Path(__file__).resolve().parents[2]
MARKDOWN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*.md")),
]
IDS = [path.relative_to(ROOT).as_posix() for path in MARKDOWN]

# Files that a run leaves, and those outside the repository.
NO_FILES = re.compile(r"^(/|\.\.|artifacts/|outputs/|site/|data/|dvc_plots/|\.qin/|\.venv/)")


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_made_from_the_results(name: str) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    assert f"{START.format(name)}\n\n{tables()[name]}\n\n{END.format(name)}" in page


def test_the_page_of_settings_is_up_to_date() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), (
        "run python -m tools.settings_page --write"
    )


def test_every_key_has_a_comment_of_its_own() -> None:
    explained = settings_page.comments((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert [key for key in settings_page.readers_of_keys() if "." in key and not explained.get(key)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_links_lead_somewhere(path: Path) -> None:
    """Of pages that the site does not hold, too; mkdocs checks the anchors inside docs/."""
    text = _without_blocks(path.read_text(encoding="utf-8"))
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    targets += re.findall(r'src(?:set)?="([^"]+)"', text)
    local = [target for target in targets if target and not re.match(r"https?:", target)]
    made = {"api/index.md"}  # by tools/api_pages.py
    assert [target for target in local if target not in made and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_files_that_a_page_names_exist(path: Path) -> None:
    text = _without_blocks(path.read_text(encoding="utf-8"))
    endings = r"\.(?:py|md|yaml|yml|toml|json|csv|txt)"
    named = {name for name in re.findall(rf"`([\w./-]+(?:{endings}|/))`", text) if "/" in name}
    missing = [
        name
        for name in sorted(named)
        if not NO_FILES.search(name) and not (ROOT / name).exists() and not (ROOT / "docs" / name).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_settings_that_a_page_names_exist(path: Path) -> None:
    """A dotted name in ticks that begins with a section is a key of it; in CHANGELOG.md keys may be of the past."""
    text = path.read_text(encoding="utf-8")
    keys = set(settings_page.readers_of_keys())
    sections = "|".join(Params.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.[a-z]\w*(?:\.[a-z]\w*)?)(?:`|: )", text))
    endings = (".parquet", ".json", ".csv", ".py", ".md", ".onnx", ".pt2")
    assert [name for name in sorted(named) if name not in keys and not name.endswith(endings)] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_definitions_that_a_page_names_exist(path: Path) -> None:
    """Written as `name` in `file.py`."""
    text = " ".join(path.read_text(encoding="utf-8").split())
    named = re.findall(r"`(\w+)` in `((?:qin|stages|tools|benchmarks)/[\w/]+\.py)`", text)
    missing = [(name, file) for name, file in named if name not in _definitions(ROOT / file)]
    assert missing == []


def _definitions(file: Path) -> set[str]:
    """Functions, classes and constants of a file."""
    if not file.exists():
        return set()
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("path", MARKDOWN, ids=IDS)
def test_blocks_say_what_they_are(path: Path) -> None:
    """So that no command stands in a block that no test reads."""
    languages = {block.language for block in blocks(path.read_text(encoding="utf-8"))}
    assert languages <= {"console", "sh", "yaml", "python", "text"}


def test_python_and_yaml_blocks_parse() -> None:
    for path in MARKDOWN:
        for block in blocks(path.read_text(encoding="utf-8")):
            text = "\n".join(block.lines)
            if block.language == "python":
                ast.parse(text)
            elif block.language == "yaml":
                assert isinstance(yaml.safe_load(text), dict)


def _without_blocks(text: str) -> str:
    lines = text.splitlines()
    for block in blocks(text):
        lines[block.first : block.first + len(block.lines)] = [""] * len(block.lines)
    return "\n".join(lines)
