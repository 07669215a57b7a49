"""A plan as entries of params.yaml: each choice with its reason and what else could be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qin.setup.kinds import DEFAULT_BUCKETS
from qin.setup.plan import Plan, Sequence
from qin.setup.profile import LogProfile
from qin.setup.yaml_text import Entry, commented, entry, listed, scalar

Purpose = Literal["probabilities", "score"]
MARK = "CHECK:"
_SHOWN = 12  # of a log with a hundred guesses, the terminal should keep the rest

_PRIORS = {
    "probabilities": ("natural", "--for probabilities: submitted numbers are click rates as they are in the log."),
    "score": (
        "balanced",
        "--for score: contests that weigh clicks and the rest alike (WLL) are won by probabilities at a base rate of "
        "one half; the order of rows, and so AP and AUC, stays.",
    ),
}


@dataclass(frozen=True)
class Files:
    """The files of a log.

    Attributes:
        train: The labelled log.
        test: Rows to predict.
        submission: The sample submission.
        missing: Those that are not there yet.
    """

    train: str
    test: str
    submission: str
    missing: tuple[str, ...] = ()


def entries_of(log: LogProfile, plan: Plan, *, files: Files, purpose: Purpose) -> dict[str, dict[str, Entry]]:
    """What `qin init` decides, by section and key."""
    prior, why = _PRIORS[purpose]
    return {
        "data": _data(plan, files),
        "features": _features(log, plan),
        "split": dict(_split(plan)),
        "calibration": {"by": _plain("by", None, "A column whose values get a shift of the logit each; null: none.")},
        "evaluate": {
            "slices": Entry(["Columns of train whose values are reported one by one."], listed("slices", [], {}))
        },
        "predict": {
            "prior": _plain("prior", prior, why + " natural | balanced | a number"),
        },
    }


def summary(log: LogProfile, plan: Plan, *, purpose: Purpose) -> Iterator[str]:
    """What was decided, line by line, for the terminal."""
    yield f"{log.file}: {log.num_rows:,} rows, {len(log.columns)} columns"
    yield _line("label", plan.label.name, plan.label.reason, is_guess=not plan.label.is_sure)
    yield _line("id", plan.id[0], plan.id[1].reason, is_guess=plan.id[1].is_guess)
    yield _line("target", ", ".join(plan.target), _target_reason(plan), is_guess=plan.is_target_guessed)
    for sequence in plan.sequences:
        yield _line("history", sequence.tokens.name, plan.roles[sequence.tokens.name].reason, is_guess=False)
    yield _line(
        "user", plan.user or "none", "by name" if plan.user else "no column is named so and repeats", is_guess=False
    )
    yield _line("split", plan.method, _split_reason(plan), is_guess=False)
    found = plan.impression
    yield _line("impression", ", ".join(found.key) if found else "none", _impression_reason(plan), is_guess=False)
    for kind in ("categorical", "numeric"):
        yield f"  {kind}: {len(plan.of_kind(kind))} columns"
    for kind in ("drop", "ignore"):
        for name in plan.of_kind(kind):
            yield _line(kind, name, plan.roles[name].reason, is_guess=plan.roles[name].is_guess)
    unsure = [n for n, role in plan.roles.items() if role.is_guess and role.kind in ("categorical", "numeric")]
    for name in unsure[:_SHOWN]:
        yield _line(plan.roles[name].kind, name, plan.roles[name].reason, is_guess=True)
    if len(unsure) > _SHOWN:
        yield f"? {len(unsure) - _SHOWN} more are marked in the file"
    yield f"  prior: {_PRIORS[purpose][0]}"


def _data(plan: Plan, files: Files) -> dict[str, Entry]:
    label, row_id = plan.label, plan.id
    others = f" Other columns of 0 and 1: {', '.join(label.others)}." if label.others else ""
    return {
        "train": _plain("train", files.train, "The labelled log."),
        "test": _plain(
            "test", files.test, "The rows to predict: the same columns without the label." + _absent(files.test, files)
        ),
        "sample_submission": _plain(
            "sample_submission",
            files.submission,
            "The header and the order of the submission." + _absent(files.submission, files),
        ),
        "label": _plain("label", label.name, _marked(f"To be predicted: {label.reason}.{others}", not label.is_sure)),
        "id": _plain("id", row_id[0], _marked(f"Names a row of test: {row_id[1].reason}.", row_id[1].is_guess)),
        "drop": _roles(plan, "drop", "Columns that train has and no model may read."),
        "ignore": _roles(plan, "ignore", "Columns that are no inputs; keys of the split stay readable for it."),
    }


def _features(log: LogProfile, plan: Plan) -> dict[str, Entry]:
    several = {name: count for name, count in plan.buckets.items() if count != DEFAULT_BUCKETS}
    own = {one.tokens.name for one in plan.sequences if one.shared is None}
    lines = [
        f"  {line}"
        for name, count in several.items()
        if name not in own
        for line in entry(name, f"{count}{_crowded(log, name, count)}")
    ]
    impression = plan.impression
    key = list(impression.key) if impression else None
    # Null means all numeric columns; a place in the list is categorical, and would not be compared.
    places = [*plan.of_kind("numeric"), *plan.places] if impression and plan.places else None
    compared = "null" if places is None else f"[{', '.join(map(scalar, places))}]"
    return {
        "categorical": _roles(
            plan, "categorical", "Every column is in one list. Ids, codes, text; hashed into buckets."
        ),
        "numeric": _roles(
            plan, "numeric", "Measures; move one here from above, or the other way, where the guess is wrong."
        ),
        "sequences": Entry(
            ["Cells that hold several values, oldest first; `vocabulary_of: COLUMN` shares that column's embeddings."],
            ["sequences:", *(line for one in plan.sequences for line in _sequence(plan, one))]
            if plan.sequences
            else ["sequences: []"],
        ),
        "target": Entry(
            [_marked(f"The item on offer: {_target_reason(plan)}.{_attributes(plan)}", plan.is_target_guessed)],
            listed("target", plan.target, {}),
        ),
        "num_buckets": _plain(
            "num_buckets",
            DEFAULT_BUCKETS,
            "Buckets of each vocabulary, at least four per value so that few share one; 0 is padding, 1 is null.",
        ),
        "num_buckets_of": Entry(
            ["Those with more values, by column."], ["num_buckets_of:", *lines] if lines else ["num_buckets_of: {}"]
        ),
        "impression": Entry(
            [
                f"Rows that were shown together: {_impression_reason(plan)}. `key` names the columns whose values they "
                "share, null: there are none. Columns whose numbers are compared among them, null: all numeric ones."
            ],
            [
                "impression:",
                f"  key: {'null' if key is None else '[' + ', '.join(map(scalar, key)) + ']'}",
                f"  columns: {compared}",
            ],
        ),
    }


def _sequence(plan: Plan, sequence: Sequence) -> list[str]:
    tokens = sequence.tokens
    role = plan.roles[tokens.name]
    lines = commented(f"{tokens.name}: {_marked(role.reason, role.is_guess)}", "  ")
    lines.append(f"  - name: {scalar(tokens.name)}")
    lines.append(f"    max_len: {tokens.max_len}")
    if sequence.shared:
        lines.append(f"    vocabulary_of: {scalar(sequence.shared.column)}")
    else:
        lines.append(f"    num_buckets: {plan.buckets[tokens.name]}")
    if tokens.separator not in (None, ","):
        lines.append(f"    separator: {scalar(tokens.separator)}")
    if tokens.padding is not None:
        lines.append(f"    padding: {scalar(tokens.padding)}")
    if tokens.separator is not None and tokens.is_text and sequence.shared is None:
        lines.append("    tokens: text")
    return lines


def _split(plan: Plan) -> Iterator[tuple[str, Entry]]:
    yield (
        "method",
        _plain("method", plan.method, f"{_split_reason(plan)}. stratified | group_user | group_session | time"),
    )
    yield (
        "row_key",
        Entry(
            ["Columns that identify a row, so that a fold does not depend on the order of rows."],
            listed("row_key", plan.row_key, {}) if plan.row_key else ["row_key: null"],
        ),
    )
    for key, name, what in (
        ("group_key", plan.user, "Column of the user; standard errors count users, not rows."),
        ("session_key", plan.session, "Column of the session."),
        ("time_col", plan.time, "Column of the time: datetime, date, number, numeric text or ISO text."),
    ):
        yield key, _plain(key, name, what)
    yield (
        "time_val_start",
        _plain("time_val_start", None, "First time of validation, in quotes; null: by time_val_ratio."),
    )
    yield "thresholds", _plain("thresholds", None, "Thresholds of an earlier run, from data/split/manifest.json.")


def _roles(plan: Plan, kind: str, comment: str) -> Entry:
    reasons = {name: _marked(plan.roles[name].reason, plan.roles[name].is_guess) for name in plan.of_kind(kind)}
    return Entry([comment], listed(kind, reasons, reasons))


def _plain(key: str, value: str | int | None, comment: str) -> Entry:
    return Entry([comment], [f"{key}: {scalar(value)}"])


def _marked(text: str, is_guess: bool) -> str:
    return f"{MARK} {text}" if is_guess else text


def _absent(file: str, files: Files) -> str:
    return f" {MARK} not there yet." if file in files.missing else ""


def _crowded(log: LogProfile, name: str, count: int) -> str:
    distinct = log.columns[name].distinct
    return f"  # {distinct:,} values: many share a bucket" if distinct > count / 2 else ""


def _target_reason(plan: Plan) -> str:
    if any(one.shared and one.shared.column in plan.target for one in plan.sequences):
        return "a history holds its values"
    return "the most values of all categories" if plan.is_target_guessed else "by name"


def _attributes(plan: Plan) -> str:
    if not plan.attributes:
        return ""
    shown = ", ".join(plan.attributes[:8])
    return f" Of each item there is one {shown}, which could be added here: the history would meet them, too."


def _split_reason(plan: Plan) -> str:
    if plan.time:
        return f"The latest rows by {plan.time} validate, which is nearest to how a model is used"
    if plan.user:
        return f"No column tells the time; rows of one {plan.user} stay in one fold"
    return "No column tells the time or the user; rows are drawn at random"


def _impression_reason(plan: Plan) -> str:
    if plan.impression is not None:
        return plan.impression.found
    if plan.together:
        return f"none; {plan.together[0].found}"
    return "none; no request id, and no session or user with a time"


def _line(what: str, name: str, reason: str, *, is_guess: bool) -> str:
    return f"{'? ' if is_guess else '  '}{what}: {name} ({reason})"
