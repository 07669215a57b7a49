"""The report's sources: what is not as its stage wrote it is named."""

import json
from pathlib import Path

import pytest

from qin.report.charts import read_chart
from qin.report.page import in_script, stage_details
from qin.runtime.errors import ArtifactError

TRAIN = {"num_parameters": 7, "batch_size": 2, "lr": 0.1, "best_step": 1, "num_steps": 2}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("metrics", "plots"):
        (tmp_path / name).mkdir()
    (tmp_path / "metrics/train.json").write_text(json.dumps(TRAIN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("stage", ["prepare", "split", "train", "trees", "calibrate"])
@pytest.mark.parametrize("content", [{"train": {}, "a": 1}, {"rows": 3, "other_folds": [1]}, {"num_rounds": None}])
def test_metrics_of_another_form_are_named(project: Path, stage: str, content: dict[str, object]) -> None:
    if stage == "prepare":
        content = {"train": content}
    (project / f"metrics/{stage}.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"^metrics/{stage}\.json: not what the stage {stage} writes \("):
        stage_details()


def test_trees_of_other_folds_than_the_network_are_named(project: Path) -> None:
    trees = {"num_columns": 3, "num_leaves": 7, "num_rounds": 9}
    (project / "metrics/trees.json").write_text(json.dumps(trees))
    assert stage_details()["trees"] == trees
    (project / "metrics/trees.json").write_text(json.dumps({**trees, "other_folds": [trees]}))
    with pytest.raises(ArtifactError, match=r"^metrics/trees\.json: not what the stage trees writes \("):
        stage_details()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"step,val_log_loss\n1,0.5,7\n", r"plots/train\.csv: line 2: not as many cells as the header has"),
        (b"step,val_log_loss\n1,0.5\n2\n", r"plots/train\.csv: line 3: not as many cells as the header has"),
        (b"step,val_log_loss\n1,\xff\n", r"plots/train\.csv: no CSV file in UTF-8 \("),
        (b'step,val_log_loss\n1,"0.5\n', r"plots/train\.csv: no CSV file in UTF-8 \("),
    ],
)
def test_points_of_another_form_are_named(project: Path, content: bytes, message: str) -> None:
    (project / "plots/train.csv").write_bytes(content)
    with pytest.raises(ArtifactError, match=f"^{message}"):
        read_chart("train")


@pytest.mark.parametrize("value", ["</script>", "<!--<script>", "<!-- ", "a <b> & c", "</SCRIPT", "\u2028"])
def test_no_value_ends_a_script_or_keeps_it_open(value: str) -> None:
    text = in_script({"value": value})
    assert json.loads(text) == {"value": value}
    assert "</" not in text
    assert "<!--" not in text
