"""The validation fold's logits as files."""

import json
from pathlib import Path

import numpy as np
import pytest

from qin.errors import ArtifactError
from qin.scored import ScoredRows


@pytest.fixture
def scored() -> ScoredRows:
    return ScoredRows(
        row=np.array([1, 4, 5]),
        logit=np.array([0.5, -2.0, 1.0], np.float32),
        label=np.array([1, 0, 0], np.uint8),
        train_base_rate=0.02,
        pos_weight=3.0,
        neg_ratio=0.1,
        reweighted=False,
    )


def test_rows_and_what_training_did_survive_their_files(scored: ScoredRows, tmp_path: Path) -> None:
    scored.write(tmp_path)
    read = ScoredRows.read(tmp_path)
    for name in ("row", "logit", "label"):
        np.testing.assert_array_equal(getattr(read, name), getattr(scored, name))
    assert (read.train_base_rate, read.pos_weight, read.neg_ratio, read.reweighted) == (0.02, 3.0, 0.1, False)


def test_files_of_an_earlier_training_are_refused(scored: ScoredRows, tmp_path: Path) -> None:
    scored.write(tmp_path)
    facts = json.loads((tmp_path / "facts.json").read_text())
    del facts["neg_ratio"], facts["reweighted"]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"facts\.json: its checksum is not that of its content"):
        ScoredRows.read(tmp_path)
