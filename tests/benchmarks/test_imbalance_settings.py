"""The table of imbalance settings has every one of them, and goes on with what its file has."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import ablation, imbalance_settings
from benchmarks.ablation import PROFILE
from benchmarks.imbalance_settings import VARIANTS
from benchmarks.profile import changed
from benchmarks.tables_accuracy import settings_table
from qin.config import load_params
from qin.train.selection import MiningMode
from tests.project import ROOT


def test_every_switch_and_mode_is_tried() -> None:
    base = load_params(ROOT / "params.yaml")
    tried = {(key, value) for changes in VARIANTS.values() for key, value in changes.items()}
    assert {value for key, value in tried if key == "hnm.mode"} == set(get_args(MiningMode))
    assert {key for key, _ in tried} >= {
        "imbalance.use_neg_downsampling",
        "imbalance.reweight_negatives",
        "imbalance.pos_weight",
        "hnm.enable",
    }
    for name, changes in VARIANTS.items():
        assert (changed(base, changes, seed=base.train.seed) == base) == (name == PROFILE)


def test_the_file_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, int]] = []

    def fit(params: Any, *_: Any) -> tuple[None, dict[str, float]]:
        made.append((params.imbalance.pos_weight, params.train.seed))
        return None, {"auc": 0.7, "ap": 0.1, "log_loss": 0.09}

    for name, stub in {"fit_network": fit, "prepare": lambda *_: None, "open_log": lambda *_: None}.items():
        monkeypatch.setattr(ablation, name, stub)
    arguments = {"data": tmp_path, "params": ROOT / "params.yaml", "out": tmp_path / "out.json"}
    imbalance_settings.main(**arguments, seeds=1, only=["profile", "pos_weight 5"])
    imbalance_settings.main(**arguments, seeds=2, only=["pos_weight 5"])
    assert made == [(None, 0), (5.0, 0), (5.0, 1)]
    result = json.loads((tmp_path / "out.json").read_text())
    table = settings_table(result).splitlines()
    assert table[2:] == [
        "| profile | 1 | 0.7000 |  | 0.1000 |  | 0.0900 |",
        "| pos_weight 5 | 2 | 0.7000 | +0.0000 | 0.1000 | +0.0000 | 0.0900 |",
    ]
