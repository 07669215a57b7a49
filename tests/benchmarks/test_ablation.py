"""Differences of the ablation are paired by seed."""

from pathlib import Path

import pytest

from benchmarks.ablation import VARIANTS, summary
from benchmarks.profile import changed, example
from qin.config import load_params

PROFILES = ((), ("kuairand/params",), ("kuairand/params", "kuairand/liked"))


def run(auc: float) -> dict[str, float]:
    return {"auc": auc, "ap": auc / 2}


def test_only_common_seeds_are_compared() -> None:
    table = summary(
        {
            "profile": {"0": run(0.70), "1": run(0.72), "2": run(0.50)},
            "one seed": {"1": run(0.75)},
            "two seeds": {"0": run(0.71), "1": run(0.75), "3": run(0.9)},
        }
    )
    assert "auc_gain" not in table["profile"]
    assert table["one seed"]["auc_gain"] == pytest.approx(0.03)
    assert "auc_gain_se" not in table["one seed"]
    assert table["two seeds"]["auc"] == pytest.approx((0.71 + 0.75 + 0.9) / 3)
    assert table["two seeds"]["auc_gain"] == pytest.approx(0.02)
    assert table["two seeds"]["ap_gain_se"] == pytest.approx(0.005)


@pytest.mark.parametrize("overlays", PROFILES)
def test_every_variant_fits_every_profile(overlays: tuple[str, ...], tmp_path: Path) -> None:
    base = load_params(example(tmp_path, *overlays))
    for changes in VARIANTS.values():
        assert changed(base, changes, seed=1).train.seed == 1
