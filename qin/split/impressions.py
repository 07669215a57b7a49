"""What the split knows of impressions: the facts of each row for later stages, and where a log seems to have them."""

import numpy as np

from qin.config import SplitParams
from qin.raw.hashing import Hashes
from qin.shards.row_facts import RowFacts
from qin.split.columns import SplitColumns

_UNITS = {"group_user": "group", "group_session": "session"}
_MIN_ROWS = 1.5  # per session and time, from which on they look like rows shown together


def row_facts(columns: SplitColumns, *, method: str) -> RowFacts:
    """Time and unit of each row, for later stages."""
    # What the method keeps in one fold later stages keep in one half of it; else impressions, else each row by itself.
    unit = columns.keys.get(_UNITS.get(method, "impression"), columns.row_hash)
    return RowFacts(unit, columns.time, columns.shown)


def impression_hint(columns: SplitColumns, split: SplitParams) -> str | None:
    """A line for the user where rows come several to a session and time, and no setting calls them impressions."""
    if "impression" in columns.keys or "session" not in columns.keys or columns.time is None:
        return None
    rows_of_one = columns.time.size / _num_distinct(columns.keys["session"], columns.time)
    if rows_of_one < _MIN_ROWS:
        return None
    return (
        f"{rows_of_one:.1f} rows on average have the same {split.session_key} and {split.time_col}; if they were shown "
        f"together, features.impression.key: [{split.session_key}, {split.time_col}] keeps them in one fold and "
        "compares them"
    )


def _num_distinct(session: Hashes, time: np.ndarray) -> int:
    order = np.lexsort((time, session))
    is_new = (session[order][1:] != session[order][:-1]) | (time[order][1:] != time[order][:-1])
    return 1 + int(is_new.sum())
