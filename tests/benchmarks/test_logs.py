"""The table of one default on every log: what is of the whole fold, and what of the half that decided nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.logs import SCORED, figures
from benchmarks.tables import BARS, LOGS_HEADER, _logs_table
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The report half is ranked without a fault, the other half is ranked the wrong way round."""
    label = np.tile([0, 1], 10).astype(np.uint8)
    is_report = np.repeat([0, 1], 10).astype(np.uint8)
    logit = np.where(is_report == 1, 1.0, -1.0) * (2.0 * label - 1.0)
    for folder in SCORED.values():
        (tmp_path / folder).mkdir(parents=True)
        ScoredRows(
            row=np.arange(20),
            logit=logit.astype(np.float32),
            label=label,
            is_report=is_report,
            prior=TrainingPrior(base_rate=0.5),
        ).write(tmp_path / folder)
    (tmp_path / "metrics").mkdir()
    evaluation = {"auc_se": 0.01, "ap_se": 0.02, "after": {"wll": 0.7, "wll_balanced": 0.6}}
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(evaluation))
    return tmp_path


def test_the_report_half_and_the_whole_fold_are_told_apart(project: Path) -> None:
    found = figures(project)
    assert found["report"]["blend"]["auc"] == 1.0
    assert found["whole"]["trees"]["auc"] == pytest.approx(0.5)
    assert found["clicks"] == 10


def test_the_table_has_a_row_for_each_log_that_was_run(project: Path) -> None:
    header, _, *rows = _logs_table({"ml1m": {"note": "now", **figures(project)}}).splitlines()
    assert header == f"| {' | '.join(LOGS_HEADER)} |"
    assert len(rows) == 1
    assert rows[0].startswith(f"| {BARS['ml1m'][0]} | 0.5000 / ")
    assert rows[0].endswith("| 1.0000 ± 0.0100 / 1.0000 ± 0.0200 | now |")
