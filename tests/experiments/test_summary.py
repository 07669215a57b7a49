"""The workspace's figures beside a commit's."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qin.experiments.summary import summary_lines
from qin.runtime.closing import log_summary
from qin.runtime.errors import ArtifactError
from tests.experiments.test_compare import write_run
from tests.metrics.test_ranking import sample


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/run.json").write_text(json.dumps({"ap": 0.05, "ap_se": 0.01, "auc": 0.7}))
    return tmp_path


def commit(folder: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], cwd=folder, check=True)


def test_figures_stand_beside_the_commits_with_their_change(project: Path) -> None:
    commit(project)
    (project / "metrics/run.json").write_text(json.dumps({"ap": 0.06, "ap_se": 0.01, "auc": 0.7}))
    lines = summary_lines("HEAD", params=Path("params.yaml"))
    assert lines[1].split() == ["ap", "0.05", "0.06", "+0.01"]
    assert not any("ap_se" in line for line in lines)
    assert lines[-1].startswith("no verdicts: HEAD:")  # no outputs of that commit are at hand


def test_differences_are_judged_where_the_outputs_are_at_hand(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit(project)
    logit, label = sample(3000)
    write_run(project, logit, label, row=np.arange(3000))
    other = project / "HEAD"  # a folder of the revision's name stands for it
    write_run(other, np.random.default_rng(0).permutation(logit), label, row=np.arange(3000))
    lines = summary_lines("HEAD", params=Path("params.yaml"))
    assert {line.split()[0]: line.split()[-1] for line in lines[1:3]} == {"ap": "better", "auc": "better"}
    assert "rows that both report" in lines[-1]


def test_a_commit_without_figures_is_one_line_and_no_closing_summary(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / "metrics/run.json").rename(project / "run.json")
    commit(project)
    shutil.move(project / "run.json", project / "metrics/run.json")
    with pytest.raises(ArtifactError, match=r"HEAD: has no metrics/run\.json"):
        summary_lines("HEAD", params=Path("params.yaml"))
    log_summary()
    assert caplog.messages == []


def test_each_label_has_its_figures(project: Path) -> None:
    def write(ap: float) -> None:
        text = json.dumps({"clicked": {"ap": ap, "ap_se": 0.01}, "liked": {"ap": 2 * ap, "auc": 0.5}})
        (project / "metrics/run.json").write_text(text)

    write(0.05)
    commit(project)
    write(0.06)
    lines = summary_lines("HEAD", params=Path("params.yaml"))
    assert [line.split() for line in lines[1:4]] == [
        ["clicked.ap", "0.05", "0.06", "+0.01"],
        ["liked.ap", "0.1", "0.12", "+0.02"],
        ["liked.auc", "0.5", "0.5", "+0"],
    ]
