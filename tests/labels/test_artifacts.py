"""Which label's artifacts a folder gives."""

import logging
from pathlib import Path

import pytest

from qin.labels.artifacts import artifacts_of, chosen_label
from qin.runtime import paths
from qin.runtime.chain import ORIGIN
from qin.runtime.errors import ArtifactError
from qin.runtime.files import read_exact_json, write_exact_json
from qin.runtime.labelled import write_labelled_json


def test_the_first_label_is_meant_where_none_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="qin"):
        assert chosen_label(("clicked", "liked"), None, of="artifacts") == "clicked"
        assert chosen_label(("clicked", "liked"), "liked", of="artifacts") == "liked"
    assert caplog.messages == ["artifacts: label clicked (the others: liked)"]
    with pytest.raises(ArtifactError) as caught:
        chosen_label(("clicked", "liked"), "lked", of="artifacts")
    assert str(caught.value) == "artifacts: no label lked, did you mean liked?; it is of clicked, liked"


def test_a_folder_of_one_label_is_itself(tmp_path: Path) -> None:
    origin = {"settings": {"data.label": "clicked"}, "made_from": {}}
    write_exact_json(tmp_path / paths.BLEND.name, {ORIGIN: origin})
    for label in (None, "clicked"):
        with artifacts_of(tmp_path, label) as place:
            assert place == tmp_path
    with pytest.raises(ArtifactError, match="no label seen; it is of clicked"), artifacts_of(tmp_path, "seen"):
        raise AssertionError


def test_a_folder_of_several_labels_gives_ones_part_and_its_name_in_errors(tmp_path: Path) -> None:
    for name in (paths.BLEND.name, paths.CALIBRATOR.name):
        for label in ("clicked", "liked"):
            write_exact_json(tmp_path / f"{label}.json", {"of": label})
        write_labelled_json(tmp_path / name, {label: tmp_path / f"{label}.json" for label in ("clicked", "liked")})
    for label in ("clicked", "liked"):
        (tmp_path / "model" / label).mkdir(parents=True)
        (tmp_path / "model" / label / "model.json").write_text(label)
    with artifacts_of(tmp_path, "liked") as place:
        assert sorted(entry.name for entry in place.iterdir()) == ["blend.json", "model", "temperature.json"]
        assert (place / "model/model.json").read_text() == "liked"
        assert read_exact_json(place / paths.CALIBRATOR.name) == {"of": "liked"}
    with pytest.raises(ArtifactError) as caught, artifacts_of(tmp_path, "liked") as place:
        read_exact_json(place / "statistics" / "manifest.json")
    assert str(caught.value) == (
        f"{tmp_path} (label liked)/statistics/manifest.json: file not found; run the stage that writes it"
    )
