"""The validation fold's logits as files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from qin.runtime.errors import ArtifactError
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows


@pytest.fixture
def scored() -> ScoredRows:
    return ScoredRows(
        row=np.array([1, 4, 5]),
        logit=np.array([0.5, -2.0, 1.0], np.float32),
        label=np.array([1, 0, 0], np.uint8),
        is_report=np.array([0, 1, 1], np.uint8),
        prior=TrainingPrior(base_rate=0.02, pos_weight=3.0, neg_ratio=0.1, reweighted=False),
    )


def test_rows_and_what_training_did_survive_their_files(scored: ScoredRows, tmp_path: Path) -> None:
    scored.write(tmp_path)
    read = ScoredRows.read(tmp_path)
    for name in ("row", "logit", "label", "is_report"):
        np.testing.assert_array_equal(getattr(read, name), getattr(scored, name))
    assert read.prior == scored.prior


def test_natural_logits_are_without_what_training_did(scored: ScoredRows) -> None:
    shift = math.log(0.1) - math.log(3.0)
    assert scored.natural == pytest.approx([0.5 + shift, -2.0 + shift, 1.0 + shift])
    assert scored.natural.dtype == np.float64


def test_files_of_an_earlier_training_are_refused(scored: ScoredRows, tmp_path: Path) -> None:
    scored.write(tmp_path)
    facts = json.loads((tmp_path / "facts.json").read_text())
    del facts["prior"]["neg_ratio"], facts["prior"]["reweighted"]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"facts\.json: its checksum is not that of its content"):
        ScoredRows.read(tmp_path)


@pytest.mark.parametrize("name", ["row", "logit", "label", "is_report"])
def test_a_damaged_array_is_named(scored: ScoredRows, tmp_path: Path, name: str) -> None:
    scored.write(tmp_path)
    path = tmp_path / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}\.npy"):
        ScoredRows.read(tmp_path)


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("validation", "train"),
        ("validation/fold2", "train"),
        ("trees_validation", "trees"),
        ("trees_validation/fold2", "trees"),
        ("scored", "calibrate"),
        ("scored/fold2", "calibrate"),
    ],
)
def test_the_stage_that_wrote_them_is_named_also_of_a_fold(
    scored: ScoredRows, tmp_path: Path, folder: str, stage: str
) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    scored.write(place)
    (place / "logit.npy").unlink()
    with pytest.raises(ArtifactError, match=f"run the {stage} stage"):
        ScoredRows.read(place)
