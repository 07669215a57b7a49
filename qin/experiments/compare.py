"""Whether two runs differ on the validation rows that they share, or by chance; what `qin compare` prints."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qin.calibrate.calibrator import segment_column, segment_type
from qin.calibrate.report import reported_base_rate
from qin.columns.resolve import are_alike
from qin.columns.types import type_name, type_of
from qin.config import load_params
from qin.experiments.aligned import aligned
from qin.experiments.runs import Run, read_runs
from qin.metrics.definitions import METRICS, Rows, compared_metrics, competition_estimate, estimates
from qin.metrics.estimate import Estimate
from qin.metrics.gauc import grouped_auc
from qin.metrics.intervals import NORMAL_975, NORMAL_9995
from qin.metrics.logits import Float64Array, IntArray, LabelArray
from qin.metrics.paired import Difference, paired_difference
from qin.raw.log import RawLog, open_log
from qin.raw.segments import Segments, read_clusters, read_segments_of_folds
from qin.runtime.errors import ConfigError, DataError, SchemaError, one_line
from qin.runtime.sources import Source
from qin.scored.rows import rows_in_order

_FIGURES = ("first", "second", "difference", "standard_error")
_FOOTNOTE = (
    "noise: |z| below 1.96, likely: from there, better: from 3.29. z is B - A in standard errors; of ap and score with "
    "few clicks it has the p-value of a bootstrap instead. They cover which rows are validated, not the training seed."
)


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """The rows of both runs' report halves.

    Attributes:
        names: Of the runs.
        row: Row numbers in the train file, ascending, `(n,)`.
        label: `(n,)`.
        calibrated: Each run's calibrated logits, `(n,)`.
        base_rates: Click rate that each run's probabilities refer to.
        num_unshared: Rows that only the first run has, and only the second.
    """

    names: tuple[str, str]
    row: IntArray
    label: LabelArray
    calibrated: tuple[Float64Array, Float64Array]
    base_rates: tuple[float, float]
    num_unshared: tuple[int, int]


def shared_rows(first: Run, second: Run, *, train: Source | None = None) -> SharedRows:
    """Match two runs' rows of the report half by number, check that they are the same rows, and calibrate them.

    The other half chose each run's state, blend and calibrator, so on it a run looks better than it is, and one that
    chose among more looks better still.

    Args:
        first: One run.
        second: The other.
        train: The raw log, for shifts by segment.

    Raises:
        QinError: If no row is shared, a label differs, the shared rows hold one class only, or what shifts by segment
            need is missing.
    """
    runs = (first, second)
    scored = (first.scored, second.scored)
    reported = [np.flatnonzero(one.is_report) for one in scored]
    rows = [one.row[places] for one, places in zip(scored, reported, strict=True)]
    # Runs of different folds share some rows of their halves only: the pairing is by the number in the train file.
    row, *found = np.intersect1d(rows[0], rows[1], assume_unique=True, return_indices=True)
    if not row.size:
        raise DataError(f"{first.name} and {second.name} report no row in common: their folds are disjoint")
    places = [reported[number][found[number]] for number in range(2)]
    label, other = (one.label[place] for one, place in zip(scored, places, strict=True))
    if not np.array_equal(label, other):
        at = int(np.argmax(label != other))
        raise DataError(
            f"row {row[at]}: label {label[at]} in {first.name}, {other[at]} in {second.name}; the runs are not of the "
            "same log"
        )
    if label.min() == label.max():
        raise DataError(f"the {label.size} rows that both runs report are all of label {label[0]}")
    calibrated = [calibrated_logits(run, train=train)[place] for run, place in zip(runs, places, strict=True)]
    return SharedRows(
        names=(first.name, second.name),
        row=row,
        label=label,
        calibrated=(calibrated[0], calibrated[1]),
        base_rates=(reported_base_rate(first.reports), reported_base_rate(second.reports)),
        num_unshared=(rows[0].size - row.size, rows[1].size - row.size),
    )


def calibrated_logits(run: Run, *, train: Source | None) -> Float64Array:
    """The logits of all of a run's rows, from the calibrators that the report halves did not fit.

    Args:
        run: The run.
        train: The raw log, for shifts by segment.

    Raises:
        ConfigError: If there are shifts and no raw log.
    """
    segments: list[Segments] | list[None] = [None] * len(run.folds)
    column = segment_column(one.heldout for one in run.reports)
    if column is not None:
        if train is None:
            raise ConfigError("params.yaml: file not found; shifts by segment need its data.train")
        log = open_log(train)
        segments = read_segments_of_folds(log, column, [scored.row for scored in run.folds])
        _check_segments(run, log, column)
    parts = [
        report.heldout.apply(scored.logit, own)
        for scored, report, own in zip(run.folds, run.reports, segments, strict=True)
    ]
    return np.concatenate(parts)[rows_in_order(run.folds)]


def _check_segments(run: Run, log: RawLog, column: str) -> None:
    """Check that the log's values are found among a run's segments, whose log may have been of another type.

    Raises:
        SchemaError: If equal values could be two segments.
    """
    here, there = log.schema.field(column), segment_type(one.heldout for one in run.reports)
    if there and not are_alike(here, pa.field(column, type_of(there))):
        raise SchemaError(
            f"{log}: column {column}: type {type_name(here.type)}, but {run.name} was calibrated by {there}; equal "
            "values would be two segments"
        )


def compare_runs(rows: SharedRows, *, cluster: IntArray | None = None) -> dict[str, Difference]:
    """Compare on the shared rows.

    Args:
        rows: See `shared_rows`.
        cluster: `(n,)`, codes from 0 of what is drawn independently, such as users; None for rows.

    Returns:
        Every metric that is compared, `gauc` behind those of the ranking (with clusters of which one at least holds
        both classes), and the competition score for both priors as `score_natural` and `score_balanced`.
    """
    first, second = (
        _estimates(Rows(logit, rows.label, base_rate=base_rate), cluster=cluster)
        for logit, base_rate in zip(rows.calibrated, rows.base_rates, strict=True)
    )
    is_positive = rows.label == 1
    return {
        name: paired_difference(first[name], second[name], is_positive=is_positive, cluster=cluster) for name in first
    }


def _estimates(rows: Rows, *, cluster: IntArray | None) -> dict[str, Estimate]:
    found = estimates(compared_metrics(), rows)
    grouped = None if cluster is None else grouped_auc(rows.logit, rows.label, cluster)
    return {
        **{name: one for name, one in found.items() if METRICS[name].ranks},
        **({} if grouped is None else {"gauc": grouped.estimate}),
        **{name: one for name, one in found.items() if not METRICS[name].ranks},
        "score_natural": competition_estimate(ap=found["ap"], wll=found["wll"]),
        "score_balanced": competition_estimate(ap=found["ap"], wll=found["wll_balanced"]),
    }


def compared(
    first: str, second: str, *, params: Path, independent: bool = False, label: str | None = None
) -> dict[str, Any]:
    """Compare two runs by name; what `qin compare --json` prints.

    Of runs with several labels that holds a report for each label that both have, by its name below `labels`.

    Args:
        first: `workspace`, a folder, a revision or an experiment.
        second: The same.
        params: Settings whose `split.group_key` clusters standard errors.
        independent: Take rows as independent all the same.
        label: The only label to compare; None for all that both have.

    Raises:
        QinError: If a run is not found, or both have nothing to compare.
    """
    settings = load_params(params) if params.exists() else None
    train = settings.data.train if settings else None
    key = settings.split.group_key if settings and not independent else None

    def report(one: Run, other: Run) -> dict[str, Any]:
        rows = shared_rows(one, other, train=train)
        cluster = read_clusters(train, key, rows.row) if train and key else None
        clusters = None if cluster is None else {"column": key, "num": int(cluster.max()) + 1}
        return comparison_json(rows, compare_runs(rows, cluster=cluster), clusters=clusters)

    ours, theirs = read_runs(first), read_runs(second)
    shared = [name for name in ours if name in theirs] if label is None else [label]
    if len(ours) == len(theirs) == 1 and label is None:  # whatever they call it
        return report(*ours.values(), *theirs.values())
    missing = [run for run, of in ((first, ours), (second, theirs)) if not set(shared) & of.keys()]
    if missing or not shared:
        labels = f"{', '.join(ours)} and {', '.join(theirs)}"
        raise DataError(f"{first} and {second}: no label {label or 'in common'}; they are of {labels}")
    reports = {name: report(ours[name], theirs[name]) for name in shared}
    return reports[label] if label is not None else {"labels": reports}


def verdict(name: str, row: Difference) -> str:
    """Say in words what a difference means.

    Returns:
        `identical`; `noise` where |z| is below 1.96; `B likely better` (or A) from there; `B better` from 3.29, where
        chance alone gets once in a thousand times; `unknown` without a standard error.
    """
    if row.difference == 0.0:
        return "identical" if row.standard_error == 0.0 else "noise"
    if row.standard_error is None:
        return "unknown"
    size = math.inf if row.z is None else abs(row.z)  # without any spread there is no chance
    if size < NORMAL_975:
        return "noise"
    lower_is_better = name in METRICS and METRICS[name].lower_is_better
    winner = "B" if (row.difference < 0.0) == lower_is_better else "A"
    return f"{winner} better" if size >= NORMAL_9995 else f"{winner} likely better"


def comparison_json(
    rows: SharedRows, found: dict[str, Difference], *, clusters: dict[str, Any] | None
) -> dict[str, Any]:
    """Everything in one JSON object with stable keys."""
    return {
        "first": rows.names[0],
        "second": rows.names[1],
        "rows": {
            "shared": int(rows.row.size),
            "positives": int(np.count_nonzero(rows.label == 1)),
            "only_first": rows.num_unshared[0],
            "only_second": rows.num_unshared[1],
        },
        "clusters": clusters,
        "metrics": {name: {**asdict(row), "verdict": verdict(name, row)} for name, row in found.items()},
    }


def comparison_text(report: dict[str, Any]) -> str:
    """The same for reading: a table, above it what was compared, below it what a standard error covers."""
    if "labels" in report:
        return "\n\n".join(f"label {one_line(name)}\n{comparison_text(of)}" for name, of in report["labels"].items())
    rows, clusters = report["rows"], report["clusters"]
    unit = "rows taken as independent" if clusters is None else f"by {clusters['column']}, {clusters['num']:,} clusters"
    lines = [
        f"A = {report['first']}, B = {report['second']}",
        f"{rows['shared']:,} rows of both report halves, {rows['positives']:,} of them clicked",
        f"standard errors: {unit}",
    ]
    if rows["only_first"] or rows["only_second"]:
        lines.append(
            f"warning: the folds differ ({rows['only_first']:,} more rows in A's, {rows['only_second']:,} in B's): "
            "the models were trained on different rows, some on rows that the other was validated on"
        )
    table = [("metric", "A", "B", "B - A", "std. error", "95% interval", "z", "verdict")]
    for name, row in report["metrics"].items():
        figures = [_number(row[key], "+" if key == "difference" else "") for key in _FIGURES]
        interval = "" if row["lower"] is None else f"{row['lower']:+.5f} to {row['upper']:+.5f}"
        table.append((name, *figures, interval, "" if row["z"] is None else f"{row['z']:+.1f}", row["verdict"]))
    lines += aligned(table, right=slice(1, -1))
    return "\n".join([*map(one_line, lines), _FOOTNOTE])


def _number(value: float | None, sign: str) -> str:
    return "" if value is None else f"{value:{sign}.5f}"
