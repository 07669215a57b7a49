"""The same figures for the rows of one value of a column: where a model ranks or calibrates worse than elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from qin.evaluate.curves import Row
from qin.metrics.definitions import CALIBRATION_RATIO, Metric, Rows, estimates, ranking_metrics
from qin.metrics.intervals import wilson_interval
from qin.metrics.logits import FloatArray, IntArray, LabelArray, sigmoid
from qin.metrics.standard_errors import values_with_errors
from qin.raw.segments import Segments
from qin.runtime.chain import ORIGIN
from qin.runtime.files import fingerprint as digest

OTHER = "other"
MAX_VALUES = 20
_LONGEST_NAME = 256  # of a value; a history or a page of text may be one, and readers of CSV files have limits

CALIBRATION_COLUMNS = ("column", "value", "num_rows", "predicted", "observed", "lower", "upper")


def largest_segments(segments: Segments, *, max_values: int = MAX_VALUES) -> Segments:
    """Keep the values with the most rows and pool the rest as `other`, so that a column of many values stays readable.

    Args:
        segments: Value of each row.
        max_values: Values to keep; a tie goes to the first by name.

    Returns:
        The kept values in their old order; then, if there are more, what was pooled. Where a kept value is itself
        `other`, the pool is called `other values`. Of a very long value the beginning is shown, with a fingerprint that
        tells it from others.
    """
    if len(segments.names) <= max_values:
        names = _shown(segments.names)
        return segments if names == segments.names else Segments(names, segments.code)
    num_rows = np.bincount(segments.code, minlength=len(segments.names))
    kept = np.sort(np.argsort(-num_rows, kind="stable")[:max_values])
    number = np.full(len(segments.names), max_values, dtype=np.int32)
    number[kept] = np.arange(max_values, dtype=np.int32)
    names, pool = _shown(segments.names[code] for code in kept), OTHER
    while pool in names:
        pool += " values"
    return Segments((*names, pool), number[segments.code])


def with_fingerprint(slices: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What `artifacts/slices.json` holds: the figures by column, and last what names all that they were made from.

    Args:
        slices: Figures by column and value.
        fingerprint: Under `origin`; where a column has that name, under `origin.`, or with as many points as it takes.
    """
    key = ORIGIN
    while key in slices:
        key += "."
    return {**slices, key: fingerprint}


def _shown(names: Iterable[str]) -> tuple[str, ...]:
    """Values of any length by names of bounded length, which differ as they do."""
    return tuple(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}... {digest(name)}" for name in names)


def slice_figures(
    logit: FloatArray,
    calibrated: FloatArray,
    label: LabelArray,
    *,
    segments: Segments,
    cluster: IntArray | None = None,
) -> dict[str, dict[str, Any]]:
    """Figures of each value's rows, by value.

    Args:
        logit: `(n,)`, which ranks all rows.
        calibrated: `(n,)`, of the calibrated probabilities.
        label: `(n,)` in {0, 1}.
        segments: Value of each row; see `largest_segments`.
        cluster: `(n,)`, see `qin.metrics.standard_errors.standard_error`.

    Returns:
        `rows`, `base_rate`, and `ap`, `auc` and `calibration_ratio` each with its standard error `_se`, AP with its
        interval; None where the rows hold one class only, or see one class in a single cluster.
    """
    figures = {}
    for name, rows in _rows_of(segments):
        figures[name] = {
            "rows": rows.size,
            "base_rate": float(label[rows].mean()),
            **_with_errors(ranking_metrics(), logit, label, rows, cluster),
            **_with_errors((CALIBRATION_RATIO,), calibrated, label, rows, cluster),
        }
    return figures


def slice_calibration_rows(column: str, calibrated: FloatArray, label: LabelArray, *, segments: Segments) -> list[Row]:
    """Observed against predicted click rates of each value that has rows.

    Args:
        column: Its name.
        calibrated: `(n,)`, calibrated logits of rows that the calibrator was not fitted on.
        label: `(n,)` in {0, 1}.
        segments: Value of each row; see `largest_segments`.

    Returns:
        Rows `column`, `value`, `num_rows`, `predicted` (mean probability), `observed` (share of clicks), `lower` and
        `upper` (Wilson 95% interval of `observed`, rows taken as independent).
    """
    found: list[Row] = []
    for name, rows in _rows_of(segments):
        num_positives = int(np.count_nonzero(label[rows] == 1))
        lower, upper = wilson_interval(num_positives, num_rows=rows.size)
        row: Row = {
            "column": column,
            "value": name,
            "num_rows": rows.size,
            "predicted": float(sigmoid(calibrated[rows].astype(np.float64)).mean()),
            "observed": num_positives / rows.size,
            "lower": lower,
            "upper": upper,
        }
        found.append(row)
    return found


def _rows_of(segments: Segments) -> Iterator[tuple[str, IntArray]]:
    """Yield each value that has rows, and their positions, ascending."""
    # One sort for all values, where a mask for each would read the rows as often as there are values.
    order = np.argsort(segments.code, kind="stable")
    bounds = np.searchsorted(segments.code[order], np.arange(len(segments.names) + 1))
    for name, start, stop in zip(segments.names, bounds[:-1], bounds[1:], strict=True):
        if stop > start:
            yield name, order[start:stop]


def _has_both(label: LabelArray) -> bool:
    return bool(np.any(label == 1) and np.any(label == 0))


def _with_errors(
    metrics: Sequence[Metric], logit: FloatArray, label: LabelArray, rows: IntArray, cluster: IntArray | None
) -> dict[str, float | None]:
    if not _has_both(label[rows]):
        keys = [
            (m.name, f"{m.name}_se", *((f"{m.name}_lower", f"{m.name}_upper") if m.is_precision else ()))
            for m in metrics
        ]
        return dict.fromkeys(chain.from_iterable(keys))
    own = Rows(logit[rows], label[rows])
    of_rows = None if cluster is None else cluster[rows]
    return values_with_errors(estimates(metrics, own), own.is_positive, cluster=of_rows)
