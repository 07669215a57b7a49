"""The held-out run, which the selection half ends, and the run on all rows, which takes over what it has found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.config import Params, load_params
from qin.features.artifact import Statistics
from qin.features.joined import JoinedRows
from qin.metrics.logits import prior_logit
from qin.runtime.errors import TrainingError
from qin.scored.rows import ScoredRows
from qin.shards.files import ShardReader, ShardWriter, read_labels
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION
from qin.shards.row_facts import RowFacts
from qin.train import validation
from qin.train.fit import Trained, fit_model, refit_model
from qin.train.loop import Budget, LoopResult, TrainingLoop
from qin.train.moments import numeric_moments
from qin.train.statistics import fit_train_statistics
from qin.train.watch import Watch
from tests.planted import SCHEMA, write_planted
from tests.project import ROOT
from tests.train.runs import plain_params

NUM_ROWS = 3000
FOLD = np.repeat([TRAIN, VALIDATION, EXCLUDED], [1500, 1000, 500]).astype(np.uint8)[
    np.random.default_rng(3).permutation(NUM_ROWS)
]
IS_REPORT = np.random.default_rng(4).random(NUM_ROWS) < 0.5
UNIT = np.random.default_rng(5).integers(0, 2**63, NUM_ROWS).astype(np.uint64)


def settings(**changes: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    small = {"embedding_dim": 4, "attention_dim": 8, "num_layers": 1, "dropout": 0.1, "alternatives": []}
    knobs = {"lr": 0.02, "epochs": 2, "checks_per_epoch": 3, "batch_size": 100, "num_threads": 1, "precision": "fp32"}
    train = plain_params(**{**knobs, "refit": "all", **changes.pop("train", {})})
    model = params.model.model_copy(update=small)
    imbalance = params.imbalance.model_copy(update=changes)
    return params.model_copy(update={"train": train, "model": model, "imbalance": imbalance})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("refit") / "log", num_rows=NUM_ROWS)


def relabelled(reader: ShardReader, folder: Path, label: np.ndarray) -> ShardReader:
    """The same rows with other labels."""
    folder.mkdir()
    writer = ShardWriter(folder, reader.groups, num_rows=NUM_ROWS, shard_rows=1000)
    arrays = {group.name: reader.read(group.name, 0, NUM_ROWS) for group in reader.groups}
    writer.append({**arrays, "label": label.astype(np.uint8)[:, None]})
    writer.close(schema=SCHEMA)
    return ShardReader(folder)


def heldout(params: Params, reader: Any, folder: Path) -> tuple[Trained, ScoredRows]:
    return fit_model(params, reader, FOLD, is_report=IS_REPORT, checkpoints=folder, watch=Watch())


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.network.state_dict()


def same(first: Trained, second: Trained) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_the_report_half_decides_nothing(reader: ShardReader, tmp_path: Path) -> None:
    """With all its labels turned round weights, history and best step stay; with the selection half's they do not."""
    label, is_val = read_labels(reader), FOLD == VALIDATION
    first, scored = heldout(settings(), reader, tmp_path / "first")
    turned = relabelled(reader, tmp_path / "report", np.where(is_val & IS_REPORT, 1 - label, label))
    second, again = heldout(settings(), turned, tmp_path / "second")
    assert second.result == first.result
    assert same(first, second)
    assert np.array_equal(scored.logit, again.logit)
    assert not np.array_equal(scored.label, again.label)

    chosen = relabelled(reader, tmp_path / "selection", np.where(is_val & ~IS_REPORT, 1 - label, label))
    third, _ = heldout(settings(), chosen, tmp_path / "third")
    assert third.result.history != first.result.history
    assert third.result.best_step < first.result.best_step, "labels turned round are predicted best before training"


def test_scores_are_of_the_whole_validation_fold_by_the_best_state(reader: ShardReader, tmp_path: Path) -> None:
    trained, scored = heldout(settings(), reader, tmp_path)
    rows = np.flatnonzero(FOLD == VALIDATION)
    assert np.array_equal(scored.row, rows)
    assert np.array_equal(scored.label, read_labels(reader)[rows])
    assert np.array_equal(scored.is_report, IS_REPORT[rows])
    selection = scored.is_report == 0
    natural, label = scored.natural[selection], scored.label[selection]
    loss = float(np.mean(np.logaddexp(0.0, np.where(label == 1, -natural, natural))))
    assert trained.figures["val_log_loss"] == pytest.approx(loss, rel=1e-9)
    assert trained.figures["val_log_loss"] == min(record["val_log_loss"] for record in trained.result.history)
    assert trained.figures["best_step"] == trained.result.best_step
    assert trained.figures["num_checks"] == len(trained.result.history) == 6


def recorded_loops(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each loop is made with."""
    made = list[dict[str, Any]]()
    init = TrainingLoop.__init__

    def recording(self: TrainingLoop, model: Any, **arguments: Any) -> None:
        made.append(arguments)
        init(self, model, **arguments)

    monkeypatch.setattr(TrainingLoop, "__init__", recording)
    return made


def test_the_refit_takes_over_pace_and_weights_and_scales_the_steps(
    reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recorded_loops(monkeypatch)
    # Of all rows a 150th would be another power of two than of the train fold's.
    monkeypatch.setattr("qin.train.pace._STEPS_PER_EPOCH", 8)
    params = settings(
        pos_weight="auto",
        use_neg_downsampling=True,
        neg_downsample_ratio=0.5,
        reweight_negatives=False,
        train={"schedule": "plateau", "batch_size": "auto", "lr_scaling": "sqrt"},
    )
    first, _ = heldout(params, reader, tmp_path)
    plateaus = replace(first.result, best_step=7, plateau_steps=(3, 9))
    second = refit_model(params, reader, FOLD, heldout=replace(first, result=plateaus), checkpoints=tmp_path)

    label, both = read_labels(reader), FOLD != EXCLUDED
    train = FOLD == TRAIN

    def drawn(mask: np.ndarray) -> float:
        return int(label[mask].sum()) + 0.5 * int((label[mask] == 0).sum())

    growth = drawn(both) / drawn(train)
    assert 1.5 < growth < 1.9
    budget = Budget(num_steps=round(7 * growth), plateau_steps=(round(3 * growth), round(9 * growth)))
    assert made[1]["stop"] == budget
    assert second.result == LoopResult(budget.num_steps, budget.num_steps, [], budget.plateau_steps)
    assert second.pace == first.pace
    assert made[1]["rows"].loader.batch_size == first.pace.batch_size
    assert made[1]["optimizer"].param_groups[0]["lr"] <= first.pace.lr
    assert second.prior == replace(first.prior, base_rate=float(label[both].mean()))
    assert first.prior.pos_weight == pytest.approx((label[train] == 0).sum() / label[train].sum())
    assert np.array_equal(made[0]["rows"].is_train, train)
    assert np.array_equal(made[1]["rows"].is_train, both)
    assert second.figures["rows"] == {"train": 2500}
    assert "val_log_loss" not in second.figures, "nothing judges it"


def test_the_refit_starts_from_its_own_rows(
    reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments and base rate are those of both folds; the seed is that of the held-out run."""
    params = settings(train={"lr": 1e-30, "epochs": 1, "weight_decay": 0.0})
    first, _ = heldout(params, reader, tmp_path)
    second = refit_model(params, reader, FOLD, heldout=first, checkpoints=tmp_path)
    for trained, mask in ((first, FOLD == TRAIN), (second, FOLD != EXCLUDED)):
        moments = numeric_moments(reader, mask)
        normalizer = trained.network.normalizer
        torch.testing.assert_close(normalizer.mean, torch.tensor(moments.mean, dtype=normalizer.mean.dtype))
        base_rate = float(read_labels(reader)[mask].mean())
        assert trained.network.network.fc.bias.item() == pytest.approx(prior_logit(base_rate), rel=1e-5)
    assert torch.equal(first.network.embedding.embedding_table, second.network.embedding.embedding_table)


def test_a_refit_of_every_row_is_the_same_each_time(reader: ShardReader, tmp_path: Path) -> None:
    first, _ = heldout(settings(), reader, tmp_path)
    runs = [
        refit_model(settings(), reader, FOLD, heldout=first, checkpoints=tmp_path / name) for name in ("one", "two")
    ]
    assert same(*runs)
    assert not same(runs[0], first)
    assert runs[0].provenance["run"] == runs[1].provenance["run"] != first.provenance["run"]


def test_its_statistics_are_those_that_the_heldout_fit_kept(reader: ShardReader, tmp_path: Path) -> None:
    """In the same order, from the rows of both folds, so that the refitted network reads the same fields."""
    params, facts = settings(), RowFacts(UNIT, np.arange(NUM_ROWS), None)
    fields = params.features.statistics.model_copy(update={"drift_psi": 0.1, "pairs": [["shop", "item"]]})
    params = params.model_copy(update={"features": params.features.model_copy(update={"statistics": fields})})
    for name in ("heldout", "refit", "free"):
        (tmp_path / name).mkdir()
    report = fit_train_statistics(params, reader, FOLD == TRAIN, facts, tmp_path / "heldout")
    assert report.dropped
    assert report.kept, "the test would see nothing"
    both = FOLD != EXCLUDED
    fit_train_statistics(params, reader, both, facts, tmp_path / "refit", only=report.kept)
    fit_train_statistics(params, reader, both, facts, tmp_path / "free")
    schemas = {name: JoinedRows(reader, Statistics(tmp_path / name)).schema for name in ("heldout", "refit", "free")}
    assert schemas["refit"] == schemas["heldout"]
    assert schemas["free"] != schemas["heldout"], "these rows alone would decide otherwise"
    stored = []
    for name in ("heldout", "refit"):
        out = np.empty((NUM_ROWS, len(Statistics(tmp_path / name).names)), np.float32)
        Statistics(tmp_path / name).read_stored(0, out)
        stored.append(out)
    assert not np.array_equal(stored[0], stored[1])


def test_diverging_in_the_step_before_a_check_is_refused(reader: ShardReader, tmp_path: Path) -> None:
    params = settings(train={"lr": 1e38, "batch_size": 1500, "epochs": 1, "gradient_clip": None})
    with pytest.raises(TrainingError, match=r"not finite; lower train\.lr or train\.gradient_clip"):
        heldout(params, reader, tmp_path)


def test_another_division_into_halves_is_another_run(reader: ShardReader, tmp_path: Path) -> None:
    """A state that other rows have judged best must not be resumed, though the folds are the same."""
    first, _ = heldout(settings(), reader, tmp_path)
    second, _ = fit_model(settings(), reader, FOLD, is_report=~IS_REPORT, checkpoints=tmp_path, watch=Watch())
    assert first.provenance["run"] != second.provenance["run"]
    assert first.result.history != second.result.history


def test_a_check_scores_at_most_so_many_rows_of_both_classes(
    reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "_CHECK_ROWS", 50)
    label = np.zeros(NUM_ROWS, np.uint8)
    label[FOLD == TRAIN] = read_labels(reader)[FOLD == TRAIN]
    label[np.flatnonzero((FOLD == VALIDATION) & ~IS_REPORT)[-1]] = 1  # the last one, which even spacing would miss
    trained, _ = heldout(settings(train={"epochs": 1}), relabelled(reader, tmp_path / "log", label), tmp_path)
    assert all(0.0 <= record["val_auc"] <= 1.0 for record in trained.result.history)
