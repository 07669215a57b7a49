"""`outputs/model_card.md`: what the model is, how it was measured, and where not to trust it; of the report's tables.

Source: Mitchell and others (2019), Model Cards for Model Reporting.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qin.metrics.intervals import NORMAL_975
from qin.report import tables
from qin.report.page import stage_details
from qin.report.tables import Table, number
from qin.report.verdict import against_chance, smallness, verdict
from qin.runtime.chain import Origin
from qin.runtime.errors import printable
from qin.runtime.files import atomic_file

_MANY_NEW = 0.1  # share of validation rows whose target item the train fold lacks, from which it is a limit
_FAR_FROM_CALIBRATED = 3.0  # standard errors of a slice's calibration ratio
# What Markdown reads as markup inside a line: emphasis, code, links, tags, entities.
_MARKUP = re.compile(r"[\\`*<~]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


@dataclass(frozen=True)
class _Part:
    title: str
    lines: Sequence[str]
    tables: Sequence[Table] = ()


def write_card(path: Path, *, origin: Origin, slices: Mapping[str, Any]) -> None:
    """Write the card from what the stages left in `metrics/`; equal files give equal bytes.

    Args:
        path: The file.
        origin: What evaluate's outputs were made from.
        slices: Figures by column and value, as of `artifacts/slices.json`.
    """
    text = "\n".join(_lines(stage_details(), origin, slices)) + "\n"
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def _lines(details: Mapping[str, Mapping[str, Any]], origin: Origin, slices: Mapping[str, Any]) -> Iterator[str]:
    evaluation = details["evaluate"]
    yield "# Model card"
    yield ""
    yield f"{_purpose(origin)} {verdict(evaluation)} {against_chance(evaluation)}"
    for part in _parts(details, origin, slices):
        yield ""
        yield f"## {part.title}"
        for line in part.lines:
            yield ""
            yield line
        for table in part.tables:
            yield from _markdown(table)


def _purpose(origin: Origin) -> str:
    label = origin.settings.get("data.label", "the label")
    members = " and ".join(origin.settings.get("model.members", ()))
    return f"Calibrated probabilities that {_code(str(label))} is 1 for a row of the log, by {members}."


def _parts(details: Mapping[str, Mapping[str, Any]], origin: Origin, slices: Mapping[str, Any]) -> Iterator[_Part]:
    evaluation, calibration = details["evaluate"], details["calibrate"]
    prepared, split, train = details["prepare"], details["split"], details["train"]
    if prepared:
        yield _Part("Data", [], [tables.data_table(prepared)])
    if split:
        audits = tables.numbered(map(tables.audit_table, tables.of_each_fold(split)))
        yield _Part("Folds", [_folds(origin)], audits)
    yield _Part("Figures", [], tables.all_figures(evaluation))
    yield _Part("Members", [], [tables.members_table(evaluation, tables.mean_weights(calibration))])
    if calibration:
        of_folds = tables.numbered(map(tables.calibration_table, tables.of_each_fold(calibration)))
        yield _Part("Calibration", [_calibrated(evaluation)], of_folds)
    if slices:
        yield _Part("Slices", [], [_slices_table(slices)])
    if train:
        yield _Part("Training", [], tables.training_tables(train, details["trees"]))
    yield _Part("Limits", [f"- {line}" for line in limits(details, origin, slices)])
    yield _Part("Settings that differ from the default", [], [tables.settings_table(origin)])
    yield _Part("Made from", [], [tables.provenance_table(origin)])


def _folds(origin: Origin) -> str:
    method = origin.settings.get("split.method")
    how = "the latest rows of the log validate" if method == "time" else "a hash decides which rows validate"
    num_folds = origin.settings.get("split.num_folds", 1)
    if num_folds > 1:
        how += f", in {num_folds} folds with a model each, by which no row is judged that it has seen"
    return (
        f"Divided by `{method}`: {how}. Half of the validation fold chose when to stop, how members are blended and "
        "how they are calibrated; every figure here is of the other half, which decided nothing."
    )


def _calibrated(evaluation: Mapping[str, Any]) -> str:
    after = evaluation["after"]
    ratio, error = after["calibration_ratio"], after["calibration_ratio_se"]
    spread = "" if error is None else f" ± {number(NORMAL_975 * error)}"
    return (
        f"Predicted over observed clicks: {number(ratio)}{spread}. Cox slope {number(after['cox_slope'])} (1 is "
        f"calibrated), intercept {number(after['cox_intercept'])} (0 is)."
    )


def limits(details: Mapping[str, Mapping[str, Any]], origin: Origin, slices: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know before the figures are believed of other rows, a sentence each.

    Args:
        details: What each stage left in `metrics/`.
        origin: What the figures were made from.
        slices: Figures by column and value.
    """
    evaluation, split = details["evaluate"], details["split"]
    small = smallness(evaluation)
    if small is not None:
        yield small
    if origin.settings.get("split.method") == "time":
        yield "Rows that are later than the validation fold by more than it is long were never tried."
    else:
        yield (
            "Validation rows are as old as those of training: of later days expect less, and see `qin backtest` where "
            "the log has a time."
        )
    for name, share in split.get("cold", {}).items():
        if share > _MANY_NEW:
            yield f"{share:.1%} of the validation rows have a {name} unseen in training; with more, figures fall."
    if origin.settings.get("train.refit") == "all" and origin.settings.get("split.num_folds", 1) == 1:
        yield "The deployed model was fitted on the validation rows, too; the figures are those of the held-out one."
    if "train.init_from" in origin.made_from:
        yield "Training started from an earlier model; the figures hold if that had not seen these validation rows."
    yield "Probabilities are at the log's base rate; elsewhere shift them (`predict.prior`, `prior=` of `qin.Scorer`)."
    yield from _uncalibrated(slices)
    if not slices:
        yield "No column was looked at by value (`evaluate.slices`): how groups fare is unknown."
    yield "Clicks are of rows that were shown: what another ranking would have shown is not measured."
    yield from map(_sentence, tables.warnings_of(details.values()))


def _uncalibrated(slices: Mapping[str, Any]) -> Iterator[str]:
    for column, values in slices.items():
        far = []
        for name, figures in values.items():
            ratio, error = figures["calibration_ratio"], figures["calibration_ratio_se"]
            if ratio is not None and error and abs(ratio - 1.0) > _FAR_FROM_CALIBRATED * error:
                far.append(f"{_plain(name)} ({ratio:.2f})")
        if far:
            yield f"Not calibrated within {_code(column)} (predicted over observed clicks): {', '.join(far)}."


def _slices_table(slices: Mapping[str, Any]) -> Table:
    rows = []
    for column, values in slices.items():
        for name, figures in values.items():
            shown = [_with_error(figures, key) for key in ("ap", "auc", "calibration_ratio")]
            rows.append((column, name, f"{figures['rows']:,}", number(figures["base_rate"]), *shown))
    header = ("column", "value", "rows", "base rate", "AP", "AUC", "predicted / observed")
    return Table(header, rows, "± one standard error.")


def _with_error(figures: Mapping[str, Any], key: str) -> str:
    value, error = figures[key], figures.get(f"{key}_se")
    return number(value) + ("" if error is None else f" ± {error:.2g}")


def _markdown(table: Table) -> Iterator[str]:
    if table.rows:
        yield ""
        yield _row(table.header)
        yield _row(["---"] * len(table.header))
        yield from map(_row, table.rows)
    if table.text:
        yield ""
        yield table.text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Text that stays in its cell, and means nothing to Markdown."""
    return _plain(" ".join(text.split())).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text of any characters, such as a value of a log, shown as it is: none of it is markup."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _sentence(text: str) -> str:
    """A line of ours, which may quote names and values: one line, without a tag of HTML."""
    return printable(text).replace("<", "\\<")


def _code(name: str) -> str:
    """A name as Markdown's code, which shows every character but a line break as it is."""
    text = printable(name)
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{blank}{text}{blank}{fence}" if text else "the column without a name"
