"""What tests of the training loop share: settings without surprises."""

from typing import Any

from qin.config import TrainParams, load_params
from tests.project import ROOT


def plain_params(**changes: Any) -> TrainParams:
    """One epoch at a constant rate, nothing clipped, averaged or saved; with changes."""
    plain: dict[str, Any] = {
        "seed": 5,
        "epochs": 1,
        "checks_per_epoch": 1,
        "patience": 1000,
        "lr": 1.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "gradient_clip": None,
        "ema_decay": None,
        "self_ensemble": 0.0,
        "refit": "none",
        "checkpoint_seconds": 1e9,
        "checkpoint_steps": None,
    }
    return load_params(ROOT / "params.yaml").train.model_copy(update={**plain, **changes})
