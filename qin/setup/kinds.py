"""Whether a column is a category or a measure, and how many buckets a vocabulary gets."""

import re

import numpy as np

from qin.columns.types import is_groupable
from qin.setup.profile import ColumnProfile, LogProfile, numbers_of, texts_of

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_MEASURES = re.compile(
    r"age|amount|avg|balance|bid|budget|clicks|cnt|cost|count|counts|days|discount|dist|distance|duration|fee"
    r"|followers|freq|frequency|height|hours|income|lat|latitude|len|length|likes|lng|lon|longitude|mean|minutes"
    r"|num|number|pct|percent|price|qty|quantity|rate|ratio|revenue|sales|score|sec|seconds|size|spend|std|step"
    r"|sum|temp|temperature|time|total|views|vol|volume|weight|width"
)
_CODES = re.compile(
    r"brand|browser|cat|category|channel|city|class|cluster|code|country|day|device|domain|dow|flag|gender|group"
    r"|has|hash|hour|id|ids|idx|is|kind|lang|language|level|model|month|network|onehot|os|platform|postcode"
    r"|region|segment|state|status|tab|type|user|version|week|weekday|zip|zipcode"
)
_PLACES = re.compile("position|pos|rank|slot|place")
_NO_MEASURES = re.compile("id|range|onehot|type|code")
_FEW, _SOME = 10, 64  # values that are categories in any case, and that may be
_BUCKETS_PER_VALUE, _MOST_BUCKETS = 4, 1 << 20  # of as many, at most one value in five shares its bucket
DEFAULT_BUCKETS = 1024

Guess = tuple[str, str, bool]


def kind_of(log: LogProfile, column: ColumnProfile) -> Guess:
    """What to do with a column that is nothing else.

    Returns:
        `categorical`, `numeric` or `ignore`; why; and whether that is a guess.
    """
    if not is_groupable(column.kind):
        return "ignore", f"{column.kind}: fits no list of inputs", False
    if column.is_datetime:
        return "ignore", "another time; if it matters, add how long before the row it was, as a number", True
    if not column.is_number:
        return _kind_of_text(log, column) if column.is_text else ("categorical", values_of(column), False)
    if column.is_fraction:
        return "numeric", "fractions", False
    return _kind_of_whole(log, column)


def values_of(column: ColumnProfile) -> str:
    """How many values a column has, for people."""
    missing = f", {column.num_nulls / column.num_rows:.0%} missing" if column.num_nulls else ""
    count = f"{column.distinct:,}" if column.values.is_exact else f"about {column.distinct:,}"
    return f"{count} values{missing}"


def buckets_for(distinct: int) -> int:
    """A power of two, at least four buckets for each value, up to a million."""
    wanted = max(_BUCKETS_PER_VALUE * distinct, DEFAULT_BUCKETS)
    return min(1 << (wanted - 1).bit_length(), _MOST_BUCKETS)


def is_place_of_item(name: str) -> bool:
    """Whether a column is named as the place of an item among those shown with it."""
    return _has_word(name, _PLACES)


def is_measure(name: str) -> bool:
    """Whether a column is named as a measure is."""
    return _has_word(name, _MEASURES) and not _has_word(name, _NO_MEASURES)


def _kind_of_text(log: LogProfile, column: ColumnProfile) -> Guess:
    texts = texts_of(log.sample_of(column.name))
    blanks = np.median([text.count(" ") for text in texts]) if texts else 0
    # Titles repeat from row to row; what hardly does is prose, of which buckets learn nothing.
    if blanks >= 3 and column.distinct > 0.2 * (column.num_rows - column.num_nulls):
        return "ignore", f"free text, {values_of(column)}", True
    if column.names_rows:
        return "ignore", "every row has a value of its own, so there is nothing to learn from it", True
    if texts and np.mean([re.fullmatch(r"[-+]?\d*\.\d*[1-9]", text) is not None for text in texts]) > 0.5:
        return (
            "categorical",
            f"text of fractions, {values_of(column)}; store it as numbers to have it as a measure",
            True,
        )
    return "categorical", values_of(column), False


def _kind_of_whole(log: LogProfile, column: ColumnProfile) -> Guess:
    seen = f"whole numbers, {values_of(column)}"
    if column.is_rounded:  # prepare would refuse them as categories
        return "numeric", f"{seen}, in rounded floats", True
    if is_measure(column.name) and column.distinct > _FEW:
        return "numeric", f"{seen}, named as a measure", False
    if column.names_rows and column.num_rows > _SOME:
        return "ignore", "every row has a value of its own, so there is nothing to learn from it", True
    if _has_word(column.name, _CODES) or column.distinct <= _FEW:
        return "categorical", seen, False
    if column.distinct <= _SOME:
        return "categorical", f"{seen}, which could be measures", True
    return _by_shape(log, column, seen)


def _by_shape(log: LogProfile, column: ColumnProfile, seen: str) -> Guess:
    """Counts have many small values and a long tail with gaps; codes fill their range, or lie anywhere in it."""
    numbers = numbers_of(log.sample_of(column.name))
    numbers = numbers[np.isfinite(numbers)]
    is_dense = column.distinct >= 0.5 * (column.maximum - column.minimum + 1) and column.distinct > 1000
    if not numbers.size:  # so few values that the sample has met none
        return "categorical", f"{seen}, too rare to see how they are spread", True
    is_skewed = bool(numbers.mean() > 1.5 * np.median(numbers) or (numbers == 0).mean() > 0.05)
    if is_skewed and not is_dense and column.maximum < 1e9:
        return "numeric", f"{seen}, most of them small, as counts are", True
    return "categorical", f"{seen}, spread as codes are", True


def _has_word(name: str, words: re.Pattern[str]) -> bool:
    """Whether a name such as `adCount_7d` has one of the words."""
    return any(words.fullmatch(word.lower()) for word in _WORD.findall(name))
