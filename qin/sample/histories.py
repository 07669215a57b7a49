"""Behaviour sequences: lengths, and token strings written straight into Arrow buffers."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qin.runtime.jit import njit
from qin.runtime.seeds import GOLDEN, mix
from qin.sample.columns import MAX_SEQUENCE_LENGTH, NUM_TOKENS

RECENT_TOKENS = 100
TABLE_SIZE = 4096  # the 12 bits of a draw that choose the token
_BYTES_PER_TOKEN = 4  # three digits and a comma

# Quartiles, shortest, longest and the share up to 100 are published; the rest is a smooth way between them.
_LENGTH_SHARES = (0.0055, 0.14, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.99999, 1.0)
_LENGTH_QUANTILES = (1.0, 100.0, 195.0, 460.0, 807.0, 1050.0, 1450.0, 2200.0, 6000.0, MAX_SEQUENCE_LENGTH)


class Interests(NamedTuple):
    """What each user reads: two favourite topics now, two in older history, and how strongly.

    Attributes:
        recent: Int64 array of shape (rows, 2), topics of the last `RECENT_TOKENS` tokens.
        older: Int64 array of shape (rows, 2), topics of the tokens before them.
        thresholds: Int64 array of shape (rows, 2) in 0..65536, cumulative shares of the two favourites.
    """

    recent: NDArray[np.int64]
    older: NDArray[np.int64]
    thresholds: NDArray[np.int64]


class Tokens(NamedTuple):
    """The vocabulary of the sequences.

    Attributes:
        table: Int16 array of shape (topics + 1, TABLE_SIZE); a uniform draw from a row is a token of that
            topic, and from the last row a token of any topic.
        topics: Int64 array of shape (tokens + 1,), topic of each token id; entry 0 is unused.
        text: Uint8 array of shape (tokens + 1, 4), each token's digits and a comma.
        widths: Int64 array of shape (tokens + 1,), used bytes of each row of `text`.
    """

    table: NDArray[np.int16]
    topics: NDArray[np.int64]
    text: NDArray[np.uint8]
    widths: NDArray[np.int64]


class _Output(NamedTuple):
    """What the kernel fills: bytes of all rows, their offsets (rows + 1,), and matches (rows,)."""

    text: NDArray[np.uint8]
    offsets: NDArray[np.int32]
    matches: NDArray[np.int64]


def spell_tokens(table: NDArray[np.int16], *, topics: NDArray[np.int64]) -> Tokens:
    """Add the tokens' text to their tables; the arguments are as in `Tokens`."""
    texts = [f"{token}," for token in range(NUM_TOKENS + 1)]
    padded = "".join(text.ljust(_BYTES_PER_TOKEN) for text in texts).encode()
    return Tokens(
        table=table,
        topics=topics,
        text=np.frombuffer(padded, dtype=np.uint8).reshape(-1, _BYTES_PER_TOKEN).copy(),
        widths=np.array([len(text) for text in texts], dtype=np.int64),
    )


def sequence_lengths(share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Lengths at the given quantiles of the published length distribution.

    Args:
        share: Uniform draws in [0, 1), of shape (rows,).

    Returns:
        Lengths in 1..14441, of shape (rows,): quartiles 195, 460 and 807, 0.55% of one token, 14% up to 100.
    """
    return np.interp(share, _LENGTH_SHARES, _LENGTH_QUANTILES).astype(np.int64)


def write_sequences(
    lengths: NDArray[np.int64],
    *,
    row_seeds: NDArray[np.uint64],
    interests: Interests,
    target_topics: NDArray[np.int64],
    tokens: Tokens,
) -> tuple[pa.StringArray, NDArray[np.int64]]:
    """Draw every row's tokens, write them as comma-separated text and count recent matches.

    Args:
        lengths: Tokens per row, of shape (rows,).
        row_seeds: One 64-bit seed per row.
        interests: The users' topics.
        target_topics: Topic of each row's target item, of shape (rows,).
        tokens: The vocabulary.

    Returns:
        The text column, and how many of each row's last `RECENT_TOKENS` tokens share the target's topic.
    """
    out = _Output(
        # As if every token were the widest: all four bytes are written of each, and the next one begins over what is
        # not its own.
        text=np.empty((int(lengths.sum()) + 1) * _BYTES_PER_TOKEN, dtype=np.uint8),
        offsets=np.zeros(len(lengths) + 1, dtype=np.int32),
        matches=np.zeros(len(lengths), dtype=np.int64),
    )
    _fill(lengths, row_seeds, interests, target_topics, tokens, out)
    text = pa.py_buffer(out.text[: out.offsets[-1]])
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(out.offsets), text), out.matches


@njit()
def _fill(
    lengths: NDArray[np.int64],
    row_seeds: NDArray[np.uint64],
    interests: Interests,
    target_topics: NDArray[np.int64],
    tokens: Tokens,
    out: _Output,
) -> None:
    """One SplitMix64 draw per token: 16 bits choose the topic, 12 others the token."""
    every_topic = tokens.table.shape[0] - 1
    end = 0
    for row in range(lengths.size):
        state = row_seeds[row]
        first_recent = lengths[row] - RECENT_TOKENS
        for position in range(lengths[row]):
            state += GOLDEN
            bits = mix(state)
            favourites = interests.recent if position >= first_recent else interests.older
            pick = np.int64(bits & np.uint64(0xFFFF))
            topic = every_topic
            if pick < interests.thresholds[row, 0]:
                topic = favourites[row, 0]
            elif pick < interests.thresholds[row, 1]:
                topic = favourites[row, 1]
            token = tokens.table[topic, np.int64((bits >> np.uint64(16)) & np.uint64(TABLE_SIZE - 1))]
            if position >= first_recent and tokens.topics[token] == target_topics[row]:
                out.matches[row] += 1
            for byte in range(_BYTES_PER_TOKEN):
                out.text[end + byte] = tokens.text[token, byte]
            end += tokens.widths[token]
        end -= 1  # no comma after the last token
        out.offsets[row + 1] = end
