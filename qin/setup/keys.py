"""Columns that name rows, users, sessions and moments, and those whose values rows of an impression share."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from qin.raw.hashing import hash_column, hash_rows, seed_of
from qin.raw.log import read_batches
from qin.raw.times import TimeColumn
from qin.runtime.errors import QinError
from qin.setup.profile import ColumnProfile, LogProfile, numbers_of

_END = r"(_?(id|ids|idx|index|no|nr|key|code|hash|uuid|guid))?"
USER = re.compile(
    rf"(.*_)?(user|uid|member|customer|visitor|account|client|person|reader|viewer|buyer|cookie){_END}|fullVisitorId",
    re.IGNORECASE,
)
SESSION = re.compile(rf"(.*_)?(session|visit|sess){_END}", re.IGNORECASE)
REQUEST = re.compile(
    rf"(.*_)?(request|req|impression|imp|query|search|srch|qid|page_?view|pv|slate|list|display|auction|rec|trace){_END}",
    re.IGNORECASE,
)
ITEM = re.compile(
    rf"(.*_)?(item|video|movie|film|ad|advert|creative|product|prod|sku|article|news|doc|document|hotel|song|track|book|game|app"
    rf"|post|photo|recipe|listing|job|offer|goods|place|restaurant|poi|material|content){_END}",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(.*_)?(time|timestamp|ts|datetime|date|day|dt|moment|when|utc|hour)(_?(ms|s|sec|us|utc|stamp))?", re.IGNORECASE
)
# Times, but of something else than the showing: taken for it only where there is no other.
_NO_EVENT = re.compile(
    r".*(birth|register|signup|release|publish|created|upload|expire|watch|dwell|duration|_len).*", re.IGNORECASE
)
_SAMPLED_ROWS = 1 << 19  # hashes of so many fit into any memory
# Days, hours and months: 20221104, 2022110423 and 202211.
_PLAIN_DIGITS = ((19000101, 21001231), (1900010100, 2100123123), (190001, 210012))
_FIRST_SHORT_HOUR = 1010100  # of the year 2001
_FIRST_EPOCH, _LAST_EPOCH = 6e8, 4.2e9  # 1989 to 2103, in seconds


@dataclass(frozen=True)
class Together:
    """How rows come in impressions by some columns.

    Attributes:
        key: The columns.
        share: Of the rows, those in impressions of at least two.
        mean_rows: Rows of an impression of at least two.
        single: Of such impressions, those with at most one click.
    """

    key: tuple[str, ...]
    share: float
    mean_rows: float
    single: float

    @property
    def is_impression(self) -> bool:
        """Whether that looks like items that were shown together."""
        if len(self.key) == 1:  # a request's own name: a page of news may have several clicks
            return self.share >= 0.5 and self.single >= 0.5
        # A user and a time may agree by chance, or because the time is a day: more rows and few clicks must say so.
        return self.share >= 0.5 and self.mean_rows >= 3 and self.single >= 0.7

    @property
    def found(self) -> str:
        """What was counted, for people."""
        return (
            f"{self.share:.0%} of the rows share {' and '.join(self.key)} with others, {self.mean_rows:.1f} rows each, "
            f"{self.single:.0%} of these with at most one click"
        )


def find_times(log: LogProfile) -> list[str]:
    """Columns that tell when a row was shown, the likeliest first: no value missing, all rows of one form."""
    found = [column for column in log.columns.values() if _tells_time(log, column)]
    return [column.name for column in sorted(found, key=_unlikely_time)]


def first_named(pattern: re.Pattern[str], columns: Iterable[ColumnProfile]) -> str | None:
    """The column whose name fits and that has the most values, of those that divide rows into groups."""
    fitting = [
        c for c in columns if pattern.fullmatch(c.name) and c.distinct >= 2 and not c.names_rows and not c.is_fraction
    ]
    return max(fitting, key=lambda column: column.distinct).name if fitting else None


def rows_together(log: LogProfile, key: Sequence[str], label: str) -> Together:
    """Count the rows that share a key, on a part of the impressions that fits into memory, each of them whole."""
    limit = np.uint64(2**64 - 1)
    hashes, clicked = np.empty(0, np.uint64), np.empty(0, np.bool_)
    for chunk in read_batches(log.file, columns=[*key, label], batch_rows=1 << 15):
        batch = chunk.batch
        columns = [hash_column(batch.column(name)) for name in key]
        rows = hash_rows(columns, seed_of("impression of setup", 0))
        is_kept = (rows <= limit) & ~np.logical_or.reduce([column.is_null for column in columns])
        hashes = np.concatenate([hashes, rows[is_kept]])
        clicked = np.concatenate([clicked, (numbers_of(batch.column(label)) == 1)[is_kept]])
        # Half of the keys go, each with all of its rows: what stays are whole impressions, whatever order they come in.
        while hashes.size > _SAMPLED_ROWS and limit > 1:
            limit //= np.uint64(2)
            clicked, hashes = clicked[hashes <= limit], hashes[hashes <= limit]
    _, code, size = np.unique(hashes, return_inverse=True, return_counts=True)
    clicks = np.bincount(code, weights=clicked, minlength=size.size)
    is_group = size >= 2
    if not is_group.any():
        return Together(tuple(key), 0.0, 0.0, 0.0)
    share, mean_rows = size[is_group].sum() / hashes.size, size[is_group].mean()
    return Together(tuple(key), float(share), float(mean_rows), float((clicks[is_group] <= 1).mean()))


def _tells_time(log: LogProfile, column: ColumnProfile) -> bool:
    if column.num_nulls or column.distinct < 5 or column.is_list:
        return False
    if column.is_datetime:
        return True
    if column.is_number:
        return column.is_whole and _TIME.fullmatch(column.name) is not None and _is_moment(column)
    return column.is_text and _is_time_text(log, column)


def _is_moment(column: ColumnProfile) -> bool:
    """Whether numbers are seconds since 1970 (or thousandths ...) or digits such as 20221104."""
    low, high = column.minimum, column.maximum
    is_epoch = any(_FIRST_EPOCH * unit <= low and high <= _LAST_EPOCH * unit for unit in (1, 1e3, 1e6, 1e9))
    are_digits = any(first <= low and high <= last for first, last in _PLAIN_DIGITS)
    return is_epoch or are_digits or (low >= _FIRST_SHORT_HOUR and _is_short_hour(low) and _is_short_hour(high))


def _is_short_hour(number: float) -> bool:
    """Whether digits are an hour with two digits of its year, such as 14102123; a duration hardly has that month."""
    try:
        datetime.strptime(f"{number:08.0f}", "%y%m%d%H")
    except ValueError:
        return False
    return True


def _is_time_text(log: LogProfile, column: ColumnProfile) -> bool:
    try:
        time = TimeColumn.of(log.file, column.name)
        values = time.values(log.sample_of(column.name), first_row=0)
    except QinError:  # this asks whether it is one; the answer is no
        return False
    if time.is_moment:
        return True
    low, high = float(values.min()), float(values.max())
    return _TIME.fullmatch(column.name) is not None and _is_moment(
        ColumnProfile(column.name, column.kind, minimum=low, maximum=high)
    )


def _unlikely_time(column: ColumnProfile) -> tuple[bool, bool, int]:
    return _NO_EVENT.fullmatch(column.name) is not None, _TIME.fullmatch(column.name) is None, -column.distinct
