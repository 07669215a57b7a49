"""The fingerprint of a run changes with all that may change its result, and with nothing else."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel

from benchmarks.reference_log import write_log
from qin.config import Params, load_params
from qin.shards.files import ShardReader
from qin.shards.folds import Folds
from qin.train import fit
from qin.train.fit import describe_run
from qin.train.loop import Budget
from tests.project import ROOT

SECTIONS = ("model", "imbalance", "hnm", "train")
# What does not change the held-out run, whose checkpoint may so be resumed.
HARMLESS = {
    *(
        "train.checkpoint_seconds",
        "train.checkpoint_steps",
        "train.refit",
        "model.members",
        "model.seeds",
        "model.alternatives",
    ),
    *(
        "train.keep_optimizer",
        "train.init_from",  # the content of both is in `start`
        "train.init_optimizer",
        "train.num_processes",
        "train.launcher",
        "train.max_restarts",
        "train.elastic",
    ),  # the number of processes is in `computed by`
}
NUM_ROWS = 100
SELECTION = np.arange(NUM_ROWS) < 20


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("fit") / "log"
    write_log(folder, num_rows=NUM_ROWS, seed=0)
    return ShardReader(folder)


def run_of(
    params: Params,
    reader: ShardReader,
    *,
    fold: Folds | None = None,
    computed_by: str = "cpu",
    stop: npt.NDArray[np.bool_] | Budget = SELECTION,
) -> str:
    found = np.zeros(NUM_ROWS, np.uint8) if fold is None else fold
    return str(describe_run(params, reader, found, computed_by=computed_by, stop=stop)["run"])


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "code_fingerprint", lambda _: "same")  # reads files; test_provenance.py has its own


def another(section: BaseModel, key: str) -> Any:
    """A value that the setting does not have, and for a model may have."""
    value, annotation = getattr(section, key), type(section).model_fields[key].annotation
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    return next((choice for choice in get_args(annotation) if isinstance(choice, str) and choice != value), "changed")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_setting_counts(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml")
    runs = {"as it is": run_of(params, reader)}
    for name in SECTIONS:
        section = getattr(params, name)
        for key in type(section).model_fields:
            changed: Any = section.model_copy(update={key: another(section, key)})
            run = run_of(params.model_copy(update={name: changed}), reader)
            if f"{name}.{key}" in HARMLESS:
                assert run == runs["as it is"], key
            else:
                runs[f"{name}.{key}"] = run
    runs["computed by"] = run_of(params, reader, computed_by="cpu bf16")
    runs["folds"] = run_of(params, reader, fold=np.eye(1, NUM_ROWS, dtype=np.uint8)[0])
    runs["rows that decide"] = run_of(params, reader, stop=~SELECTION)
    runs["budget"] = run_of(params, reader, stop=Budget(num_steps=7))
    runs["steps"] = run_of(params, reader, stop=Budget(num_steps=8))
    runs["plateaus"] = run_of(params, reader, stop=Budget(num_steps=8, plateau_steps=(3,)))
    monkeypatch.setattr(fit, "library_versions", lambda: {"torch": "another"})
    runs["versions"] = run_of(params, reader)
    monkeypatch.setattr(fit, "code_fingerprint", lambda _: "another")
    runs["code"] = run_of(params, reader)
    assert len(set(runs.values())) == len(runs) > 40


def test_other_data_is_another_run(reader: ShardReader, tmp_path: Path) -> None:
    write_log(tmp_path / "same", num_rows=NUM_ROWS, seed=0)
    write_log(tmp_path / "other", num_rows=NUM_ROWS, seed=1)
    params = load_params(ROOT / "params.yaml")
    assert run_of(params, ShardReader(tmp_path / "same")) == run_of(params, reader)
    assert run_of(params, ShardReader(tmp_path / "other")) != run_of(params, reader)
