"""Draw the rows of one block: codes of the categorical columns, numerics, sequences and null masks."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qin.sample.columns import (
    ASSUMED_NUM_VALUES,
    FEAT_A_NULL_RATE,
    FEAT_E_3_NULL_RATE,
    JOINT_NULL_RATE,
    L_FEATURES,
    MAX_SEQUENCE_LENGTH,
    NUM_VALUES,
)
from qin.sample.histories import Interests, sequence_lengths, write_sequences
from qin.sample.numerics import draw_numerics
from qin.sample.streams import Split, Streams
from qin.sample.world import (
    AGE_SHARE,
    GENDER_SHARE,
    HOUR_SHARE,
    INVENTORY_SHARE,
    NUM_TOPICS,
    World,
    hidden_world,
)

TARGETED_RATE = 0.22
_CHANGED_INTEREST_RATE = 0.6
_LONGEST_SEQUENCE_ROW = 2  # behind the rows of the duplicate
_ZIPF_EXPONENT = 0.9


class Rows(NamedTuple):
    """The drawn rows of a block; every array has shape (rows,).

    Attributes:
        codes: Zero-based codes of gender, age_group, inventory_id, day_of_week, hour and `l_feat_*`.
        numerics: `feat_*` and `history_*`, before nulls.
        lengths: Tokens per sequence.
        sequences: The sequences as text.
        matches: How many of a row's last 100 tokens share the target's topic.
        is_joint_null: Rows of the joint null block.
        is_feat_a_null: Rows whose `feat_a_*` are null.
        is_feat_e_3_null: Rows whose `feat_e_3` is null.
    """

    codes: dict[str, NDArray[np.int64]]
    numerics: dict[str, NDArray[np.float32]]
    lengths: NDArray[np.int64]
    sequences: pa.StringArray
    matches: NDArray[np.int64]
    is_joint_null: NDArray[np.bool_]
    is_feat_a_null: NDArray[np.bool_]
    is_feat_e_3_null: NDArray[np.bool_]


def draw_rows(days: NDArray[np.int64], *, streams: Streams) -> Rows:
    """Draw one block.

    Args:
        days: Zero-based day of each row, of shape (rows,).
        streams: The block's random streams.

    Returns:
        The rows; only their days depend on how many rows the file has.
    """
    world = hidden_world()
    num_rows = len(days)
    length_share = streams.generator("length").random(num_rows)
    lengths = sequence_lengths(length_share)
    if streams.split is Split.TRAIN and streams.block == 0:
        lengths[_LONGEST_SEQUENCE_ROW : _LONGEST_SEQUENCE_ROW + 1] = MAX_SEQUENCE_LENGTH
    interests = _draw_interests(num_rows, streams=streams)
    creative = _draw_creatives(interests, streams=streams, world=world)
    sequences, matches = write_sequences(
        lengths,
        row_seeds=streams.generator("tokens").integers(0, 2**64, size=num_rows, dtype=np.uint64),
        interests=interests,
        target_topics=world.topic[creative],
        tokens=world.tokens,
    )
    # An even draw with mean 0 and variance 1: who has a long history is active.
    activity = ((2 * length_share - 1) * np.sqrt(3)).astype(np.float32)
    # One draw for both: where the joint columns are null, `feat_a_*` are null, too.
    null_share = streams.generator("joint null").random(num_rows)
    return Rows(
        codes=_draw_context(days, streams=streams) | _ad_codes(creative, world=world),
        numerics=draw_numerics(num_rows, streams=streams, activity=activity),
        lengths=lengths,
        sequences=sequences,
        matches=matches,
        is_joint_null=null_share < JOINT_NULL_RATE,
        is_feat_a_null=null_share < FEAT_A_NULL_RATE,
        is_feat_e_3_null=streams.generator("feat_e_3 null").random(num_rows) < FEAT_E_3_NULL_RATE,
    )


def _draw_interests(num_rows: int, *, streams: Streams) -> Interests:
    rng = streams.generator("interests")
    # All seven at once: another one would have to come last, or it would move the others.
    draws = rng.random((num_rows, 7))
    recent = (draws[:, 0:2] * NUM_TOPICS).astype(np.int64)
    other = (draws[:, 2:4] * NUM_TOPICS).astype(np.int64)
    has_changed = draws[:, 4] < _CHANGED_INTEREST_RATE
    first = 0.35 + 0.25 * draws[:, 5]
    second = first + 0.15 + 0.10 * draws[:, 6]
    return Interests(
        recent=recent,
        older=np.where(has_changed[:, None], other, recent),
        thresholds=(np.stack([first, second], axis=1) * 65_536).astype(np.int64),
    )


def _draw_creatives(interests: Interests, *, streams: Streams, world: World) -> NDArray[np.int64]:
    """Creatives by popularity; some are targeted: drawn from one of the user's current topics."""
    num_rows = len(interests.recent)
    draws = streams.generator("creative").random((num_rows, 3))
    wanted = interests.recent[np.arange(num_rows), (draws[:, 0] < 0.5).astype(np.int64)]
    is_targeted = draws[:, 1] < TARGETED_RATE
    low = np.where(is_targeted, world.topic_bounds[wanted], 0.0)
    high = np.where(is_targeted, world.topic_bounds[wanted + 1], 1.0)
    position = np.searchsorted(world.creative_cdf, low + draws[:, 2] * (high - low), side="right")
    creative: NDArray[np.int64] = world.creative_order[np.minimum(position, len(world.creative_order) - 1)]
    return creative


def _ad_codes(creative: NDArray[np.int64], *, world: World) -> dict[str, NDArray[np.int64]]:
    nested = {
        "l_feat_12": creative,
        "l_feat_14": world.ad_set[creative],
        "l_feat_11": world.campaign[creative],
        "l_feat_10": world.advertiser[creative],
        "l_feat_26": world.category[creative],
    }
    return nested | {name: codes[creative] for name, codes in world.attributes.items()}


def _draw_context(days: NDArray[np.int64], *, streams: Streams) -> dict[str, NDArray[np.int64]]:
    """The columns that do not depend on the ad, by their shares or by a Zipf law where none is published."""
    shares = {
        "gender": GENDER_SHARE,
        "age_group": AGE_SHARE,
        "inventory_id": INVENTORY_SHARE,
        "hour": HOUR_SHARE,
    }
    world = hidden_world()
    of_the_ad = {"l_feat_12", "l_feat_14", "l_feat_11", "l_feat_10", "l_feat_26", *world.attributes}
    num_values = NUM_VALUES | ASSUMED_NUM_VALUES
    for name in L_FEATURES:
        if name not in of_the_ad and name != "l_feat_17":
            weight = np.arange(1, num_values[name] + 1) ** -_ZIPF_EXPONENT
            shares[name] = weight / weight.sum()
    codes = {name: _draw_codes(share, len(days), streams.generator(name)) for name, share in shares.items()}
    # Both have the same number of published values, so one is a copy: a model must bear fields that say the same.
    return codes | {"day_of_week": days, "l_feat_17": codes["l_feat_9"]}


def _draw_codes(share: NDArray[np.float64], num_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    position = np.searchsorted(np.cumsum(share), rng.random(num_rows), side="right")
    return np.minimum(position, len(share) - 1)
