"""The label, and the columns that would tell it: other outcomes of the same row."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import rankdata

from qin.runtime.errors import SchemaError
from qin.setup.profile import ColumnProfile, LogProfile, hashes_of, numbers_of

# In the order of preference, where names alone decide.
_LABELS = re.compile(
    r"(is_?)?(click(ed)?|clk|label|target|y|like[ds]?|liked|convert(ed)?|conversion|cvr|purchase[ds]?|bought|buy|install(ed)?"
    r"|is_attributed|long_view|favou?rite|follow|share[ds]?|engaged|engagement|response|outcome|watched)",
    re.IGNORECASE,
)
_CLICKS = re.compile(r"(is_?)?(click(ed)?|clk|label|target|y)", re.IGNORECASE)
_FEWEST_CLICKS = 10
# AUC of one column alone: no property of a row known before the click comes near the first.
LEAK, SUSPICIOUS = 0.98, 0.9

Ask = Callable[[str, list[str]], str]


@dataclass(frozen=True)
class Label:
    """The column to predict.

    Attributes:
        name: Of the column.
        reason: Why this one.
        others: Columns of 0 and 1 that could be meant instead.
        is_sure: Whether nothing else was as likely.
    """

    name: str
    reason: str
    others: tuple[str, ...] = ()
    is_sure: bool = True


def choose_label(
    log: LogProfile, *, wanted: str | None, test: Collection[str], submission: Collection[str], ask: Ask | None
) -> Label:
    """Find the column of outcomes.

    1. Columns of 0 and 1 that test lacks, if there are any, or else all.
    2. Of these the ones that the sample submission names, or whose names are a click's, or an outcome's, or all.
    3. Of several the user's choice, or the first, marked as a guess.

    Args:
        log: The train file.
        wanted: The user's word; None to find it.
        test: Columns of the test file; empty without one.
        submission: Columns of the sample submission; empty without one.
        ask: Asks the user to choose one of several; None where nobody can be asked.

    Raises:
        SchemaError: If no column has the values 0 and 1, or the wanted one has others.
    """
    binary = [column.name for column in log.columns.values() if _is_binary(column)]
    if wanted is not None:
        _check(log, wanted)
        return Label(wanted, "--label", tuple(name for name in binary if name != wanted))
    if not binary:
        raise SchemaError(
            f"{log.file}: no column has the values 0 and 1 alone (or true and false; none missing), as a label must; "
            "add one, such as 1 where a rating is above 3"
        )
    absent = [name for name in binary if test and name not in test]
    candidates = absent or binary
    named = [name for name in candidates if name in submission]
    likely = named or [name for name in candidates if _CLICKS.fullmatch(name)] or [
        name for name in candidates if _LABELS.fullmatch(name)
    ] or candidates  # fmt: skip
    others = tuple(name for name in (absent or [one for one in binary if _LABELS.fullmatch(one)]) if name != likely[0])
    if len(likely) == 1:
        return Label(likely[0], _reason(likely[0], absent, named), others)
    name = ask("which column is to be predicted", likely) if ask is not None else likely[0]
    return Label(
        name,
        f"one of {len(likely)} columns of 0 and 1 that could be meant",
        tuple(one for one in dict.fromkeys([*likely, *others]) if one != name),
        is_sure=ask is not None,
    )


def is_other_label(log: LogProfile, name: str) -> bool:
    """Whether a column of 0 and 1 is named as an outcome is."""
    return _is_binary(log.columns[name]) and _LABELS.fullmatch(name) is not None


def told_by(log: LogProfile, name: str, label: str) -> float:
    """How well one column alone tells the label: AUC on the sample, 0.5 to 1; 0.5 with too few clicks to say.

    Numbers by their order, either way, with missing ones first; other values by the click rate that they have in every
    other row of the sample.
    """
    clicked = numbers_of(log.sample_of(label)) == 1
    if min(clicked.sum(), (~clicked).sum()) < _FEWEST_CLICKS:
        return 0.5
    array = log.sample_of(name)
    if log.columns[name].is_number:
        numbers = np.nan_to_num(numbers_of(array), nan=-np.inf)
        found = _auc(numbers, clicked)
        return max(found, 1 - found)
    return _auc_of_rates(array, clicked)


def _is_binary(column: ColumnProfile) -> bool:
    if column.num_nulls or column.distinct != 2:
        return False
    return bool(pa.types.is_boolean(column.kind)) or (column.is_number and (column.minimum, column.maximum) == (0, 1))


def _check(log: LogProfile, name: str) -> None:
    if name not in log.columns:
        raise SchemaError(f"{log.file}: --label {name}: no such column; there are {', '.join(log.columns)}")
    column = log.columns[name]
    if not _is_binary(column):
        found = f"{column.distinct} different values"
        if column.is_number and column.distinct:
            found += f" from {column.minimum:g} to {column.maximum:g}"
        raise SchemaError(
            f"{log.file}: column {name}: a label has the values 0 and 1, both of them and none missing; "
            f"got {found}, {column.num_nulls} missing"
        )


def _reason(name: str, absent: list[str], named: list[str]) -> str:
    if named:
        return "0 and 1, and named in the sample submission"
    if absent:
        return "0 and 1, and not in test"
    return "0 and 1, and named as a label" if _LABELS.fullmatch(name) else "the only column of 0 and 1"


def _auc(score: npt.NDArray[np.float64], clicked: npt.NDArray[np.bool_]) -> float:
    num_clicks, num_rows = int(clicked.sum()), clicked.size
    if num_clicks in (0, num_rows):
        return 0.5
    above = rankdata(score)[clicked].sum() - num_clicks * (num_clicks + 1) / 2
    return float(above / (num_clicks * (num_rows - num_clicks)))


def _auc_of_rates(array: pa.Array, clicked: npt.NDArray[np.bool_]) -> float:
    hashes, code = np.unique(_with_nulls(array), return_inverse=True)
    # Of the rows that made them, rates of a column of many values would tell any label.
    fitted, judged = slice(0, None, 2), slice(1, None, 2)
    rows = np.bincount(code[fitted], minlength=hashes.size)
    clicks = np.bincount(code[fitted], weights=clicked[fitted], minlength=hashes.size)
    rate = (clicks + clicked.mean()) / (rows + 1)
    return _auc(rate[code[judged]], clicked[judged])


def _with_nulls(array: pa.Array) -> npt.NDArray[np.uint64]:
    is_null = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
    out = np.zeros(len(array), np.uint64)
    out[~is_null] = hashes_of(array.drop_null())
    return out
