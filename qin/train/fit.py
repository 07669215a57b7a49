"""Training from prepared files: what is fitted on the train fold, the run itself, and what it leaves."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.config import Params
from qin.metrics.definitions import LOG_LOSS, RANKING, Rows, values
from qin.metrics.logits import prior_logit, sigmoid
from qin.model.artifact import TrainedModel
from qin.model.build import build_model, choose_device, place
from qin.model.scoring import score_all
from qin.network.qin import QIN
from qin.prior import prior_offset
from qin.runtime.files import fingerprint
from qin.runtime.provenance import code_fingerprint, library_versions
from qin.scored import ScoredRows
from qin.shards.files import ShardReader
from qin.shards.folds import TRAIN, VALIDATION, Folds
from qin.shards.loader import iterate_in_order, read_labels
from qin.train.build import build_hard_negatives, build_loader, build_optimizer, build_settings
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows, resolve_neg_ratio, resolve_pos_weight
from qin.train.loop import Fit, FitResult, ValidationScores
from qin.train.memory import check_memory, memory_bytes
from qin.train.moments import numeric_moments


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Attributes:
        model: With the best epoch's weights.
        validation: Its logits of the validation fold.
        checkpoints: The run's own; whoever has written the outputs removes them.
        num_rows_seen: Rows trained on, over all epochs.
        figures: JSON values for `metrics/train.json`.
    """

    model: TrainedModel
    validation: ScoredRows
    checkpoints: CheckpointStore
    num_rows_seen: int
    figures: dict[str, Any]


def describe_run(params: Params, reader: ShardReader, fold: Folds, *, computed_by: str) -> dict[str, Any]:
    """All that a training run depends on, and its fingerprint as `run`; another one must not resume its checkpoint."""
    settings = {name: getattr(params, name).model_dump() for name in ("model", "imbalance", "hnm", "train")}
    for key in ("checkpoint_seconds", "checkpoint_steps"):  # when a state is saved does not change it
        del settings["train"][key]
    facts = {
        "settings": settings,
        "data": fingerprint(reader.manifest, hashlib.sha256(fold.tobytes()).hexdigest()),
        "code": code_fingerprint("qin/train/fit.py"),
        "versions": library_versions(),
        "computed_by": computed_by,
    }
    return {"run": fingerprint(facts), **facts}


@dataclass(frozen=True)
class _ValidationFold:
    """Scores a network on the validation rows.

    Attributes:
        reader: Prepared train file.
        is_selected: `(num_rows,)`.
        label: Of the selected rows.
        batch_size: Rows scored at a time.
        offset: What brings training logits to the natural scale.
    """

    reader: ShardReader
    is_selected: npt.NDArray[np.bool_]
    label: npt.NDArray[np.uint8]
    batch_size: int
    offset: float

    def logit(self, network: QIN) -> npt.NDArray[np.float32]:
        batches = iterate_in_order(self.reader, is_selected=self.is_selected, batch_size=self.batch_size)
        return score_all(network, batches, num_rows=self.label.size)

    def scores(self, network: QIN) -> ValidationScores:
        logit = self.logit(network)
        natural = logit.astype(np.float64) + self.offset
        loss = LOG_LOSS.statistic(Rows(natural, self.label))
        return ValidationScores(log_loss=loss, **values(RANKING, Rows(logit, self.label)))


def train(
    params: Params,
    reader: ShardReader,
    fold: Folds,
    *,
    checkpoints: Path,
    on_epoch: Callable[[list[dict[str, float]]], None],
) -> Trained:
    """Fit a model on the train fold, keep the epoch that is best on the validation fold.

    Args:
        params: Sections model, imbalance, hnm, train.
        reader: Prepared train file.
        fold: Fold of each row.
        checkpoints: Root folder of checkpoints.
        on_epoch: Called with the history after each epoch.

    Raises:
        ConfigError: If the model does not fit into memory.
        TrainingError: If the loss is not finite.
        ArtifactError: If a checkpoint is damaged, or their folder cannot be locked.
    """
    check_memory(reader.schema, params.model, available_bytes=memory_bytes(choose_device(params.train)))
    knobs, label, is_train = params.train, read_labels(reader), fold == TRAIN
    base_rate = float(label[is_train].mean())
    pos_weight = resolve_pos_weight(params.imbalance, label[is_train])
    neg_ratio, reweighted = resolve_neg_ratio(params.imbalance), params.imbalance.reweight_negatives
    device = choose_device(knobs)
    loader = build_loader(reader, knobs, device)
    rows = TrainingRows(loader, is_train, label, neg_ratio, pos_weight, knobs.seed, reweighted=reweighted)
    offset = prior_offset(pos_weight=pos_weight, neg_ratio=neg_ratio, reweighted=reweighted)
    is_val = fold == VALIDATION
    validation = _ValidationFold(reader, is_val, label[is_val], knobs.eval_batch_size, offset)
    network = _initial_network(params, reader, is_train, base_rate=base_rate, offset=offset)
    place(network, knobs)
    computed_by = f"{device.type} bf16" if network.use_bf16 else device.type
    provenance = describe_run(params, reader, fold, computed_by=computed_by)
    store = CheckpointStore(checkpoints, provenance["run"])
    store.claim()
    result = Fit(
        network,
        optimizer=build_optimizer(network, knobs),
        rows=rows,
        settings=build_settings(knobs),
        hard_negatives=build_hard_negatives(
            params.hnm, network, batch_size=knobs.batch_size, positive_share=rows.positive_share
        ),
        validate=validation.scores,
        checkpoints=store,
        on_epoch=on_epoch,
    ).run()
    facts: dict[str, Any] = {
        "train_base_rate": base_rate,
        "pos_weight": pos_weight,
        "neg_ratio": neg_ratio,
        "reweighted": reweighted,
    }
    figures = _figures(result, rows, network, base_rate)
    model = TrainedModel(network, reader.schema, params.model, {**provenance, **facts, "metrics": figures})
    scored = ScoredRows(row=np.flatnonzero(is_val), logit=validation.logit(network), label=validation.label, **facts)
    return Trained(model, scored, store, result.num_steps * knobs.batch_size, figures)


def _initial_network(
    params: Params, reader: ShardReader, is_train: npt.NDArray[np.bool_], *, base_rate: float, offset: float
) -> QIN:
    """The network before training, its output at the base rate as the weighted loss sees it."""
    moments = numeric_moments(reader, is_train)
    mean, std = moments.mean.tolist(), moments.std.tolist()
    network = build_model(reader.schema, params.model, mean=mean, std=std, seed=params.train.seed)
    network.set_base_rate(float(sigmoid(np.array([prior_logit(base_rate) - offset]))[0]))
    return network


def _figures(result: FitResult, rows: TrainingRows, network: QIN, base_rate: float) -> dict[str, Any]:
    best = result.history[result.best_epoch]
    return {
        "rows": {"train": int(rows.is_train.sum())},
        "base_rate": base_rate,
        "pos_weight": rows.pos_weight,
        "neg_ratio": rows.neg_ratio,
        "reweighted": rows.reweighted,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "num_steps": result.num_steps,
        "num_epochs": len(result.history),
        "best_epoch": result.best_epoch + 1,
        "train_loss": best["train_loss"],
        "val_log_loss": best["val_log_loss"],
        "val_ap": best["val_ap"],
        "val_auc": best["val_auc"],
    }
