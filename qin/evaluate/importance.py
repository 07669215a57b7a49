"""Which fields the model uses: how much worse it scores when a field is taken from another row.

A row's field is replaced by that of a donor, a random row of the same fold, so that the field keeps its distribution
and loses its bond with the click and with the other fields; a sequence is replaced whole. The rise of the mean log loss
is the field's importance, with its standard error paired row by row. It is the importance to this model: of two fields
that say the same, each may look dispensable.

For the most important fields, pairs are replaced together from the same donor. What the two lose beyond the sum of
each alone is their interaction in the loss, negative where one can stand in for the other.

Clicks are rare, so half of the sampled rows are clicks where the fold has them, and each class has its own mean,
weighted with its share of the fold: the figures are those of the fold, with the error of many clicks. Donors are drawn
from all rows alike.

Source: Breiman (2001), Random forests, section 10; Fisher, Rudin and Dominici (2019), All models are wrong, but many
are useful, section 3 (model reliance); Liu and Owen (2006), Estimating mean dimensionality of analysis of variance
decompositions (joint replacement of a set of variables).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from qin.columns.schema import FieldKind, Schema
from qin.config import Params
from qin.evaluate.curves import Row
from qin.evaluate.fold import ReportHalf
from qin.members import Members
from qin.metrics.definitions import AUC, Rows
from qin.metrics.logits import Float64Array, FloatArray, IntArray, LabelArray
from qin.metrics.ranking import ranking_counts
from qin.metrics.standard_errors import standard_error
from qin.runtime.errors import FewClicksError
from qin.runtime.progress import Progress
from qin.runtime.seeds import IMPORTANCE_SALT
from qin.shards.files import RowReader
from qin.shards.loader import Batch, read_batch

MIN_CLASS_ROWS = 2
COLUMNS = (
    "name",
    "kind",
    "rank",
    "log_loss_rise",
    "log_loss_rise_se",
    "auc_drop",
    "auc_drop_se",
    "ap_drop",
)
NUM_PAIRED_FIELDS = 8  # 28 pairs, each a pass over the sampled rows


Scorer = Callable[[Batch], FloatArray]
Calibration = Callable[[FloatArray, IntArray], Float64Array]


def fold_importance(
    reader: RowReader,
    rows: IntArray,
    label: LabelArray,
    *,
    score: Scorer,
    calibrate: Calibration,
    max_rows: int,
    seed: int,
) -> list[Row]:
    """Read a bounded number of a fold's rows and measure every field on them.

    Args:
        reader: The prepared file.
        rows: Ascending row numbers of the fold, `(num_rows,)`.
        label: Their labels.
        score: Training-scale logits `(n,)` of a batch of n rows.
        calibrate: What turns logits `(n,)` into calibrated ones, given the rows' positions in the fold `(n,)`.
        max_rows: Rows to sample at most; as many are read as donors.
        seed: Seed of the draw.

    Returns:
        See `permutation_importance`.

    Raises:
        ValueError: See `draw_rows`.
    """
    drawn = draw_rows(label, max_rows=max_rows, seed=seed)
    sampled = read_batch(reader, rows[drawn.sampled])
    # Donors are read in the file's order, then put back into that of the draw, which pairs them with the sampled rows.
    order = torch.from_numpy(np.argsort(np.argsort(drawn.donor)))
    donor = read_batch(reader, rows[np.sort(drawn.donor)]).take(order)
    return permutation_importance(
        lambda batch: calibrate(score(batch), drawn.sampled),
        sampled,
        donor,
        schema=reader.schema,
        base_rate=float(label.mean()),
    )


@dataclass(frozen=True)
class SampledRows:
    """Positions in a fold, each array of shape (n,).

    Attributes:
        sampled: Ascending, clicks over-represented.
        donor: The row that each sampled row takes a field from; each row is a donor at most once.
    """

    sampled: IntArray
    donor: IntArray


def draw_rows(label: LabelArray, *, max_rows: int, seed: int) -> SampledRows:
    """Draw the sampled rows of a fold, at most half of them clicks unless other rows run out, and their donors.

    Args:
        label: `(num_rows,)` in {0, 1}.
        max_rows: Rows to sample at most; at least four, so that there is an error to estimate.
        seed: Seed of the draw.

    Raises:
        ValueError: `max_rows` is less than four.
    """
    if max_rows < 4:
        raise ValueError(f"max_rows must be at least 4: {max_rows=}")
    generator = np.random.default_rng((seed, IMPORTANCE_SALT))
    num_rows = min(max_rows, label.size)
    clicks, others = np.flatnonzero(label == 1), np.flatnonzero(label != 1)
    # Half of the rows, or what there is; more only where the other rows are too few to fill the sample.
    num_clicks = max(min(clicks.size, num_rows // 2), num_rows - others.size)
    drawn = (
        generator.choice(clicks, num_clicks, replace=False),
        generator.choice(others, num_rows - num_clicks, replace=False),
    )
    return SampledRows(np.sort(np.concatenate(drawn)), generator.choice(label.size, num_rows, replace=False))


@dataclass(frozen=True)
class _Effect:
    """What a replacement does to the figures.

    Attributes:
        log_loss: Rise of each row's loss, (n,).
        auc_influence: Each row's contribution to the error of the drop, (n,).
        auc: Drop of the AUC.
        ap: Drop of the AP.
    """

    log_loss: Float64Array
    auc_influence: Float64Array
    auc: float
    ap: float

    def __sub__(self, other: "_Effect") -> "_Effect":
        return _Effect(
            self.log_loss - other.log_loss,
            self.auc_influence - other.auc_influence,
            self.auc - other.auc,
            self.ap - other.ap,
        )


class _FoldFigures:
    """Turns logits of the sampled rows into figures of the fold."""

    def __init__(self, logit: Float64Array, label: LabelArray, *, base_rate: float) -> None:
        self._is_positive = label == 1
        self._sign = np.where(self._is_positive, -1.0, 1.0)
        num_positives = int(self._is_positive.sum())
        self._weight = base_rate / num_positives, (1.0 - base_rate) / (label.size - num_positives)
        self._label = label
        self._loss = self._losses(logit)
        self._auc = AUC.estimate(Rows(logit, label))
        self._ap = self._average_precision(logit)

    def effect(self, logit: Float64Array) -> _Effect:
        auc = AUC.estimate(Rows(logit, self._label))
        return _Effect(
            self._losses(logit) - self._loss,
            self._auc.influence - auc.influence,
            self._auc.value - auc.value,
            self._ap - self._average_precision(logit),
        )

    def figures(self, effect: _Effect) -> dict[str, float]:
        influence = effect.log_loss * np.where(self._is_positive, *self._weight)
        # Sizes of the classes are chosen and not drawn, so only what varies within a class is error.
        for of_class in (self._is_positive, ~self._is_positive):
            influence[of_class] -= influence[of_class].mean()
        errors = [standard_error(array, self._is_positive) for array in (influence, effect.auc_influence)]
        assert errors[0] is not None, "both classes have two rows"
        assert errors[1] is not None
        return {
            "log_loss_rise": float(np.dot(effect.log_loss, np.where(self._is_positive, *self._weight))),
            "log_loss_rise_se": errors[0],
            "auc_drop": effect.auc,
            "auc_drop_se": errors[1],
            "ap_drop": effect.ap,
        }

    def _losses(self, logit: Float64Array) -> Float64Array:
        return np.logaddexp(0.0, self._sign * logit)

    def _average_precision(self, logit: Float64Array) -> float:
        """AP with each class weighted to its share of the fold."""
        counts = ranking_counts(logit, self._label)
        true = counts.true_positives() * self._weight[0]
        precision = true / (true + counts.false_positives() * self._weight[1])
        return float(np.dot(counts.num_positives_at, precision) / counts.num_positives_at.sum())


def permutation_importance(
    score: Callable[[Batch], Float64Array], sampled: Batch, donor: Batch, *, schema: Schema, base_rate: float
) -> list[Row]:
    """Replace each field in turn, then the pairs of the most important ones.

    Args:
        score: Calibrated logits, float64 `(n,)`, of a batch of n rows.
        sampled: The rows to measure on, with labels of both classes, two each at least.
        donor: The rows that they take fields from, in the same order.
        schema: Names of the fields.
        base_rate: Click rate of the fold that `sampled` stands for.

    Returns:
        Rows of the keys `COLUMNS`: `kind` is `field`, or `pair` where every figure is what the pair loses beyond the
        sum of the two alone; `rank` counts from 1 by descending `log_loss_rise`, for pairs by its absolute value.
        Drops of AUC and AP are positive where the ranking gets worse.
    """
    assert sampled.label is not None
    fold = _FoldFigures(score(sampled), sampled.label.numpy(), base_rate=base_rate)
    places = _places(schema)
    num_paired = min(NUM_PAIRED_FIELDS, len(places))
    num_scored = len(places) + num_paired + num_paired * (num_paired - 1) // 2
    with Progress(num_scored, label="importance", unit="fields and pairs") as progress:

        def effect(*names: str) -> _Effect:
            progress.advance(1)
            return fold.effect(score(_replaced(sampled, donor, [places[name] for name in names])))

        fields = [(name, fold.figures(effect(name))) for name in places]
        fields.sort(key=lambda field: -field[1]["log_loss_rise"])
        chosen = {name for name, _ in fields[:num_paired]}
        alone = {name: effect(name) for name in places if name in chosen}  # in one order, so that revisions pair alike
        pairs = [
            (f"{first} x {second}", fold.figures(effect(first, second) - alone[first] - alone[second]))
            for first, second in combinations(alone, 2)
        ]
    pairs.sort(key=lambda pair: -abs(pair[1]["log_loss_rise"]))
    return [*_rows("field", fields), *_rows("pair", pairs)]


def _rows(kind: str, ranked: list[tuple[str, dict[str, float]]]) -> Iterator[Row]:
    for rank, (name, figures) in enumerate(ranked, start=1):
        yield {"name": name, "kind": kind, "rank": rank, **figures}


def _places(schema: Schema) -> dict[str, tuple[int, slice]]:
    """Each field's tensor, counted as in `Batch.tensors`, and its columns there."""
    places: dict[str, tuple[int, slice]] = {}
    for tensor, kind in enumerate((FieldKind.CATEGORICAL, FieldKind.NUMERIC)):
        for column, field in enumerate(schema.of_kind(kind)):
            places[field.name] = tensor, slice(column, column + 1)
    for number, field in enumerate(schema.sequences):
        places[field.name] = 2 + number, slice(None)
    return places


def _replaced(sampled: Batch, donor: Batch, places: list[tuple[int, slice]]) -> Batch:
    tensors, sources = sampled.tensors, donor.tensors
    for tensor in {tensor for tensor, _ in places}:
        # What is changed alone: the sampled rows are used again, and histories are most of them.
        tensors[tensor] = torch.clone(tensors[tensor])
    for tensor, columns in places:
        tensors[tensor][:, columns] = sources[tensor][:, columns]
    return sampled.with_tensors(tensors)


def field_importance(params: Params, half: ReportHalf, *, reader: RowReader, fold: int = 1) -> list[Row]:
    """The importance of each field to the model, as it was before any refit; see `qin.evaluate.importance`.

    Args:
        params: Sections evaluate and train.
        half: The report half.
        reader: The prepared train file, with the statistics that the held-out members read.
        fold: Whose members, from 1 on.

    Raises:
        FewClicksError: If the fold has fewer than two rows of a class, which leave no error to estimate.
        ArtifactError: If a file is missing or damaged, or the rows are not encoded as the members were fitted.
    """
    counts = np.bincount(half.scored.label, minlength=2)
    if counts.min() < MIN_CLASS_ROWS:
        raise FewClicksError(
            f"params.yaml: evaluate.importance_rows: the report half has {counts[1]} clicks in {counts.sum()} "
            f"rows, each class needs {MIN_CLASS_ROWS}"
        )
    members, calibrator = Members.load(params, reader, heldout=True, fold=fold), half.report.heldout
    return fold_importance(
        reader,
        half.scored.row,
        half.scored.label,
        score=lambda batch: members.logit_of(batch, batch_size=params.train.eval_batch_size),
        calibrate=lambda logit, rows: calibrator.apply(
            logit, None if half.segments is None else half.segments.where(rows)
        ),
        max_rows=params.evaluate.importance_rows,
        seed=params.evaluate.seed,
    )
