"""Training with divided tables: the run of whole ones to rounding, resumed to the same bytes, written whole."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.config import Params
from qin.distributed.ranks import ONE, Ranks
from qin.model import build
from qin.model.artifact import TrainedModel, load_model, save_model
from qin.network.sharded import divided_tables
from qin.runtime.errors import ConfigError
from qin.shards.files import ShardReader
from qin.train.fit import Trained, fit_model, refit_model
from qin.train.loop import TrainingLoop
from qin.train.processes import check_processes
from qin.train.watch import SILENT
from tests.planted import write_planted
from tests.together import together
from tests.train.test_processes import StoppedError
from tests.train.test_refit import FOLD, IS_REPORT, NUM_ROWS, settings

KNOBS = {"checkpoint_steps": 4, "gradient_clip": 1.0, "elastic": True}


def params_of(**changes: Any) -> Params:
    params = settings(train={**KNOBS, **changes})
    model = params.model.model_copy(update={"separate_attention_embedding": True, "min_count": 2})
    return params.model_copy(update={"model": model})


def train(ranks: Ranks, log: Path, folder: Path, *, stop_at: int | None = None, **changes: Any) -> dict[str, Any]:
    """The held-out run and the refit; with `stop_at`, all processes end before that step."""
    step, limit = TrainingLoop._train_step, build.SPARSE_TABLE_ROWS

    def stopping(self: TrainingLoop, batch: Any) -> None:
        if self._state.step == stop_at:
            raise StoppedError
        step(self, batch)

    TrainingLoop._train_step = stopping  # type: ignore[method-assign]
    build.SPARSE_TABLE_ROWS = 0  # so that whole tables are updated row by row, as divided ones are
    params, reader, options = (
        params_of(**changes),
        ShardReader(log),
        dict[str, Any]({"checkpoints": folder, "ranks": ranks}),
    )
    try:
        heldout, scored = fit_model(params, reader, FOLD, is_report=IS_REPORT, watch=SILENT, **options)
        refit = refit_model(params, reader, FOLD, heldout=heldout, **options)
    except StoppedError:
        return {}
    finally:
        TrainingLoop._train_step = step  # type: ignore[method-assign]
        build.SPARSE_TABLE_ROWS = limit
    return described(heldout, scored.logit, refit, folder, params, rank=ranks.rank)


def described(
    heldout: Trained, logit: np.ndarray, refit: Trained, folder: Path, params: Params, *, rank: int
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "logit": logit,
        "history": heldout.result.history,
        "processes": refit.figures.get("processes"),
    }
    found |= {"num_parameters": heldout.figures["num_parameters"], "divided": len(divided_tables(refit.network))}
    if rank:
        return found
    for name, run in (("heldout", heldout), ("refit", refit)):
        state = run.network.state_dict()
        found[name] = {key: value.numpy().copy() for key, value in state.items()}
        found[f"{name} digest"] = hashlib.sha256(
            b"".join(value.tobytes() for value in found[name].values())
        ).hexdigest()
    left = [file.name for file in folder.rglob("*") if file.is_file() and file.suffix not in (".pt", ".lock")]
    saved = folder / "model"
    saved.mkdir()
    facts = {**refit.provenance, "note": "test"}
    schema = ShardReader(folder.parent / "log").schema
    save_model(saved, TrainedModel((refit.network,), schema, params.model.network, facts))
    again = load_model(saved).networks[0].state_dict()
    assert all(torch.equal(again[key], value) for key, value in refit.network.state_dict().items())
    return {**found, "left": left}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("divided")
    write_planted(root / "log", num_rows=NUM_ROWS)
    return root


def several(ranks: Ranks, root: Path) -> dict[str, dict[str, Any]]:
    """Whole tables and divided ones; a divided run that is stopped between checkpoints and goes on."""
    log, own = root / "log", f"{ranks.world} "
    found = {}
    for name, changes in (("whole", {}), ("divided", {"shard_tables": True})):
        (root / (own + name)).mkdir(exist_ok=True)
        ranks.wait()
        found[name] = train(ranks, log, root / (own + name), **changes)
    train(ranks, log, root / f"{own}stopped", stop_at=9, shard_tables=True)
    ranks.wait()
    found["resumed"] = train(ranks, log, root / f"{own}stopped", shard_tables=True)
    train(ranks, log, root / f"{own}to other", stop_at=9, shard_tables=True)
    return found


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {world: together(world, several, folder) for world in (2, 3)}


@pytest.mark.parametrize("world", [2, 3])
def test_it_is_the_run_of_whole_tables_to_rounding(runs: dict[int, list[dict[str, Any]]], world: int) -> None:
    whole, divided = runs[world][0]["whole"], runs[world][0]["divided"]
    assert [one["divided"]["divided"] for one in runs[world]] == [0, *[2] * (world - 1)]
    assert divided["num_parameters"] == whole["num_parameters"]
    for record, reference in zip(divided["history"], whole["history"], strict=True):
        assert record == pytest.approx(reference, rel=1e-4)
    for name in ("heldout", "refit"):
        assert divided[name].keys() == whole[name].keys()
        for key, value in whole[name].items():
            ours, expected = (array.astype(np.float64).ravel() for array in (divided[name][key], value))
            assert np.linalg.norm(ours - expected) <= 1e-3 * np.linalg.norm(expected), key
    np.testing.assert_allclose(divided["logit"], whole["logit"], atol=1e-2)
    assert np.ptp(whole["logit"]) > 1.0, "nothing was learned"
    for one in runs[world]:
        np.testing.assert_array_equal(one["divided"]["logit"], divided["logit"])


@pytest.mark.parametrize("world", [2, 3])
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(runs: dict[int, list[dict[str, Any]]], world: int) -> None:
    resumed, divided = runs[world][0]["resumed"], runs[world][0]["divided"]
    for name in ("heldout digest", "refit digest", "history"):
        assert resumed[name] == divided[name]
    assert resumed["left"] == []


def going_on(ranks: Ranks, root: Path) -> dict[str, Any]:
    return train(ranks, root / "log", root / "3 to other", shard_tables=True)


def test_a_run_goes_on_with_another_number_of_processes(runs: dict[int, list[dict[str, Any]]], folder: Path) -> None:
    found, expected = together(2, going_on, folder)[0], runs[3][0]["divided"]
    assert found["history"][0] == pytest.approx(expected["history"][0], rel=1e-4)
    np.testing.assert_allclose(found["logit"], expected["logit"], atol=1e-2)
    for name in ("heldout", "refit"):
        for key, value in expected[name].items():
            np.testing.assert_allclose(found[name][key], value, atol=2e-3, rtol=2e-3, err_msg=key)


def test_it_is_refused_where_one_process_trains() -> None:
    params = params_of(shard_tables=True, num_processes="auto")
    with pytest.raises(ConfigError, match=r"train\.shard_tables: true divides embedding tables among processes, and"):
        check_processes(params, ONE)
