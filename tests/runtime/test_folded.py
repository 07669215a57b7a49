"""Outputs with a subfolder for each fold, and the finished folds of a run that was killed."""

import json
from pathlib import Path

import pytest

from qin.runtime.chain import Origin, read_artifact
from qin.runtime.errors import ArtifactError
from qin.runtime.files import atomic_directory, write_exact_json
from qin.runtime.folded import FoldStore, fold_place, fold_places, of_folds, write_index
from qin.runtime.paths import VALIDATION

ORIGIN = Origin({"split.num_folds": 2}, {"data.train": "abc"})


def output(folder: Path, *, of_second: int = 2) -> Path:
    for number, value in ((1, 1), (2, of_second)):
        fold_place(folder, number).mkdir(parents=True)
        write_exact_json(fold_place(folder, number) / "facts.json", {"value": value})
    write_index(VALIDATION, folder, num_folds=2, origin=ORIGIN, facts={"more": 1})
    return folder


def test_an_index_names_its_folds_and_their_content(tmp_path: Path) -> None:
    folder, other = output(tmp_path / "one"), output(tmp_path / "other", of_second=3)
    assert fold_places(VALIDATION, at=folder) == [folder / "fold1", folder / "fold2"]
    artifact = read_artifact(VALIDATION, at=folder)
    assert artifact.origin == ORIGIN
    assert artifact.checksum != read_artifact(VALIDATION, at=other).checksum
    (folder / "fold2/facts.json").write_bytes((other / "fold2/facts.json").read_bytes())
    with pytest.raises(ArtifactError, match=rf"^{folder}/fold2/facts\.json: of another run than {folder}; run `dvc "):
        fold_places(VALIDATION, at=folder)


def test_an_output_of_one_model_is_its_own_place(tmp_path: Path) -> None:
    write_exact_json(tmp_path / "facts.json", {"value": 1})
    assert fold_places(VALIDATION, at=tmp_path) == [tmp_path]
    (tmp_path / "facts.json").unlink()
    with pytest.raises(ArtifactError, match="file not found"):
        fold_places(VALIDATION, at=tmp_path)


def test_figures_of_one_fold_are_as_ever() -> None:
    assert of_folds([{"a": 1}]) == {"a": 1}
    assert of_folds([{"a": 1}, {"a": 2}, {"a": 3}]) == {"a": 1, "other_folds": [{"a": 2}, {"a": 3}]}


def finish(store: FoldStore, number: int) -> None:
    with atomic_directory(store.place(number)) as folder:
        for part in ("model", "logits"):
            (folder / part).mkdir()
            (folder / part / "file").write_text(f"{part} {number}")
        store.write_facts(folder, {"loss": 0.1 + number / 3})


def test_finished_folds_are_found_again_and_handed_over(tmp_path: Path) -> None:
    store = FoldStore(tmp_path / "root", "run", parts=("model", "logits"))
    store.claim()
    finish(store, 1)
    (store.place(2) / "model").mkdir(parents=True)  # without the rest
    again = FoldStore(tmp_path / "root", "run", parts=("model", "logits"))
    assert [again.has(number) for number in (1, 2)] == [True, False]
    assert not FoldStore(tmp_path / "root", "another", parts=("model",)).has(1)
    assert again.facts(1) == {"loss": 0.1 + 1 / 3}
    finish(again, 2)
    for part in ("model", "logits"):
        (tmp_path / part).mkdir()
        again.hand_over(part, tmp_path / part, num_folds=2)
    assert (tmp_path / "logits/fold2/file").read_text() == "logits 2"
    assert not again.has(1)  # a part of it is elsewhere: a run that is killed now makes it again
    store.remove()
    assert not list((tmp_path / "root").iterdir())


def test_facts_keep_every_digit(tmp_path: Path) -> None:
    FoldStore.write_facts(tmp_path, {"value": 1 / 3})
    assert json.loads((tmp_path / "facts.json").read_text()) == {"value": 1 / 3}
