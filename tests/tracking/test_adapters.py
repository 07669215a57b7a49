"""Each tracker's offline run, read back by its own project's means."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qin.tracking.tracking import open_tracking

SETTINGS = {"train": {"lr": 0.001, "schedule": "constant"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/run.json").write_text('{"ap": 0.1}')
    return tmp_path


def track(name: str) -> None:
    """What train and then evaluate tell."""
    with open_tracking([name], project="clicks", settings=SETTINGS, proceed=False) as tracking:
        tell = tracking.step("train/")
        for step in (20, 40):
            tell(step, {"loss": 1.0 / step, "lr": 0.001, "grad_norm": 2.0, "rows": 512.0 * step})
        tracking.check([{"step": 40, "val_ap": 0.25}])
    with open_tracking([name], project="clicks", settings=SETTINGS, proceed=True) as tracking:
        tracking.summarise({"ap": 0.5, "after": {"log_loss": 0.125}})
        tracking.add_files(Path("metrics/run.json"), Path("not/there.json"))


def test_tensorboard(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track("tensorboard")
    assert caplog.messages == []
    [run] = (folder / "runs/tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(run)).Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [20, 40]
    assert [event.value for event in losses] == pytest.approx([0.05, 0.025])
    assert [e.value for e in events.Scalars("check/val_ap")] == [0.25]
    assert [e.value for e in events.Scalars("final/after.log_loss")] == [0.125]


def test_mlflow(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    mlflow = pytest.importorskip("mlflow")
    track("mlflow")
    assert caplog.messages == []
    client = mlflow.MlflowClient((folder / "runs/mlflow").as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("clicks").experiment_id])
    assert run.data.params == {"train.lr": "0.001", "train.schedule": "constant"}
    assert run.data.metrics["ap"] == 0.5
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (20, 0.05),
        (40, 0.025),
    ]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "metrics")] == ["metrics/run.json"]


def test_dvclive(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("dvclive")
    track("dvclive")
    assert caplog.messages == []
    [run] = (folder / "runs/dvclive").iterdir()
    summary = json.loads((run / "metrics.json").read_text())
    assert summary["ap"] == 0.5
    assert summary["train"]["loss"] == 0.025
    lines = (run / "plots/metrics/train/loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["20", "40"]


def test_wandb(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    wandb = pytest.importorskip("wandb")
    wandb_internal_pb2 = importlib.import_module("wandb.proto.wandb_internal_pb2")
    track("wandb")
    wandb.teardown()  # its service writes the files
    assert caplog.messages == []
    histories: list[dict[str, Any]] = []
    summaries: dict[str, Any] = {}
    for file in sorted((folder / "runs/wandb").glob("wandb/offline-run-*/*.wandb")):
        for data in _log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                histories.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            if record.WhichOneof("record_type") == "summary":
                summaries |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    losses = [(entry["step"], entry["train/loss"]) for entry in histories if "train/loss" in entry]
    assert losses == [(20, 0.05), (40, 0.025)]
    assert summaries["ap"] == 0.5


def _log_records(content: bytes) -> Iterator[bytes]:
    """Records of a run's file: LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes.

    Each part has a checksum of 4 bytes, a length of 2 and a type: 1 whole, 2 first, 3 middle, 4 last.
    """
    place, kept = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        kept += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield kept
            kept = b""


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
