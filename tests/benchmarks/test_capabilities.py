"""Capabilities are switched off one at a time, only what a log has, and no run is made twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks import capabilities
from benchmarks.ablation import PROFILE, summary
from benchmarks.capabilities import VARIANTS, variants_of, with_members_alone
from benchmarks.profile import CAPABILITIES, changed, example
from benchmarks.tables_accuracy import capability_table
from qin.config import Params, load_params
from qin.experiments.trial import Trial, Trials

TINY = {
    "features": {"num_buckets": 256, "num_buckets_of": {}},
    "split": {"val_ratio": 0.3},
    "model": {"embedding_dim": 4, "attention_dim": 8, "num_layers": 1},
    "train": {"epochs": 1, "num_threads": 1},
    "trees": {"max_rounds": 5},
}


@pytest.fixture
def base(tmp_path: Path) -> Params:
    return load_params(example(tmp_path))


def test_a_variant_that_changes_nothing_is_left_out(base: Params) -> None:
    assert base.features.impression.key is None
    assert "no impressions" not in variants_of(base, None)
    with_key = changed(base, {"features.impression.key": ["hour"]}, seed=0)
    assert "no impressions" in variants_of(with_key, None)
    without = changed(base, {"features.matches": False}, seed=0)
    assert {"no matches"} == set(variants_of(base, None)) - set(variants_of(without, None))


def test_every_variant_obeys_the_rules(base: Params) -> None:
    for changes in variants_of(base, None).values():
        assert changed(base, {**changes, "trees.seed": 3}, seed=3).trees.seed == 3


def test_unknown_variants_are_refused(base: Params) -> None:
    with pytest.raises(typer.BadParameter, match="no such variant: nonsense"):
        variants_of(base, ["nonsense", PROFILE])


def test_members_by_themselves_are_compared_with_their_blend() -> None:
    def run(blend: float) -> dict[str, dict[str, float]]:
        of = {"blend": blend, "network": blend - 0.1, "trees": blend - 0.2}
        return {name: {"auc": value, "ap": value / 2} for name, value in of.items()}

    table = summary(with_members_alone({"other": {"0": run(0.6)}, PROFILE: {"0": run(0.7), "1": run(0.8)}}))
    assert list(table) == [PROFILE, "network alone", "trees alone", "other"]
    assert table["trees alone"]["auc_gain"] == pytest.approx(-0.2)
    assert table["network alone"]["ap_gain"] == pytest.approx(-0.05)
    assert table["other"]["auc_gain"] == pytest.approx(-0.1)


@pytest.mark.slow
def test_runs_are_made_once_and_share_what_they_have_in_common(
    tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay, out = tmp_path / "tiny.yaml", tmp_path / f"{CAPABILITIES}tiny.json"
    overlay.write_text(yaml.safe_dump(TINY))
    trials = []

    def run_trial(self: Trials, params: Params, **options: Any) -> Trial:
        trials.append(real(self, params, **options))
        return trials[-1]

    real = Trials.run
    monkeypatch.setattr(Trials, "run", run_trial)
    variants = [PROFILE, "no matches", "no statistics", "batch of 1024"]

    def run() -> None:
        capabilities.main([f"tiny={small_log},{overlay}"], out=tmp_path, seeds=1, only=variants)

    run()
    ran = [trial.ran for trial in trials]
    whole = ("prepare", "split", "train", "trees")
    # The trees that set the limit are found, statistics need no other files, a batch size does not touch the trees.
    assert ran == [whole, (), ("prepare", "train", "trees"), ("train", "trees"), ("train",)]
    result = json.loads(out.read_text())
    assert list(result["runs"]) == [name for name in VARIANTS if name in variants]
    (default,) = result["runs"][PROFILE].values()
    assert 0.0 < default["blend"]["auc"] < 1.0
    assert sum(default["weights"].values()) == pytest.approx(1.0)
    difference = default["blend"]["auc"] - default["trees"]["auc"]
    assert default["blend_over"]["trees"]["auc"] == pytest.approx(difference)
    assert result["runs"]["batch of 1024"]["0"]["trees"] == default["trees"]
    assert result["runs"]["no statistics"]["0"]["trees"] != default["trees"]
    assert "| trees alone | 1 |" in capability_table(result)
    run()
    assert len(trials) == len(ran)
    assert json.loads(out.read_text()) == result


@pytest.mark.parametrize("word", ["data", "=data", "name="])
def test_a_log_needs_a_name_and_a_folder(word: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="expected NAME=FOLDER"):
        capabilities.main([word], out=tmp_path)
