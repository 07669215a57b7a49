"""The list of runs: what a repository's experiments hold, on a narrow terminal."""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.experiments.listing import listed_runs, runs_text
from qin.experiments.summary import summary_lines
from qin.runtime.errors import ArtifactError, ConfigError
from tests.project import git

PARAMS = "train:\n  lr: {lr}\nfeatures:\n  impression:\n    key: {key}\n  drop: {drop}\n"


def write(folder: Path, *, lr: float, key: str = "null", drop: str = "[]", auc: float = 0.7) -> None:
    (folder / "params.yaml").write_text(PARAMS.format(lr=lr, key=key, drop=drop))
    (folder / "metrics/run.json").write_text(json.dumps({"auc": auc, "auc_se": 0.01, "ap": 0.05, "log_loss": 0.09}))


def commit(folder: Path, message: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *identity, "commit", "-qam", message], cwd=folder, check=True)
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit with two experiments as DVC keeps them, and what else it has under refs/exps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    git(tmp_path, "init", "-q")
    write(tmp_path, lr=0.001)
    git(tmp_path, "add", "-A")
    start = commit(tmp_path, "start")
    for name, lr, drop in (("slow", 1e-05, "[]"), ("wide", 0.001, "[a, b]")):
        write(tmp_path, lr=lr, drop=drop, auc=0.71)
        made = commit(tmp_path, name)
        git(tmp_path, "reset", "-q", "--hard", start)
        git(tmp_path, "update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", made)
    git(tmp_path, "update-ref", "refs/exps/exec/EXEC_HEAD", start)
    return tmp_path


def test_runs_have_figures_and_what_differs(project: Path) -> None:
    lines = runs_text(listed_runs(everywhere=False), width=100).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["HEAD", "0.09", "0.7", "0.05"],
        ["slow", "0.09", "0.71", "0.05", "train.lr=1e-05"],
        ["wide", "0.09", "0.71", "0.05", 'features.drop=["a",', '"b"]'],
    ]


def test_an_edited_workspace_is_a_run_of_its_own(project: Path) -> None:
    write(project, lr=0.1, key="[hour]")
    found = listed_runs(everywhere=False)
    assert [run.name for run in found] == ["HEAD", "workspace", "slow", "wide"]
    assert 'train.lr=0.1 features.impression.key=["hour"]' in runs_text(found, width=100)


def test_lines_fit_the_terminal(project: Path) -> None:
    write(project, lr=0.1, drop=f"[{', '.join(f'column_{number}' for number in range(50))}]")
    for width in (60, 100):
        assert max(map(len, runs_text(listed_runs(everywhere=False), width=width).splitlines())) <= width


def test_experiments_of_other_commits_are_listed_where_all_are_wanted(project: Path) -> None:
    write(project, lr=0.002)
    commit(project, "next")
    assert [run.name for run in listed_runs(everywhere=False)] == ["HEAD"]
    assert [run.name for run in listed_runs(everywhere=True)] == ["HEAD", "slow", "wide"]


def test_the_command_prints_both_forms(project: Path) -> None:
    text = CliRunner().invoke(app, ["runs"], env={"COLUMNS": "100"})
    assert text.exit_code == 0
    assert text.stdout.startswith("run ")
    printed = CliRunner().invoke(app, ["runs", "--json"])
    assert json.loads(printed.stdout)["runs"][1]["settings"]["train.lr"] == 1e-05


def test_without_a_commit_there_are_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there are no runs to list"):
        listed_runs(everywhere=False)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_figures_that_are_damaged_in_a_commit_are_one_line(project: Path, content: str) -> None:
    (project / "metrics/run.json").write_text(content)
    git(project, "add", "-A")
    commit(project, "damaged")
    with pytest.raises(ArtifactError, match=r"HEAD: metrics/run\.json: (not valid JSON|expected a JSON object)"):
        listed_runs(everywhere=False)
    (project / "metrics/run.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"HEAD: metrics/run\.json: (not valid JSON|expected a JSON object)"):
        summary_lines("HEAD", params=Path("params.yaml"))


def test_settings_that_are_no_yaml_are_one_line(project: Path) -> None:
    (project / "params.yaml").write_bytes(b"data: \xff")
    with pytest.raises(ConfigError, match=r"^params\.yaml: .*UTF-8"):
        listed_runs(everywhere=False)


def test_of_several_labels_the_first_is_listed_by_name(project: Path) -> None:
    both = {"clicked": {"auc": 0.72, "ap": 0.06, "log_loss": 0.08}, "liked": {"auc": 0.6, "ap": 0.01, "log_loss": 0.02}}
    (project / "metrics/run.json").write_text(json.dumps(both))
    lines = runs_text(listed_runs(everywhere=False), width=100).splitlines()
    assert lines[1].split()[:4] == ["HEAD", "0.09", "0.7", "0.05"]
    assert lines[2].split() == ["workspace", "(clicked)", "0.08", "0.72", "0.06"]
