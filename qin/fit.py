"""Training from prepared files: what is fitted on the train fold, the run itself, and what it leaves."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qin.artifacts import fingerprint
from qin.build import (
    build_hard_negatives,
    build_loader,
    build_model,
    build_optimizer,
    build_settings,
    resolve_neg_ratio,
    resolve_pos_weight,
)
from qin.calibration import prior_offset
from qin.checkpoint import CheckpointStore, code_fingerprint
from qin.config import Params
from qin.data.folds import TRAIN, VALIDATION, Folds
from qin.data.loader import iterate_in_order, read_labels
from qin.data.numeric import NumericMoments
from qin.data.shards import ShardReader
from qin.inference import TrainedModel, library_versions, score_all
from qin.metrics import log_losses, ranking_metrics
from qin.model.qin import QIN
from qin.scored import ScoredRows
from qin.training import Fit, FitResult, TrainingRows, ValidationScores

_CHUNK_ROWS = 65536


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Attributes:
        model: With the best epoch's weights.
        validation: Its logits of the validation fold.
        num_rows_seen: Rows trained on, over all epochs.
        figures: JSON values for `metrics/train.json`.
    """

    model: TrainedModel
    validation: ScoredRows
    num_rows_seen: int
    figures: dict[str, Any]


def numeric_moments(reader: ShardReader, is_train: npt.NDArray[np.bool_]) -> NumericMoments:
    """Mean and deviation of each numeric field's signed log over the train fold, in one pass."""
    moments = NumericMoments(len(reader.schema.numeric))
    for start in range(0, reader.num_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, reader.num_rows)
        moments.update(reader.read("numeric", start, stop)[is_train[start:stop]])
    return moments


def run_name(params: Params, reader: ShardReader, fold: Folds) -> str:
    """Fingerprint of all that a training run depends on; another one must not resume its checkpoint."""
    sections = {name: getattr(params, name).model_dump() for name in ("model", "imbalance", "hnm", "train")}
    del sections["train"]["checkpoint_seconds"]  # when a state is saved does not change it
    folds = hashlib.sha256(fold.tobytes()).hexdigest()
    return fingerprint(sections, reader.manifest, folds, code_fingerprint(), library_versions())


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
        checkpoints: Root folder of checkpoints; the run's own is removed at the end.
        on_epoch: Called with the history after each epoch.

    Raises:
        TrainingError: If the loss is not finite.
        ArtifactError: If a checkpoint is damaged.
    """
    label, is_train, is_val = read_labels(reader), fold == TRAIN, fold == VALIDATION
    moments = numeric_moments(reader, is_train)
    schema, knobs = reader.schema, params.train
    network = build_model(schema, params.model, mean=moments.mean.tolist(), std=moments.std.tolist(), seed=knobs.seed)
    pos_weight = resolve_pos_weight(params.imbalance, label[is_train])
    rows = TrainingRows(
        build_loader(reader, knobs), is_train, label, resolve_neg_ratio(params.imbalance), pos_weight, knobs.seed
    )
    base_rate = float(label[is_train].mean())
    network.set_base_rate(base_rate * pos_weight / (base_rate * pos_weight + 1 - base_rate))
    val_label = label[is_val]

    def val_logit(model: QIN) -> npt.NDArray[np.float32]:
        batches = iterate_in_order(reader, is_selected=is_val, batch_size=knobs.eval_batch_size)
        return score_all(model, batches, num_rows=val_label.size)

    def validate(model: QIN) -> ValidationScores:
        logit = val_logit(model)
        offset = prior_offset(pos_weight=pos_weight, neg_ratio=1.0, reweighted=True)
        of_clicks, of_others = log_losses(logit, val_label, offset=offset)
        loss = float(np.average([of_others, of_clicks], weights=np.bincount(val_label)))
        return ValidationScores(log_loss=loss, **ranking_metrics(logit, val_label))

    name = run_name(params, reader, fold)
    store = CheckpointStore(checkpoints, name)
    result = Fit(
        network,
        optimizer=build_optimizer(network, knobs),
        rows=rows,
        settings=build_settings(knobs),
        hard_negatives=build_hard_negatives(params.hnm),
        validate=validate,
        checkpoints=store,
        on_epoch=on_epoch,
    ).run()
    provenance = {
        "run": name,
        "versions": library_versions(),
        "best_epoch": result.best_epoch + 1,
        "train_base_rate": base_rate,
        "pos_weight": pos_weight,
    }
    model = TrainedModel(network, schema, params.model, provenance)
    validation = ScoredRows(
        row=np.flatnonzero(is_val),
        logit=val_logit(network),
        label=val_label,
        train_base_rate=base_rate,
        pos_weight=pos_weight,
    )
    return Trained(model, validation, result.num_steps * knobs.batch_size, _figures(result, rows, network, base_rate))


def _figures(result: FitResult, rows: TrainingRows, network: QIN, base_rate: float) -> dict[str, Any]:
    best = result.history[result.best_epoch]
    return {
        "rows": {"train": int(rows.is_train.sum())},
        "base_rate": base_rate,
        "pos_weight": rows.pos_weight,
        "neg_ratio": rows.neg_ratio,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "num_steps": result.num_steps,
        "num_epochs": len(result.history),
        "best_epoch": result.best_epoch + 1,
        "train_loss": best["train_loss"],
        "val_log_loss": best["val_log_loss"],
        "val_ap": best["val_ap"],
        "val_auc": best["val_auc"],
    }
