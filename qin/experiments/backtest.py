"""`qin backtest`: walk forward over days; train on all before one and score it, fresh and from the day before's model.

1. The log is divided into a file per day, once.
2. For each day to score the days before it are the log, the last of them validates, and the deployed model, refitted as
   the settings say, predicts the day without seeing its labels. Fresh and warm share what does not differ.
3. The day's figures are kept, and of its outputs only the model that the next day starts from. So a walk that was
   killed goes on where it was, and the disk holds a copy of the log, one day's outputs and one model.
"""

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from qin.calibrate.report import read_calibrations
from qin.config import Params
from qin.experiments.aligned import aligned
from qin.experiments.changes import changed
from qin.experiments.days import Day, divide, write_unlabelled
from qin.experiments.trial import Trial, Trials
from qin.labels.single import choose_label
from qin.metrics.definitions import METRICS, Rows, estimates
from qin.metrics.intervals import NORMAL_975
from qin.metrics.paired import paired_difference
from qin.metrics.standard_errors import values_with_errors
from qin.raw.segments import read_clusters
from qin.raw.values import encode_label
from qin.runtime import paths
from qin.runtime.chain import raw_checksum
from qin.runtime.claim import claimed
from qin.runtime.errors import ConfigError
from qin.runtime.files import atomic_directory, fingerprint, read_json, write_json
from qin.runtime.progress import log
from qin.runtime.provenance import code_fingerprint
from qin.runtime.stage import STAGES

FRESH, WARM = "fresh", "warm"
SHOWN = ("ap", "auc", "wll", "log_loss", "calibration_ratio")
COMPARED = ("ap", "auc", "log_loss", "wll")

# The outermost probabilities that 32 bits, in which a submission is written, may have rounded to 0 and to 1.
_ABOVE_0, _BELOW_1 = 2.0**-150, 1.0 - 2.0**-25

_MIN_HISTORY = 2  # days before the first that is scored: one trains, one validates
_LEFT_OUT = ("track", "evaluate", "predict", "prepare")  # sections that change no figure here


@dataclass(frozen=True)
class Walk:
    """A walk over a log.

    Attributes:
        params: Settings.
        root: Folder of this walk, of its settings, log and code alone.
        days: The log's.
        first: Position of the first day that is scored.
        variants: `fresh`, `warm` or both.
    """

    params: Params
    root: Path
    days: Sequence[Day]
    first: int
    variants: Sequence[str]

    @property
    def scored(self) -> Sequence[Day]:
        """Days that are scored."""
        return self.days[self.first :]

    @property
    def name(self) -> str:
        """Of what is scored: variants and the first day; results and kept models of another walk are not its own."""
        return f"{'-'.join(self.variants)}.{self.days[self.first].name}"


def open_walk(
    params: Params,
    *,
    num_days: int | None,
    variants: Sequence[str],
    label: str | None = None,
    root: Path = paths.BACKTEST,
) -> Walk:
    """Divide the log, or find it divided.

    Args:
        params: Settings.
        num_days: How many of the last days to score; None for all that have two before them.
        variants: `fresh`, `warm` or both.
        label: Of several labels the one that is predicted; None for the first.
        root: Where walks are kept.

    Raises:
        ConfigError: If `split.time_col` is null, or there is no such label, or there are too few days.
        QinError: If the log cannot be divided.
    """
    params = choose_label(params, label, what="a backtest")
    column = params.split.time_col
    if column is None:
        raise ConfigError("params.yaml: split.time_col: null; a backtest needs the column of the time")
    if params.train.init_from is not None:
        raise ConfigError("params.yaml: train.init_from: a backtest starts from models of its own; set it to null")
    settings = {name: part for name, part in params.model_dump(mode="json").items() if name not in _LEFT_OUT}
    # Evaluate runs as well, but nothing here is read of it, so that an edit of its code keeps what was walked.
    entries = [*(f"stages/{stage}.py" for stage in STAGES if stage != "evaluate"), "qin/experiments/backtest.py"]
    code = [code_fingerprint(entry) for entry in entries]
    folder = root / fingerprint(settings, raw_checksum(params.data.train), code)
    # Named by the log and made as a whole: where the folder is there, the log need not be read again.
    if not (folder / "days").is_dir():
        with atomic_directory(folder / "days") as staging:
            found = divide(params.data.train, column, staging)
            write_json(staging / "days.json", {"days": [{**asdict(day), "file": day.file.name} for day in found]})
    listed = read_json(folder / "days" / "days.json")["days"]
    days = [Day(**{**one, "file": folder / "days" / one["file"]}) for one in listed]
    most = len(days) - _MIN_HISTORY
    if most < 1 or (num_days is not None and num_days > most):
        wanted = "" if num_days is None else f", not the {num_days} that were asked for"
        raise ConfigError(f"the log has {len(days)} days; {max(most, 0)} of them can be scored{wanted}")
    return Walk(params, folder, days, len(days) - (most if num_days is None else num_days), variants)


def walk_forward(walk: Walk, tell: Callable[[str], None]) -> dict[str, Any]:
    """Score one day after the other; what has been scored is taken from an earlier call.

    Args:
        walk: What to walk over.
        tell: Called with a line per day.

    Returns:
        JSON values: `days`, each with the figures of its variants and their paired difference, and `mean`.

    Raises:
        QinError: If a stage fails, or another process walks over this log.
    """
    results = []
    with claimed("backtest", folder=walk.root / "locks"):  # walks over one log share the folder of its trials
        for position in range(walk.first, len(walk.days)):
            day = walk.days[position]
            file = walk.root / "results" / walk.name / f"{day.name}.json"
            if not file.exists():
                # Written before anything is removed: a walk that is killed in between has a day's outputs too many, no
                # day too few.
                write_json(file, _score_day(walk, position))
                _forget(walk, keep=day)
            results.append(read_json(file))
            tell(_line(results[-1]))
    return {
        "train_days_before_first": walk.first,
        "variants": list(walk.variants),
        "days": results,
        "mean": _mean(results),
    }


def _score_day(walk: Walk, position: int) -> dict[str, Any]:
    """Figures of one day by each variant; the model that the next day starts from is kept.

    1. The day becomes a file to predict, its labels and clusters stay here.
    2. Each variant trains on the days before and predicts the day; its warm model is kept.
    3. Where there are two variants, their difference is taken row by row.
    """
    day, before = walk.days[position], walk.days[:position]
    scratch = walk.root / "scratch"
    scratch.mkdir(exist_ok=True)
    data = walk.params.data
    rows, sample = write_unlabelled(day, label=data.first_label, key=data.id, folder=scratch)
    base = changed(walk.params, _settings(before, rows.absolute(), sample.absolute()))
    label, cluster = _labels(day, walk.params), None
    if walk.params.split.group_key is not None:
        cluster = read_clusters(day.file, walk.params.split.group_key, np.arange(day.num_rows))
    trials = Trials(walk.root / "trials")
    figures: dict[str, Any] = {}
    compared: dict[str, Any] = {}  # estimates, which hold a number per row, so few are kept
    for variant in walk.variants:
        # The first day of a walk has no day before it that was scored, so there is no model to start from.
        earlier = None if variant == FRESH or position == walk.first else _kept(walk, before[-1])
        params = base if earlier is None else changed(base, {"train.init_from": str(earlier.absolute())})
        if earlier is not None or not figures:  # the first warm day is the fresh one
            trial, facts = _run(trials, params)
            base_rate = read_calibrations(trial.folder / paths.CALIBRATOR)[0].base_rate
            scored = Rows(_logits(trial), label, base_rate=base_rate)
            found = estimates(METRICS.values(), scored)
            values = {**values_with_errors(found, scored.is_positive, cluster=cluster), **facts}
            kept = {name: found[name] for name in COMPARED}
        figures[variant], compared[variant] = values, kept
        # Also of the first day, where it is the fresh one: the next starts from it.
        if variant == WARM:
            _keep(walk, day, trial)
    result: dict[str, Any] = {
        "day": day.name,
        "rows": day.num_rows,
        "clicks": int(label.sum()),
        "train_rows": sum(one.num_rows for one in before),
    }
    if len(compared) > 1:
        result["warm_minus_fresh"] = {
            name: asdict(paired_difference(fresh, compared[WARM][name], is_positive=label == 1, cluster=cluster))
            for name, fresh in compared[FRESH].items()
        }
    return {**result, **figures}


def _settings(before: Sequence[Day], rows: Path, sample: Path) -> dict[str, Any]:
    files = [str(day.file.absolute()) for day in before]
    return {
        "data.train": files,
        "data.test": str(rows),
        "data.sample_submission": str(sample),
        "split.method": "time",
        # The last day before validates, whatever share of the rows it is; all else that divides rows is set aside.
        "split.time_val_start": before[-1].start,
        "split.thresholds": None,
        "split.num_folds": 1,
        "evaluate.slices": [],
        "evaluate.importance_rows": 0,
        "predict.prior": "natural",
    }


def _run(trials: Trials, params: Params) -> tuple[Trial, dict[str, Any]]:
    """The trial of a variant, and how long it trained."""
    trial = trials.run(params, until="predict")
    train = trial.metrics("train")
    return trial, {"best_step": train["best_step"], "num_steps": train["num_steps"]}


def _logits(trial: Trial) -> npt.NDArray[np.float64]:
    """Of the submitted probabilities, in the day's order; what 32 bits round to 0 or 1 is finite all the same."""
    with (trial.folder / paths.SUBMISSION).open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        probability = np.clip([float(line[1]) for line in lines], _ABOVE_0, _BELOW_1)
    logit: npt.NDArray[np.float64] = np.log(probability) - np.log1p(-probability)
    return logit


def _labels(day: Day, params: Params) -> npt.NDArray[np.uint8]:
    name = params.data.first_label
    column = pq.read_table(day.file, columns=[name]).column(name).combine_chunks()
    return encode_label(column, file=str(day.file), column=name, first_row=0)


def _kept(walk: Walk, day: Day) -> Path:
    return walk.root / "kept" / walk.name / day.name


def _keep(walk: Walk, day: Day, trial: Trial) -> None:
    with atomic_directory(_kept(walk, day)) as staging:
        shutil.copytree(trial.folder / paths.MODEL, staging, dirs_exist_ok=True)


def _forget(walk: Walk, *, keep: Day) -> None:
    """Remove a day's outputs, and models that no later day starts from."""
    for folder in ("trials", "scratch"):
        shutil.rmtree(walk.root / folder, ignore_errors=True)
    newest = _kept(walk, keep)
    for old in newest.parent.glob("*") if newest.exists() else ():
        if old != newest:
            shutil.rmtree(old)


def _mean(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures averaged over days; errors as of days that are independent.

    The first day of a warm walk starts from a draw, as the fresh one does, so it is left out where there are others.
    """
    days = (results[1:] or results) if WARM in results[0] else results
    out: dict[str, Any] = {"days": len(days)}
    for variant in (one for one in (FRESH, WARM) if one in results[0]):
        pairs = {name: [(day[variant][name], day[variant][f"{name}_se"]) for day in days] for name in METRICS}
        out[variant] = {name: _averaged(found) for name, found in pairs.items()}
    if "warm_minus_fresh" in results[0]:
        changes = [day["warm_minus_fresh"] for day in days]
        out["warm_minus_fresh"] = {
            name: _averaged([(change[name]["difference"], change[name]["standard_error"]) for change in changes])
            for name in changes[0]
        }
    return out


def _averaged(found: Sequence[tuple[float, float | None]]) -> dict[str, float | None]:
    errors = [error for _, error in found if error is not None]
    whole = len(errors) == len(found)
    return {
        "value": sum(value for value, _ in found) / len(found),
        "se": float(np.sqrt(np.square(errors).sum())) / len(found) if whole else None,
    }


def _line(result: Mapping[str, Any]) -> str:
    parts = [
        f"{variant} AP {result[variant]['ap']:.4f}, AUC {result[variant]['auc']:.4f}"
        for variant in (FRESH, WARM)
        if variant in result
    ]
    return f"{result['day']}: {result['rows']:,} rows; {'; '.join(parts)}"


def table(report: Mapping[str, Any]) -> list[str]:
    """The walk for reading: a line per day and variant, then the means and what the start is worth."""
    header = ("day", "model", "rows", "AP", "AUC", "WLL", "log loss", "predicted / observed", "steps")
    rows = [header]
    for day in report["days"]:
        for variant in report["variants"]:
            figures = day[variant]
            cells = [_with_error(figures[name], figures[f"{name}_se"]) for name in SHOWN]
            rows.append((day["day"], variant, f"{day['rows']}", *cells, f"{figures['best_step']}"))
    for variant in report["variants"]:
        mean = report["mean"][variant]
        cells = [_with_error(mean[name]["value"], mean[name]["se"]) for name in SHOWN]
        rows.append((f"mean of {report['mean']['days']}", variant, "", *cells, ""))
    return [*aligned(rows), *_difference_lines(report)]


def _difference_lines(report: Mapping[str, Any]) -> Iterator[str]:
    for name, found in report["mean"].get("warm_minus_fresh", {}).items():
        error = found["se"]
        spread = "" if error is None else f" (95% {found['value'] - NORMAL_975 * error:+.5f} to "
        spread += "" if error is None else f"{found['value'] + NORMAL_975 * error:+.5f})"
        yield f"warm - fresh, {name}: {found['value']:+.5f}{spread}"


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def write_backtest(report: Mapping[str, Any], path: Path) -> None:
    """Write the walk as JSON."""
    write_json(path, report)
    log.info("%s: written", path)
