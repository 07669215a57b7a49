"""The settings of one label's room: that label alone, and raw files by names that hold there."""

from pathlib import Path

import pytest

from qin.config import load_params
from qin.labels.rooms import furnish, room_of, settings_of
from qin.runtime import paths
from tests.config.test_params import write_params

ROOM = room_of("train", "liked")
UP = "../" * len(ROOM.parts)


@pytest.mark.parametrize(
    ("named", "placed"),
    [
        ("data/train.parquet", "data/train.parquet"),  # linked there, so that messages name it as ever
        ("../logs/train.parquet", f"{UP}../logs/train.parquet"),
        ("/logs/train.parquet", "/logs/train.parquet"),
        ("s3://bucket/train.parquet", "s3://bucket/train.parquet"),
        ("data", f"{UP}data"),  # which holds outputs of stages as well
        (["data/a", "../b"], ["data/a", f"{UP}../b"]),
    ],
)
def test_raw_files_are_found_from_a_room(tmp_path: Path, named: str | list[str], placed: str | list[str]) -> None:
    changes = {"data.train": named, "data.label": ["clicked", "liked", "saved"], "data.ignore": ["old_*"]}
    params = load_params(write_params(tmp_path, {**changes, "predict.label": "saved"}))
    settings = settings_of(params, "liked", room=ROOM)
    assert settings.data.train == placed
    assert (settings.data.label, settings.data.ignore) == ("liked", ["old_*", "clicked", "saved"])
    assert settings.predict.label is None
    assert settings.split == params.split


def test_a_room_keeps_what_a_killed_stage_left_and_links_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.parquet").write_text("rows")
    params = load_params(write_params(tmp_path, {"data.label": ["clicked", "liked"], "track.to": ["tensorboard"]}))
    (ROOM / ".qin").mkdir(parents=True)
    (ROOM / ".qin/kept").write_text("state")
    (ROOM / paths.FOLDS).mkdir(parents=True)  # of an earlier run
    for _ in range(2):
        furnish(ROOM, "train", params, "liked")
    assert (ROOM / "data/train.parquet").read_text() == "rows"
    assert (ROOM / ".qin/kept").read_text() == "state"
    assert (ROOM / "runs").resolve() == tmp_path / "runs/liked"
    assert not (ROOM / paths.FOLDS).exists()
    assert load_params(ROOM / paths.PARAMS).data.labels == ("liked",)
