"""Files for the next developer: hooks, workflow, templates."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.profile import RESULTS
from benchmarks.tables import PAGES
from tools.settings_page import DEFAULTS, PAGE
from tools.walk import ROOT


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_hooks_need_no_network_and_match_files() -> None:
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = listed.stdout.splitlines()
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
        if "files" in hook:
            assert any(re.search(hook["files"], name) for name in files), hook["id"]


def test_tools_of_the_hooks_are_in_the_extras() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy", "import-linter", "pre-commit", "mkdocs-material", "mkdocstrings"):
        assert f'"{tool}' in text


def test_everything_in_the_extras_is_pinned() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    extras = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    names = re.findall(r'^ +"([\w.-]+)', extras, re.MULTILINE)
    assert len(names) > 8
    own = {"qin-ctr"}  # an extra may name others of this project
    assert [name for name in names if name.lower() not in pinned | own] == []


def test_the_workflow_calls_what_must_pass_on_three_systems() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["check"]
    systems = job["strategy"]["matrix"]["os"]
    assert any("arm" in name for name in systems)
    assert any(name.startswith("macos") for name in systems)
    assert any(step.get("run") == ".ci/run" for step in job["steps"])
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_templates_of_issues_have_what_a_form_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        return
    assert {"name", "description", "body"} <= form.keys()
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["attributes"]["label"] for field in form["body"])


def test_a_page_that_is_made_is_made_again_when_its_sources_change() -> None:
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    files = {hook["id"]: hook.get("files", "") for hook in repository["hooks"]}
    sources = {
        "settings": [
            ROOT / "params.yaml",
            ROOT / "dvc.yaml",
            ROOT / "qin/config/params.py",
            ROOT / "qin/config/split.py",
            PAGE,
            DEFAULTS,
        ],
        "tables": [*set(PAGES.values()), RESULTS / "kernels.json"],
    }
    for hook, paths in sources.items():
        for path in paths:
            assert path.exists()
            assert re.search(files[hook], path.relative_to(ROOT).as_posix()), (hook, path)
