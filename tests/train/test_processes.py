"""A run of three processes has fixed bytes, goes on from its checkpoint, and is the run of one to rounding."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.config import Params
from qin.distributed.ranks import ONE, Ranks
from qin.runtime.errors import ArtifactError, ConfigError, TrainingError
from qin.scored.rows import ScoredRows
from qin.shards.files import ShardReader
from qin.train.fit import Trained, fit_model, refit_model
from qin.train.loop import TrainingLoop
from qin.train.processes import check_processes, check_same_run, count_processes
from qin.train.step import TrainingStep
from qin.train.watch import SILENT
from tests.planted import write_planted
from tests.together import together
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS, settings

WORLD = 3
KNOBS = {"checkpoint_steps": 4, "schedule": "plateau", "batch_size": 100}


class StoppedError(Exception):
    """Stands for kill -9: nothing after it runs."""


def params_of(**changes: Any) -> Params:
    """Negatives drawn anew every epoch, hard ones mined, and dropout."""
    params = settings(
        use_neg_downsampling=True, neg_downsample_ratio=0.7, pos_weight="auto", train={**KNOBS, **changes}
    )
    hnm = params.hnm.model_copy(update={"enable": True, "min_neg": 8, "forward": "two_pass", "warmup_steps": 3})
    return params.model_copy(update={"hnm": hnm})


def train(ranks: Ranks, log: Path, folder: Path, *, stop_at: int | None = None, **changes: Any) -> dict[str, Any]:
    """The held-out run and the refit; with `stop_at`, all processes end before that step."""
    step = TrainingLoop._train_step

    def stopping(self: TrainingLoop, batch: Any) -> None:
        if self._state.step == stop_at:
            raise StoppedError
        step(self, batch)

    params, reader = params_of(**changes), ShardReader(log)
    TrainingLoop._train_step = stopping  # type: ignore[method-assign]
    try:
        options: dict[str, Any] = {"checkpoints": folder, "ranks": ranks}
        heldout, scored = fit_model(params, reader, FOLD, is_report=IS_REPORT, watch=SILENT, **options)
        refit = refit_model(params, reader, FOLD, heldout=heldout, **options)
    except StoppedError:
        return {}
    finally:
        TrainingLoop._train_step = step  # type: ignore[method-assign]
    return described(heldout, scored, refit)


def described(heldout: Trained, scored: ScoredRows, refit: Trained) -> dict[str, Any]:
    state = heldout.network.state_dict()
    return {
        "digest": hashlib.sha256(b"".join([*bytes_of(heldout), *bytes_of(refit), scored.logit.tobytes()])).hexdigest(),
        "weights": torch.cat([value.flatten().double() for value in state.values()]).numpy(),
        "logit": scored.logit,
        "history": heldout.result.history,
        "processes": heldout.figures.get("processes"),
    }


def bytes_of(trained: Trained) -> list[bytes]:
    return [value.numpy().tobytes() for value in trained.network.state_dict().values()]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planted(tmp_path_factory.mktemp("processes") / "log", num_rows=NUM_ROWS).folder


def several(ranks: Ranks, log: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """A run, a run that was stopped between two checkpoints of it, and one that goes on with three after one."""
    whole = train(ranks, log, folder / "whole")
    train(ranks, log, folder / "stopped", stop_at=9)
    resumed = train(ranks, log, folder / "stopped")
    if ranks.rank == 0:
        train(ONE, log, folder / "elastic", stop_at=9, elastic=True)
    ranks.wait()
    return {"whole": whole, "resumed": resumed, "elastic": train(ranks, log, folder / "elastic", elastic=True)}


@pytest.fixture(scope="module")
def runs(log: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return together(WORLD, several, log, tmp_path_factory.mktemp("runs"))


def test_all_processes_end_with_the_same_model(runs: list[dict[str, dict[str, Any]]]) -> None:
    for name in ("whole", "resumed", "elastic"):
        assert len({run[name]["digest"] for run in runs}) == 1


def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(runs: list[dict[str, dict[str, Any]]]) -> None:
    """Three processes: with two, sums in another order would be the same."""
    assert runs[0]["resumed"]["digest"] == runs[0]["whole"]["digest"]
    assert runs[0]["resumed"]["history"] == runs[0]["whole"]["history"]


def test_it_is_the_run_of_one_process_to_rounding(
    runs: list[dict[str, dict[str, Any]]], log: Path, tmp_path: Path
) -> None:
    one, three = train(ONE, log, tmp_path), runs[0]["whole"]
    assert [record["step"] for record in three["history"]] == [record["step"] for record in one["history"]]
    for ours, reference in zip(three["history"], one["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(reference["train_loss"], rel=1e-4)
        assert ours["val_log_loss"] == pytest.approx(reference["val_log_loss"], rel=1e-4)
    distance = np.linalg.norm(three["weights"] - one["weights"]) / np.linalg.norm(one["weights"])
    assert 0 < distance < 1e-3
    np.testing.assert_allclose(three["logit"], one["logit"], atol=1e-2)
    assert one["processes"] is None
    assert three["processes"] == [[0, WORLD]]


def test_a_run_may_go_on_with_another_number_of_processes_and_says_so(
    runs: list[dict[str, dict[str, Any]]],
) -> None:
    assert runs[0]["elastic"]["processes"] == [[0, 1], [8, WORLD]]
    np.testing.assert_allclose(runs[0]["elastic"]["logit"], runs[0]["whole"]["logit"], atol=1e-2)


def diverging(ranks: Ranks, log: Path, folder: Path) -> str:
    """Only the last process sees what is no number."""
    step = TrainingStep._loss

    def spoiled(self: TrainingStep, batch: Any, weight: torch.Tensor) -> torch.Tensor:
        loss = step(self, batch, weight)
        return loss * float("nan") if ranks.rank == 2 and self._number == 5 else loss

    TrainingStep._loss = spoiled  # type: ignore[method-assign]
    try:
        train(ranks, log, folder)
    except TrainingError as error:
        return str(error)
    finally:
        TrainingStep._loss = step  # type: ignore[method-assign]
    return "trained on"


def differing(ranks: Ranks, log: Path, folder: Path) -> str:
    """The second machine has other settings."""
    with pytest.raises(ArtifactError) as caught:
        train(ranks, log, folder, lr=0.5 if ranks.rank == 1 else 0.02)
    return str(caught.value)


def refusals(ranks: Ranks, log: Path, folder: Path) -> tuple[str, str]:
    return diverging(ranks, log, folder / "a"), differing(ranks, log, folder / "b")


def test_what_one_process_meets_stops_all(log: Path, tmp_path: Path) -> None:
    for diverged, differed in together(WORLD, refusals, log, tmp_path):
        assert diverged == "the loss is nan at step 5; lower train.lr or train.gradient_clip"
        assert differed == (
            "process 1 would train another run than process 0: different settings; all machines need the same "
            "params.yaml, code, versions and prepared data"
        )


def test_provenances_are_compared_with_the_first() -> None:
    class Three(Ranks):
        def all_of(self, value: Any) -> list[Any]:
            return [value, value, {**value, "code": "b", "versions": 2, "run": "y"}]

    check_same_run({"run": "x", "code": "a"}, ONE)
    with pytest.raises(ArtifactError, match=r"process 2 would .* different code, versions;"):
        check_same_run({"run": "x", "code": "a", "versions": 1}, Three(world=3))


def test_the_number_is_as_set_and_one_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(num_processes: Any, *, num_gpus: int = 0, device: str = "auto") -> int:
        monkeypatch.setattr("torch.cuda.is_available", lambda: num_gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
        return count_processes(params_of(num_processes=num_processes, device=device).train)

    assert (count("auto"), count(1), count(3)) == (1, 1, 3)
    assert (count("auto", num_gpus=4), count(2, num_gpus=4), count(8, num_gpus=4, device="cpu")) == (4, 2, 8)
    assert count("auto", num_gpus=4, device="cpu") == 1
    with pytest.raises(ConfigError, match=r"train\.num_processes: 5, but there are 4 GPUs here"):
        count(5, num_gpus=4)


@pytest.mark.parametrize("model", [{"norm": "batch"}, {"preset": "published"}])
def test_batch_norm_is_refused(model: dict[str, str]) -> None:
    params = params_of()
    params = params.model_copy(update={"model": params.model.model_copy(update=model)})
    check_processes(params, ONE)
    with pytest.raises(ConfigError, match=r"model\.norm: batch .* 2 processes.*use norm: rms"):
        check_processes(params, Ranks(world=2))


def test_another_number_than_was_set_is_refused_unless_runs_are_elastic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    check_processes(params_of(num_processes=2), Ranks(world=2))
    check_processes(params_of(num_processes="auto"), Ranks(world=2))
    check_processes(params_of(num_processes=3, elastic=True), Ranks(world=2))
    with pytest.raises(ConfigError, match=r"train\.num_processes: 3, but 2 were started \(WORLD_SIZE\)"):
        check_processes(params_of(num_processes=3), Ranks(world=2))
