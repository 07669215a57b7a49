"""A training run that was killed and started again leaves the bytes of an uninterrupted one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from qin.train.checkpoint import CheckpointStore
from qin.train.loop import TrainingLoop, save_interval
from tests.project import copy_project, set_params
from tests.stages.killing import KilledError, killed_after
from tests.stages.run import run_in_process

OUTPUTS = ("artifacts", "metrics/train.json", "plots/train.csv")

# Every mechanism that has state or randomness of its own.
HARD = {
    "imbalance.use_neg_downsampling": True,
    "imbalance.neg_downsample_ratio": 0.5,
    "imbalance.pos_weight": "auto",
    "hnm.enable": True,
    "hnm.min_neg": 8,
    "model.norm": "batch",
    "model.attention_bias": "recency",
    "model.num_frequencies": 2,
    "model.numeric_bins": 4,
    "model.min_count": 3,
    "model.pooled_history": True,
    "model.field_dropout": 0.2,
    "model.embedding_dropout": 0.2,
    "train.schedule": "plateau",
    "train.ema_decay": 0.9,
    "train.self_ensemble": 0.5,
    "train.checks_per_epoch": 3,
    "train.patience": 100,
    "train.refit": "all",
    "train.checkpoint_seconds": 0.0,
}

TWO_PASSES = {
    "imbalance.reweight_negatives": False,
    "model.norm": "none",
    "hnm.mode": "pps",
    "hnm.forward": "two_pass",
    "hnm.warmup_steps": 2,
}


@pytest.fixture
def project(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_project(tmp_path / "project", log=small_log)
    set_params(folder / "params.yaml", HARD)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("os.fsync", lambda _: None)  # no power fails here, and there is a checkpoint after every step
    run_in_process("prepare")
    run_in_process("split")
    return folder


def outputs(project: Path) -> dict[str, bytes]:
    found = [
        path
        for name in OUTPUTS
        for path in ([project / name] if (project / name).is_file() else _files(project / name))
    ]
    return {str(path): path.read_bytes() for path in found}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def checkpoints(project: Path) -> list[Path]:
    return list((project / ".qin/checkpoints").rglob("*.pt"))


@pytest.mark.parametrize(
    ("table", "passes"), [("dense", 1), ("row-wise", 2), pytest.param("dense", 2, marks=pytest.mark.slow)]
)
def test_resumed_run_equals_uninterrupted_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, table: str, passes: int
) -> None:
    if table == "row-wise":
        monkeypatch.setattr("qin.model.build.SPARSE_TABLE_ROWS", 1)
        set_params(project / "params.yaml", {"train.ema_decay": None})
    if passes == 2:
        set_params(project / "params.yaml", TWO_PASSES)
    run_in_process("train")
    whole = outputs(project)
    assert not list((project / ".qin/checkpoints").iterdir())
    # Steps, and checkpoints that are left: in the first epoch, in the second, in the refit beside the held-out run's.
    num_steps = json.loads((project / "metrics/train.json").read_text())["num_steps"]
    for steps, num_left in ((1, 1), (num_steps // 2 + 1, 1), (num_steps - num_steps // 2, 2)):
        killed_after(steps, monkeypatch)
        assert len(checkpoints(project)) == num_left
    run_in_process("train")
    assert outputs(project) == whole
    assert not list((project / ".qin/checkpoints").iterdir())


def test_killed_before_the_refit_the_heldout_run_is_not_made_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last state is kept whatever the times between checkpoints, and what it logged is written again."""
    set_params(project / "params.yaml", {"train.checkpoint_seconds": 1e9, "train.patience": 2})
    run_in_process("train")
    whole = outputs(project)

    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("stages.train.refit_models", kill)
        with pytest.raises(KilledError):
            run_in_process("train")
    assert len(checkpoints(project)) == 1
    (project / "plots/train.csv").unlink()
    made = steps_of_runs(monkeypatch)
    run_in_process("train")
    assert outputs(project) == whole
    assert set(made) == {"refit"}


def test_several_networks_resume_where_they_were(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second network, before the refits, and in the second refit, no finished run is made again."""
    changes = {"model.seeds": 2, "train.epochs": 1, "train.checkpoint_seconds": 1e9}
    set_params(project / "params.yaml", changes)
    run_in_process("train")
    whole = outputs(project)
    figures = json.loads((project / "metrics/train.json").read_text())
    others = [figures, *figures["other_seeds"]]
    first, second = (one["num_steps"] for one in others)
    assert len(others) == 2
    for folder in ("", "heldout/"):
        assert (
            whole[str(project / f"artifacts/model/{folder}weights.safetensors")]
            != whole[str(project / f"artifacts/model/{folder}weights.1.safetensors")]
        )
    refits = [json.loads((project / "artifacts/model/model.json").read_text())["provenance"]]
    refits += refits[0]["other_seeds"]
    first_refit = refits[0]["metrics"]["num_steps"]
    for steps, num_left in ((first + 1, 1), (second, 2), (first_refit + 1, 3)):
        killed_after(steps, monkeypatch)
        assert len(checkpoints(project)) == num_left
    run_in_process("train")
    assert outputs(project) == whole
    assert not list((project / ".qin/checkpoints").iterdir())


def test_a_second_form_resumes_where_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its training, the first form is not trained again, and the outputs are those of a whole run."""
    changes = {"model.alternatives": [{"attention_scale": 2.0}], "train.epochs": 1, "train.checkpoint_seconds": 1e9}
    set_params(project / "params.yaml", changes)
    run_in_process("train")
    whole = outputs(project)
    figures = json.loads((project / "metrics/train.json").read_text())
    assert [form["form"] for form in figures["forms"]] == ["as set", "attention_scale: 2.0"]
    kept = next(number for number, form in enumerate(figures["forms"]) if form["is_kept"])
    saved = json.loads((project / "artifacts/model/model.json").read_text())["params"]
    assert saved["attention_scale"] == (1.0, 2.0)[kept]
    killed_after(figures["num_steps"] + 1, monkeypatch)
    assert len(checkpoints(project)) == 1
    run_in_process("train")
    assert outputs(project) == whole
    assert not list((project / ".qin/checkpoints").iterdir())


def steps_of_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which run each further step belongs to."""
    made = list[str]()
    step = TrainingLoop._train_step

    def noting(self: TrainingLoop, batch: Any) -> None:
        made.append("heldout" if self._budget is None else "refit")
        step(self, batch)

    monkeypatch.setattr(TrainingLoop, "_train_step", noting)
    return made


def test_without_a_refit_the_heldout_model_is_deployed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, both are there, and the figures and logits of the held-out run stay those that they were."""
    set_params(project / "params.yaml", {"train.epochs": 1, "train.checkpoint_seconds": 1e9})
    run_in_process("train")
    both = outputs(project)
    set_params(project / "params.yaml", {"train.refit": "none"})
    made = steps_of_runs(monkeypatch)
    run_in_process("train")
    assert set(made) == {"heldout"}
    alone = outputs(project)
    logits = str(project / "artifacts/validation/logit.npy")
    assert alone[logits] == both[logits]
    heldout, deployed = (project / "artifacts/model" / part / "weights.safetensors" for part in ("heldout", ""))
    tensors = [load(found) for found in (alone[str(deployed)], both[str(heldout)], both[str(deployed)])]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    assert not all(torch.equal(tensor, tensors[2][name]) for name, tensor in tensors[0].items())
    assert str(heldout) not in alone
    assert alone[str(project / "plots/train.csv")] == both[str(project / "plots/train.csv")]


def test_checkpoints_every_so_many_steps(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {
        "train.checkpoint_seconds": 1e9,
        "train.checkpoint_steps": 4,
        "train.epochs": 1,
        "hnm.enable": False,
    }
    changes["train.refit"] = "none"
    set_params(project / "params.yaml", changes)
    saved: list[int] = []
    save = CheckpointStore.save

    def recording(self: CheckpointStore, state: Any, *, step: int) -> None:
        saved.append(step)
        save(self, state, step=step)

    monkeypatch.setattr(CheckpointStore, "save", recording)
    run_in_process("train")
    assert saved == list(range(4, saved[-1] + 1, 4))
    assert len(saved) > 1


def test_large_states_are_saved_less_often() -> None:
    assert save_interval(60.0, 0.1) == 60.0
    assert save_interval(60.0, 6.0) == 300.0  # 2% of the time
    assert save_interval(0.0, 6.0) == 0.0  # after every step, as asked


def test_other_params_never_resume(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(project / "params.yaml", {"train.lr": 0.01})
    run_in_process("train")
    whole = outputs(project)
    set_params(project / "params.yaml", {"train.lr": 0.001})
    killed_after(5, monkeypatch)
    set_params(project / "params.yaml", {"train.lr": 0.01})
    run_in_process("train")
    assert outputs(project) == whole


def test_damaged_checkpoint_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed_after(5, monkeypatch)
    (checkpoint,) = checkpoints(project)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(SystemExit):
        run_in_process("train")
    expected = f"error: {checkpoint.relative_to(project)}: damaged checkpoint; delete it to train from the start"
    assert expected in capfd.readouterr().err
    checkpoint.unlink()
    run_in_process("train")


def test_diverged_run_is_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(project / "params.yaml", {"train.lr": 1e30, "train.warmup_steps": 0, "train.gradient_clip": None})
    with pytest.raises(SystemExit):
        run_in_process("train")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "lower train.lr or train.gradient_clip" in line
