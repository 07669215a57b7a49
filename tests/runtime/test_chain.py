"""Artifacts of other settings, other raw files or other artifacts are named; equal runs give equal origins."""

from pathlib import Path
from typing import Any, get_args

import pytest

from qin.config import SplitParams, load_params
from qin.config.strict_yaml import read_yaml
from qin.runtime import chain, checksums, paths
from qin.runtime.chain import (
    Artifact,
    Origin,
    check_chain,
    check_links,
    origin_entry,
    origin_of,
    raw_checksum,
    read_artifact,
    recorded_keys,
)
from qin.runtime.errors import ArtifactError
from qin.runtime.files import write_exact_json
from tests.project import ROOT

STAGES = ("prepare", "split", "train", "trees", "calibrate", "evaluate")

# What DVC tracks and an origin does not hold: places of files, and where and how fast things are computed.
NOT_RECORDED = {
    "prepare": {"data.sample_submission", "data.test", "data.train"},
    # checked early for later stages, which record it
    "split": {
        *("calibration.by", "data.test", "data.train", "evaluate.slices"),
        *("features.sequences", "features.statistics", "features.target"),
    },
    "train": {"train.device", "train.num_processes", "train.num_threads"},
    "trees": {"train.num_threads"},
    "calibrate": {"data.train"},
    "evaluate": {
        "data.train",
        *("train.device", "train.eval_batch_size", "train.num_threads", "train.precision"),
    },
}


@pytest.fixture
def settings() -> dict[str, Any]:
    tree: dict[str, Any] = load_params(ROOT / "params.yaml").model_dump(mode="json")
    return tree


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"a log")
    return path


def pipeline(settings: dict[str, Any], log: Path, *, weights: str = "w") -> dict[str, Artifact]:
    """What a run leaves, with made-up contents."""
    prepared = Artifact("data/prepared/train", "p", origin_of("prepare", settings, files={"data.train": log}))
    split = settings["split"]
    folds = Artifact("data/split", f"s{split['seed']}", origin_of("split", settings, files={"data.train": log}))
    model = Artifact("artifacts/model", weights, origin_of("train", settings, artifacts=[prepared, folds]))
    validation = Artifact("artifacts/validation", f"v{weights}", origin_of("train", settings, artifacts=[model]))
    calibrator = Artifact(
        "artifacts/temperature.json", f"t{weights}", origin_of("calibrate", settings, artifacts=[validation])
    )
    return {artifact.place: artifact for artifact in (prepared, folds, model, validation, calibrator)}


def refused(artifacts: list[Artifact], settings: dict[str, Any], **files: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        check_chain(artifacts, settings, files={f"data.{key}": file for key, file in files.items()})
    return str(caught.value)


def test_a_whole_run_fits(settings: dict[str, Any], log: Path) -> None:
    artifacts = list(pipeline(settings, log).values())
    check_chain(artifacts, settings, files={"data.train": log, "data.test": log.with_name("missing")})
    check_links(artifacts)


def test_a_calibrator_of_another_model_is_named(settings: dict[str, Any], log: Path) -> None:
    run, other = pipeline(settings, log), pipeline(settings, log, weights="other")
    assert refused([run["artifacts/model"], other["artifacts/temperature.json"]], settings) == (
        "artifacts/temperature.json: made from another artifacts/model than the one that is there; run `dvc repro`"
    )
    assert refused([other["artifacts/validation"], run["artifacts/temperature.json"]], settings) == (
        "artifacts/temperature.json: made from another artifacts/model than artifacts/validation was; run `dvc repro`"
    )


def test_settings_that_differ_are_named_with_both_values(settings: dict[str, Any], log: Path) -> None:
    run = list(pipeline(settings, log).values())
    settings["imbalance"]["pos_weight"] = 20.0
    assert refused(run, settings) == (
        "artifacts/model: made with imbalance.pos_weight: null, params.yaml has 20.0; run `dvc repro`"
    )
    settings["split"]["seed"] = 1
    assert refused(run, settings) == "data/split: made with split.seed: 0, params.yaml has 1; run `dvc repro`"
    assert refused(run[2:], settings).startswith("artifacts/model: made with ")


def test_folds_and_rows_of_different_logs_are_named(settings: dict[str, Any], log: Path) -> None:
    run = pipeline(settings, log)
    log.write_bytes(b"another log")
    other = pipeline(settings, log)
    assert refused([run["data/prepared/train"], other["data/split"]], settings) == (
        "data/split: made from another data/train.parquet than data/prepared/train was; run `dvc repro`"
    )
    assert refused([run["data/prepared/train"], run["data/split"]], settings, train=log) == (
        f"data/prepared/train: made from another {log} than the one that is there; run `dvc repro`"
    )


def test_appended_rows_are_another_log(settings: dict[str, Any], log: Path) -> None:
    run = list(pipeline(settings, log).values())
    with log.open("ab") as file:
        file.write(b", appended")
    assert "made from another" in refused(run, settings, train=log)


def test_changing_the_calibration_leaves_what_is_before_it(settings: dict[str, Any], log: Path) -> None:
    run = pipeline(settings, log)
    settings["calibration"]["method"] = "platt"
    check_chain([artifact for artifact in run.values() if artifact.place != "artifacts/temperature.json"], settings)
    assert refused(list(run.values()), settings).startswith("artifacts/temperature.json: made with calibration.method")
    assert pipeline(settings, log)["artifacts/model"] == run["artifacts/model"]


@pytest.mark.parametrize("section", ["evaluate", "predict"])
def test_later_settings_change_nothing(settings: dict[str, Any], log: Path, section: str) -> None:
    run = pipeline(settings, log)
    settings[section] = dict.fromkeys(settings[section], "changed")
    assert pipeline(settings, log) == run


def test_clusters_of_the_errors_are_not_those_of_the_folds(settings: dict[str, Any], log: Path) -> None:
    settings["features"]["statistics"]["pairs"] = []  # or the user is half of some
    run = pipeline(settings, log)
    settings["split"]["group_key"] = "user"
    assert pipeline(settings, log) == run
    settings["split"]["method"] = "group_user"
    assert refused(list(run.values()), settings).startswith("data/split: made with split.method: ")
    grouped = pipeline(settings, log)
    settings["split"]["group_key"] = "session"
    assert refused(list(grouped.values()), settings).startswith("data/split: made with split.group_key: ")


def test_an_origin_has_no_places_times_or_machines(settings: dict[str, Any], log: Path) -> None:
    run = pipeline(settings, log)
    settings["data"].update(train="/elsewhere/t.parquet", test="/elsewhere/u.parquet", sample_submission="/s.csv")
    settings["train"].update(device="cuda", num_threads=99, num_processes=4, checkpoint_seconds=1.0)
    settings["prepare"].update(batch_rows=7, num_threads=7)
    moved = log.rename(log.with_name("moved.parquet"))
    assert pipeline(settings, moved) == run


def test_every_split_method_has_its_keys() -> None:
    assert set(chain._SPLIT_OF) == set(get_args(SplitParams.model_fields["method"].annotation))


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_recorded_is_what_dvc_tracks(stage: str, settings: dict[str, Any]) -> None:
    tracked = {
        key
        for name in read_yaml(ROOT / "dvc.yaml")["stages"][stage]["params"]
        for key in ([name] if "." in name else [f"{name}.{key}" for key in settings[name]])
    }
    recorded: set[str] = set()
    for method in chain._SPLIT_OF:
        for row_key in (None, ["a"]):
            settings["split"].update(method=method, row_key=row_key, session_key="session", num_folds=2)
            settings["data"]["label_heads"] = "shared"  # recorded where labels share them
            recorded |= set(recorded_keys(stage, settings))
    assert recorded <= tracked
    assert tracked - recorded == NOT_RECORDED[stage]


def test_raw_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "a", tmp_path / "parts"
    content = bytes(range(256)) * 64
    path.write_bytes(content)
    folder.mkdir()
    (folder / "0.parquet").write_bytes(content)
    for whole in (1 << 20, 1 << 10):  # read whole; then in blocks
        monkeypatch.setattr(checksums, "_WHOLE_BYTES", whole)
        monkeypatch.setattr(checksums, "_BLOCK_BYTES", 64)
        monkeypatch.setattr(checksums, "_TAIL_BYTES", 1 << 12)
        path.write_bytes(content)
        before = raw_checksum(path)
        assert len(before) == 16
        for changed in (content + b"x", content[:-1], b"\xff" + content[1:], content[:-1] + b"\x00"):
            path.write_bytes(changed)
            assert raw_checksum(path) != before
    parts = raw_checksum(folder)
    (folder / "1.parquet").write_bytes(b"more")
    assert raw_checksum(folder) != parts


def test_artifacts_are_read_by_their_description(tmp_path: Path) -> None:
    origin = Origin({"train.lr": 0.1}, {"data/split": "abc"})
    write_exact_json(tmp_path / "t.json", {"x": 1, **origin_entry(origin)})
    write_exact_json(tmp_path / "model.json", {"x": 2, **origin_entry(origin)})
    found = [read_artifact(paths.CALIBRATOR, at=tmp_path / "t.json"), read_artifact(paths.MODEL, at=tmp_path)]
    assert [artifact.place for artifact in found] == ["artifacts/temperature.json", "artifacts/model"]
    assert found[0].origin == found[1].origin == origin
    assert found[0].checksum != found[1].checksum


def test_an_artifact_without_an_origin_is_named(tmp_path: Path) -> None:
    write_exact_json(tmp_path / "m.json", {"x": 1})
    with pytest.raises(ArtifactError, match=r"m\.json: does not say what it was made from; run the stage that writes"):
        read_artifact(paths.CALIBRATOR, at=tmp_path / "m.json")
