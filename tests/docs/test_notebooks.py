"""The notebooks run from their first cell to their last, and are kept without outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.project import ROOT, git, git_project

NOTEBOOKS = ("first_run", "own_data")


def read(name: str) -> Any:
    return nbformat.read(ROOT / f"examples/{name}.ipynb", as_version=4)


def cells(name: str) -> list[Any]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_kept_without_outputs(name: str) -> None:
    assert len(cells(name)) > 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(name))


@pytest.fixture
def project(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit with a log; what notebooks write elsewhere is kept in the test's folder."""
    folder = git_project(tmp_path / "project", log=small_log)
    (folder / "examples").mkdir()
    for name, value in {"user.name": "t", "user.email": "t@t"}.items():
        git(folder, "config", name, value)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    monkeypatch.setenv("QIN_NOTEBOOK_FOLDER", str(tmp_path))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own libraries
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name: str, project: Path, tmp_path: Path) -> None:
    notebook = read(name)
    place = {"metadata": {"path": str(project / "examples")}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert not any(line.startswith(("error", "Traceback")) for line in printed.splitlines()), printed
    outputs = {"first_run": project, "own_data": tmp_path / "my-log"}[name] / "outputs"
    assert (outputs / "report.html").exists()
    assert (outputs / "submission.csv").exists()
