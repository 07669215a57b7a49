"""The tables of a report, every cell as text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from qin.metrics.intervals import NORMAL_975
from qin.report.verdict import decimals, judged
from qin.runtime.chain import Origin
from qin.runtime.provenance import library_versions

_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        header: Of the columns.
        rows: Cells.
        text: A sentence below it, or nothing.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""


_FIGURES = (
    ("ap", "AP", "precision averaged over the clicks; a random ranking has the base rate"),
    ("auc", "AUC", "how often a clicked row is ranked above another; a random ranking has 0.5"),
    ("gauc", "GAUC", "the same within a user"),
    ("after.log_loss", "log loss", "of the calibrated probabilities; lower is better"),
    ("after.ne", "NE", "log loss over that of the base rate; below 1 is better than a constant"),
    ("after.wll_balanced", "WLL, balanced prior", "both classes count alike; lower is better"),
    ("after.wll", "WLL, natural prior", "the same of the probabilities as they are"),
    ("score.balanced", "score, balanced prior", "½ AP + ½ / (1 + WLL); higher is better"),
    ("score.natural", "score, natural prior", "the same of the probabilities as they are"),
    ("after.calibration_ratio", "predicted / observed clicks", "1 is calibrated in the sum"),
)


def figures_table(evaluation: Mapping[str, Any]) -> Table:
    """The figures of the report half with 95% intervals."""
    rows = []
    for path, name, meaning in _FIGURES:
        section, _, key = path.rpartition(".")
        values = evaluation[section] if section else evaluation
        if values[key] is not None:
            rows.append((name, number(values[key]), _interval(values, key), meaning))
    after = evaluation["after"]
    null = f"{number(after['calibration_error_null'])} without any miscalibration"
    rows.append(("calibration error", number(after["calibration_error"]), "", f"mean of bins; {null}"))
    return Table(
        ("figure", "value", "95% interval", "what it is"),
        rows,
        f"Of {evaluation['rows']['reported']:,} rows that decided nothing about the model, on the original "
        f"distribution; base rate {number(evaluation['base_rate'])}.",
    )


def folds_table(folds: Sequence[Mapping[str, Any]]) -> Table:
    """The figures of each fold of a cross-validation, each with its standard error."""
    names = ("ap", "auc", "log_loss", "ne")
    rows = [
        (str(place), f"{fold['rows']['reported']:,}", *(_with_error(fold, name) for name in names))
        for place, fold in enumerate(folds, start=1)
    ]
    text = "Above, all folds' rows together, each scored by the model that has not seen it."
    return Table(("fold", "rows reported", "AP", "AUC", "log loss", "NE"), rows, text)


def all_figures(evaluation: Mapping[str, Any]) -> list[Table]:
    """The figures, and of a cross-validation those of each fold."""
    of_folds = [folds_table(evaluation["folds"])] if "folds" in evaluation else []
    return [figures_table(evaluation), *of_folds]


def numbered(of_folds: Iterable[Table]) -> list[Table]:
    """The tables of folds with their numbers, of one as it is."""
    found = list(of_folds)
    if len(found) == 1:
        return found
    return [
        replace(table, text=f"Fold {number} of {len(found)}. {table.text}".rstrip())
        for number, table in enumerate(found, start=1)
    ]


def training_tables(train: Mapping[str, Any], trees: Mapping[str, Any]) -> list[Table]:
    """How far both members were trained, in each fold; nothing where the stage has not run here."""
    networks, grown = of_each_fold(train), of_each_fold(trees)
    # The stage trees may not have run; trees of another number of folds are an error of their file.
    beside = grown or [{}] * len(networks)
    return numbered(training_table(*both) for both in zip(networks, beside, strict=True))


def of_each_fold(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a stage left of each fold, the first first; nothing where it has not run here."""
    return [details, *details.get("other_folds", ())] if details else []


def mean_weights(calibration: Mapping[str, Any]) -> dict[str, Any] | None:
    """What calibrate tells of the members' weights, of several folds their mean; None where it has not run here."""
    of_folds = [fold["blend"]["weights"] for fold in of_each_fold(calibration)]
    if not of_folds:
        return None
    return {"weights": {name: sum(one[name] for one in of_folds) / len(of_folds) for name in of_folds[0]}}


def members_table(evaluation: Mapping[str, Any], blend: Mapping[str, Any] | None) -> Table:
    """Each member alone, and what the model has beyond it.

    Args:
        evaluation: Content of `metrics/evaluate.json`.
        blend: What calibrate tells of the members' weights, if it has run here.
    """
    rows = []
    for member, figures in evaluation["members"].items():
        weight = (blend or {"weights": {}})["weights"].get(member)
        for name, shown in (("ap", "AP"), ("auc", "AUC"), ("log_loss", "log loss")):
            difference = figures["difference"]
            lower, upper = difference[f"{name}_lower"], difference[f"{name}_upper"]
            places = 6 if lower is None else decimals(upper - lower)
            interval = "" if lower is None else f"{lower:+.{places}f} to {upper:+.{places}f}"
            title = member if weight is None else f"{member}, weight {number(weight)}"
            change = f"{difference[name]:+.{places}f}"
            rows.append((title, shown, number(figures[name]), change, interval, judged(name, difference)))
    header = ("member", "figure", "alone", "model - member", "95% interval", "the model is")
    return Table(header, rows, "Intervals are paired row by row.")


def training_table(train: Mapping[str, Any], trees: Mapping[str, Any]) -> Table:
    """How far both members were trained."""
    rows = [
        ("network", "parameters", f"{train['num_parameters']:,}"),
        ("network", "rows per step, learning rate", f"{train['batch_size']:,}, {number(train['lr'])}"),
        ("network", "best of its steps", f"{train['best_step']:,} of {train['num_steps']:,}"),
    ]
    for form in train.get("forms", []):
        kept = ", kept" if form["is_kept"] else ""
        rows.append(
            ("network", f"form {form['form']}", f"log loss of the selection half {form['val_log_loss']:.5f}{kept}")
        )
    if trees:
        rows.append(("trees", "columns, leaves", f"{trees['num_columns']:,}, {trees['num_leaves']:,}"))
        rows.append(("trees", "trees", f"{trees['num_rounds']:,}"))
    statistics = train.get("statistics", {})
    if statistics:
        rows.append(("both", "statistics kept", f"{statistics['num_kept']:,}"))
        rows += [("both", f"dropped: {name}", str(why)) for name, why in statistics["dropped"].items()]
    return Table(("member", "what", ""), rows)


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """The calibrator, judged on rows that it was not fitted on."""
    before, after = calibration["before"], calibration["after"]
    rows = [(name, number(before[name]), number(after[name])) for name in before]
    temperature = calibration["temperature"]
    text = "" if temperature is None else f"Temperature {number(temperature)}"
    error = calibration["temperature_standard_error"]
    text += f" ± {number(error)}" if error is not None and text else ""
    p_value = calibration["likelihood_ratio"]["p_value"]
    text += f"; a bias beside it: p = {p_value:.2g}" if p_value is not None and text else ""
    return Table(("figure", "before", "after"), rows, f"{text}." if text else "")


def data_table(prepared: Mapping[str, Any]) -> Table:
    """The files as they were read."""
    rows = []
    for name, facts in prepared.items():
        if not isinstance(facts, dict):
            continue
        rows.append((name, "rows", f"{facts['num_rows']:,}"))
        if "num_clicks" in facts:
            rows.append((name, "clicks", f"{facts['num_clicks']:,} ({facts['base_rate']:.3%})"))
        rows.append((name, "nulls", f"{facts['nulls']['values']:,} in {facts['nulls']['columns']:,} columns"))
        shared = facts["collisions"]
        rows.append((name, "values that share a bucket", f"{shared['values']:,} in {shared['columns']:,} columns"))
        for sequence, lengths in facts["sequences"].items():
            tail = f"{lengths['empty']:,} empty, {lengths['truncated']:,} cut"
            rows.append((name, f"length of {sequence}", f"{lengths['mean']:.4g} on average, {tail}"))
    return Table(("file", "what", ""), rows)


def audit_table(split: Mapping[str, Any]) -> Table:
    """The folds and what they share."""
    rows = [("method", str(split["method"]), "")]
    rows += [(f"rows, {name}", f"{count:,}", "") for name, count in split["rows"].items()]
    rows += [(f"base rate, {name}", f"{rate:.3%}", "") for name, rate in split["base_rate"].items()]
    duplicates = split["duplicates"]
    rows.append(("rows of validation that train holds too", f"{duplicates:,}", _mark(duplicates == 0)))
    for name, count in split["overlap"].items():
        rows.append((f"{name}s in both folds", f"{count:,}", _mark(count == 0)))
    if "time" in split:
        rows.append(("train before validation", "yes" if split["time"]["in_order"] else "no", ""))
    rows += [
        (f"validation rows of a {name} that train lacks", f"{share:.1%}", "") for name, share in split["cold"].items()
    ]
    rows += [(f"rows without a {name}", f"{share:.1%}", "") for name, share in split["missing"].items()]
    return Table(("what", "", ""), rows)


def settings_table(origin: Origin) -> Table:
    """The settings that are not as the project ships them."""
    defaults = json.loads(files("qin.report").joinpath("defaults.json").read_text(encoding="utf-8"))
    known = {key: value for key, value in origin.settings.items() if key in defaults}
    rows = [(key, _short(value), _short(defaults[key])) for key, value in known.items() if defaults[key] != value]
    rest = "" if rows else "Every setting has its default. "
    return Table(("setting", "here", "default"), rows, f"{rest}The log's files and columns have none.")


def provenance_table(origin: Origin) -> Table:
    """What the figures were made from."""
    rows = [*origin.made_from.items(), *library_versions().items()]
    return Table(("what", "checksum or version"), rows, "The same rows give the same report, byte for byte.")


def warnings_of(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the stages warned of, each once."""
    found = [warning for details in stages for warning in details.get("warnings", [])]
    return list(dict.fromkeys(found))


def number(value: float | None) -> str:
    """A figure in four digits."""
    return "" if value is None else f"{value:.4g}"


def _with_error(values: Mapping[str, Any], name: str) -> str:
    error = values[f"{name}_se"]
    return number(values[name]) if error is None else f"{number(values[name])} ± {number(error)}"


def _interval(values: Mapping[str, Any], key: str) -> str:
    lower, upper, error = (values.get(f"{key}_{end}") for end in ("lower", "upper", "se"))
    if lower is None and error is not None:
        lower, upper = values[key] - NORMAL_975 * error, values[key] + NORMAL_975 * error
    return "" if lower is None or upper is None else f"{number(lower)} to {number(upper)}"


def _mark(holds: bool) -> str:
    return "✓" if holds else "!"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
