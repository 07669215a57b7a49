"""The page of plots: complete in itself, and what DVC makes of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc_render import VegaRenderer, render_html

from qin.evaluate.importance import COLUMNS
from qin.experiments import plots_page
from qin.runtime.files import write_csv
from tests.evaluate.test_curves import TEMPLATES
from tests.project import ROOT, dvc


@pytest.fixture(scope="module")
def page() -> str:
    return plots_page.page()


def references(html: str) -> list[str]:
    """Whatever a tag of the page would load; the scripts' own text is left out."""
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", html, flags=re.DOTALL)
    return re.findall(r"(?:src|href)\s*=", tags)


def test_page_loads_nothing_and_keeps_its_places(page: str) -> None:
    assert references(page) == []
    assert references('<script src="https://example.org/vega.js"></script>') != []
    assert page.count("<script>") == page.count("</script>") == 2
    for place in ("{plot_divs}", "{refresh_tag}"):
        assert page.count(place) == 1
    assert "window.vegaEmbed" in page
    assert len(page) > 500_000  # the library is in it


def test_dvc_fills_the_page(page: str, tmp_path: Path) -> None:
    points = [{"fpr": "0", "tpr": "0", "lower": "0", "upper": "0.1", "rev": "HEAD"}]
    plot = VegaRenderer(points, "plots/roc.csv", template="roc", template_dir=str(TEMPLATES), x="fpr", y="tpr")
    (tmp_path / "page.html").write_text(page)
    render_html([plot], tmp_path / "out" / "index.html", html_template=tmp_path / "page.html")
    html = (tmp_path / "out" / "index.html").read_text()
    assert references(html) == []
    assert "vegaEmbed('#plots_roc_csv', spec)" in html


def test_the_page_names_lines_as_the_templates_do(page: str) -> None:
    """Where they differ, a line's name is in no colour's domain, and the line is not drawn."""
    (of_page,) = re.findall(r"const nameOf = \(point\) => (.*);", page)
    of_template = of_page.replace("point.", "datum.").replace('"', "'")
    for template in TEMPLATES.glob("*.json"):
        steps = json.loads(template.read_text()).get("transform", [])
        assert of_template in [step["calculate"] for step in steps if step.get("as") == "rev"], template.name


@pytest.mark.slow
def test_dvc_uses_the_page_in_any_folder_and_shows_files_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / ".dvc", project / ".dvc", ignore=shutil.ignore_patterns("*.html", "tmp", "cache", "*.local"))
    shutil.copytree(ROOT / "plots", project / "plots")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    write_csv(project / "plots/importance.csv", [], columns=COLUMNS)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    monkeypatch.chdir(project)
    plots_page.main()
    ignored = subprocess.run(["git", "status", "--porcelain"], cwd=project, check=True, capture_output=True, text=True)
    assert ignored.stdout == ""
    (project / "deep").mkdir()
    for folder, arguments in ((project, ["show"]), (project / "deep", ["diff", "HEAD", "workspace"])):
        done = dvc(folder, "plots", *arguments)
        assert done.returncode == 0, done.stderr
        html = (folder / "dvc_plots/index.html").read_text()
        assert references(html) == []
        drawn = set(re.findall(r"vegaEmbed\('#\w*?plots_(\w+)_csv'", html))
        assert {path.stem for path in (project / "plots").glob("*.csv")} <= drawn
