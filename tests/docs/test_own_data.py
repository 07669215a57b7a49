"""`Your own data in five minutes` of the README, with a made-up log that has its columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qin.config import load_params
from qin.experiments.overlay import apply_overlays
from qin.runtime.stage import STAGES
from tests.project import copy_project
from tests.stages.run import run_in_process
from tools.console import blocks
from tools.walk import ROOT

NUM_ROWS = 3000


def settings_of_the_readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(text) if block.language == "yaml"]
    return "\n".join(block.lines)


def write_log(folder: Path) -> None:
    """Users who click what is like their history, in one week."""
    rng = np.random.default_rng(0)
    item, user = rng.integers(0, 50, NUM_ROWS), rng.integers(0, 300, NUM_ROWS)
    history = [rng.integers(0, 50, rng.integers(0, 9)) for _ in range(NUM_ROWS)]
    is_near = np.array([one in past for one, past in zip(item, history, strict=True)])
    log = pd.DataFrame(
        {
            "user": [f"u{number}" for number in user],
            "item": item,
            "category": item // 10,
            "hour": rng.integers(0, 24, NUM_ROWS),
            "price": rng.lognormal(size=NUM_ROWS),
            "feat_a": rng.normal(size=NUM_ROWS),
            "history": [",".join(map(str, past)) for past in history],
            "time": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(np.sort(rng.integers(0, 7 * 86400, NUM_ROWS)), unit="s"),
            "clicked": (rng.random(NUM_ROWS) < np.where(is_near, 0.4, 0.1)).astype(int),
        }
    )
    test = log.tail(100).drop(columns="clicked").assign(ID=[f"TEST_{row}" for row in range(100)])
    log.head(-100).to_parquet(folder / "train.parquet")
    test.to_parquet(folder / "test.parquet")
    pd.DataFrame({"ID": test["ID"], "clicked": 0.0}).to_csv(folder / "sample_submission.csv", index=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    log = tmp_path / "log"
    log.mkdir()
    write_log(log)
    folder = copy_project(tmp_path / "project", log=log)
    overlay = folder / "mine.yaml"
    overlay.write_text(settings_of_the_readme(), encoding="utf-8")
    apply_overlays([overlay], params=folder / "params.yaml")
    return folder


def test_the_settings_of_the_readme_are_valid(project: Path) -> None:
    params = load_params(project / "params.yaml")
    assert params.split.method == "time"
    assert {*params.features.target} <= {*params.features.categorical}


@pytest.mark.slow
def test_the_log_of_the_readme_gives_a_submission(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for stage in STAGES:
        run_in_process(stage)
    submission = pd.read_csv("outputs/submission.csv")
    assert list(submission.columns) == ["ID", "clicked"]
    assert submission["ID"].tolist() == [f"TEST_{row}" for row in range(100)]
    assert submission["clicked"].between(0.0, 1.0, inclusive="neither").all()
