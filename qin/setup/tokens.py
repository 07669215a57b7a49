"""Columns whose cells hold several values: histories, and sets such as `Action|Comedy`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import spearmanr

from qin.columns.types import is_groupable, is_number
from qin.raw.values import plain_values
from qin.setup.keys import ITEM
from qin.setup.profile import ColumnProfile, LogProfile, hashes_of, texts_of
from qin.setup.sketch import Hashes, ValueSketch

_SEPARATORS = (",", "|", ";", "^", "\t", " ", ":", "#", "~")  # the likeliest first, where cells hold several
_RARE_SEPARATORS = " :#~"  # which text has for other reasons: what they divide must look like ids
_PADDINGS = frozenset({"0", "-1", "<pad>", "<PAD>", "[PAD]", "pad", "PAD", "null", "None", ""})
_ID = re.compile(r"-?\d+|[A-Za-z_]{1,8}-?\d+")
_WHOLE = re.compile(r"\s*-?\d+\s*")
_NOT_TOKENS = re.compile(r"[({]|.*://|\d{4}-\d\d-\d\d|\d\d?:\d\d")
_MAX_LEN, _SHORT, _LONGEST_TOKEN, _FEW_NUMBERS = 100, 20, 40, 200
_LEAST_LIKENESS = 0.15


@dataclass(frozen=True)
class Tokens:
    """How a column's cells divide.

    Attributes:
        name: Of the column.
        separator: What divides a cell of text; None for lists.
        padding: Token that fills cells up; None without.
        values: Sketch of the tokens in the sample.
        hashes: The hash of each of these tokens, `(n,)`, ascending.
        counts: How often each is there, `(n,)`.
        max_len: Tokens that nearly every cell has at most, up to 100.
        longest: Tokens of the longest cell of the sample.
        is_text: Whether tokens are no whole numbers.
    """

    name: str
    separator: str | None
    padding: str | None
    values: ValueSketch
    hashes: Hashes
    counts: npt.NDArray[np.int64]
    max_len: int
    longest: int
    is_text: bool

    @property
    def shape(self) -> str:
        """How the cells look, for people."""
        cells = "lists" if self.separator is None else f"tokens with {self.separator!r} between them"
        return f"{cells}, up to {self.longest}, {self.values.count()} different ones in the sample"


def find_tokens(log: LogProfile) -> dict[str, Tokens]:
    """The columns whose cells hold several values, by name."""
    found = (_tokens_of(log, column) for column in log.columns.values())
    return {tokens.name: tokens for tokens in found if tokens is not None}


@dataclass(frozen=True)
class Shared:
    """The column whose values a history is made of.

    Attributes:
        column: Its name.
        share: Share of the history's different tokens that are values of the column.
        is_guess: Whether that may be chance, because both are small whole numbers.
    """

    column: str
    share: float
    is_guess: bool


def shared_column(log: LogProfile, tokens: Tokens, columns: Sequence[ColumnProfile]) -> Shared | None:
    """Find whose values a history is made of; None where it has a vocabulary of its own.

    Small whole numbers are values of many columns. Among those that hold nearly all tokens, the one that has the fewest
    values besides is meant. Where both fill a range, what is frequent here must be frequent there, too, or the column
    must have hardly other values, or an item's name.
    """
    shares = {column.name: tokens.values.share_within(column.values) for column in columns}
    best = max(shares.values(), default=0.0)
    if best < 0.5 or tokens.values.count() < 3:
        return None
    near = {c.name: c.values.share_within(tokens.values) for c in columns if shares[c.name] >= 0.9 * best}
    name = max(near, key=near.__getitem__)
    column = log.columns[name]
    is_dense = column.is_number and column.distinct > 0.2 * (column.maximum - column.minimum + 1)
    if not is_dense:  # codes so wide apart do not agree by chance
        return Shared(name, shares[name], is_guess=False)
    is_small = tokens.values.count() < _FEW_NUMBERS
    is_alike = _likeness(log, tokens, name) >= _LEAST_LIKENESS and not (is_small and near[name] < 0.5)
    is_same = near[name] >= 0.9 or ITEM.fullmatch(name) is not None
    if not is_alike and not (shares[name] >= 0.9 and is_same):
        return None
    return Shared(name, shares[name], is_guess=is_small or not is_alike)


def _likeness(log: LogProfile, tokens: Tokens, name: str) -> float:
    """Rank correlation of how often a value is a token and how often it is in the column, on the sample."""
    values, in_column = np.unique(hashes_of(log.sample_of(name)), return_counts=True)
    common, ours, theirs = np.intersect1d(tokens.hashes, values, return_indices=True)
    if common.size < 3 or np.ptp(tokens.counts[ours]) == 0 or np.ptp(in_column[theirs]) == 0:
        return 0.0
    return float(spearmanr(tokens.counts[ours], in_column[theirs]).statistic)


def _tokens_of(log: LogProfile, column: ColumnProfile) -> Tokens | None:
    if column.is_list:
        return _of_lists(column.name, log.sample_of(column.name))
    return _of_text(column.name, log.sample_of(column.name)) if column.is_text else None


def _of_lists(name: str, array: pa.Array) -> Tokens | None:
    values = pc.list_flatten(array)
    values = plain_values(values)
    if pa.types.is_floating(values.type) or not is_groupable(values.type):
        return None  # fractions, as in embeddings, or lists of lists
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    padding = _padding_of_lists(array) if lengths.size and (lengths == lengths[0]).all() and lengths[0] > 1 else None
    return _described(name, None, padding, values=values, lengths=lengths, is_text=not is_number(values.type))


def _of_text(name: str, array: pa.Array) -> Tokens | None:
    cells = texts_of(array)
    is_bracketed = bool(cells) and np.mean([text[0] == "[" and text[-1] == "]" for text in cells]) > 0.9
    cells = [text.strip("[] ") for text in cells] if is_bracketed else cells
    divided = {separator: np.mean([separator in text for text in cells]) for separator in _SEPARATORS if cells}
    for separator in sorted(divided, key=lambda one: (-divided[one], _SEPARATORS.index(one))):
        # Ordered by how many cells hold it: no later one divides more.
        if divided[separator] * len(cells) < 2 or divided[separator] < 0.02:
            return None
        parts = [text.split(separator) if separator != " " else text.split() for text in cells]
        parts = [[token.strip(" \"'") for token in cell] for cell in parts] if is_bracketed else parts
        padding = _padding(parts)
        if _is_divided(parts, separator, is_bracketed=is_bracketed, has_padding=padding is not None):
            tokens = [token.strip() for cell in parts for token in cell if token.strip() != padding]
            is_text = not all(_WHOLE.fullmatch(token) for token in tokens)
            lengths = np.array([len(cell) for cell in parts])
            values = pa.array(tokens, pa.large_string())
            return _described(name, separator, padding, values=values, lengths=lengths, is_text=is_text)
    return None


def _described(
    name: str,
    separator: str | None,
    padding: str | None,
    *,
    values: pa.Array,
    lengths: npt.NDArray[np.int64],
    is_text: bool,
) -> Tokens:
    sketch = ValueSketch()
    if padding is not None:
        is_value = pc.invert(
            pc.is_in(pc.cast(values, pa.large_string()), value_set=pa.array([padding], pa.large_string()))
        )
        values = values.filter(is_value)
    hashes, counts = np.unique(hashes_of(values), return_counts=True)
    sketch.add(hashes)
    longest = int(lengths.max(initial=1))
    # Of short cells all is kept; of long ones what 99 in 100 have, or one user would widen every row.
    usual = longest if longest <= _SHORT else int(np.quantile(lengths, 0.99))
    return Tokens(name, separator, padding, sketch, hashes, counts, min(max(usual, 1), _MAX_LEN), longest, is_text)


def _is_divided(parts: list[list[str]], separator: str, *, is_bracketed: bool, has_padding: bool) -> bool:
    """Whether cells are sets of tokens, and not text in which a character happens to stand."""
    counts = Counter(map(len, parts))
    tokens = [token for cell in parts for token in cell if token]
    # Histories are of any length; text in which a character happens to stand has it once or twice.
    if len(counts) < 3 and not (has_padding or is_bracketed):
        return False  # such as `Krakow, Poland` and codes of two parts
    if not tokens or any(_NOT_TOKENS.match(cell[0]) for cell in parts):
        return False  # ranges, addresses, times
    if is_bracketed or all(_WHOLE.fullmatch(token) for token in tokens):
        return not (separator == "," and _is_grouped_digits(parts))
    if separator in _RARE_SEPARATORS:
        return bool(np.mean([_ID.fullmatch(token) is not None for token in tokens]) > 0.98)
    return _recur(parts, tokens, separator)


def _recur(parts: list[list[str]], tokens: list[str], separator: str) -> bool:
    """Whether text is made of few short pieces again and again, as tags are, unlike prose and names of places."""
    later = [token for cell in parts for token in cell[1:]]
    is_written = separator in ",;" and bool(np.mean([token[:1] == " " for token in later]) > 0.5)
    is_short = bool(np.median([len(token) for token in tokens]) <= _LONGEST_TOKEN)
    most = 0.1 if is_written and max(map(len, parts)) > 3 else 0.0 if is_written else 0.5
    return is_short and len(set(tokens)) < most * len(tokens)


def _is_grouped_digits(parts: list[list[str]]) -> bool:
    """Whether cells are numbers such as 1,234,567."""
    return all(len(token) == 3 for cell in parts for token in cell[1:]) and all(len(cell[0]) <= 3 for cell in parts)


def _padding(parts: list[list[str]]) -> str | None:
    """The token that fills cells of one length up, at their front or end."""
    lengths = {len(cell) for cell in parts}
    if len(lengths) != 1 or max(lengths) < 2:
        return None
    for end in (0, -1):
        token, count = Counter(cell[end].strip() for cell in parts).most_common(1)[0]
        if token in _PADDINGS and count >= 0.1 * len(parts):
            return token
    return None


def _padding_of_lists(array: pa.Array) -> str | None:
    cells = [[str(token) for token in cell] for cell in array.to_pylist() if cell]
    return _padding(cells)
