"""The hidden world behind the log: ad hierarchy, topics and the effects in the click logit.

It is the same for every seed: a sample's seed draws rows from this world, never another world, so the
bias and the level effects below hold for every sample. They were found offline, by raking draws of
several million rows to the published click rates.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qin.sample.columns import NUM_TOKENS, NUM_VALUES
from qin.sample.histories import TABLE_SIZE, Tokens, spell_tokens

NUM_TOPICS = 8
_WORLD_SEED = 2504_17699  # the published model's number on arXiv; any would do

BIAS = -5.4932
MATCH_GAIN = 2.3
MATCH_CAP_TOKENS = 40

DAY_EFFECT = np.array([-0.138, 0.101, 0.036, 0.037, 0.023, 0.044, -0.102])
AGE_SHARE = np.array([0.03, 0.08, 0.14, 0.19, 0.20, 0.17, 0.12, 0.07])
AGE_EFFECT = np.array([1.525, 0.796, 0.287, -0.002, -0.229, -0.328, -0.288, -0.189])
INVENTORY_SHARE = np.array([5, 14, 2, 6, 4, 10, 3, 9, 16, 7, 5, 4, 3, 2, 3, 2, 3, 2]) / 100
INVENTORY_EFFECT = np.array(
    (
        *(0.015, -0.956, 0.536, -0.098, 0.395, -0.326, 0.736, -0.106, 0.151),
        *(-0.161, 0.263, 0.522, -0.500, 0.773, 0.369, 1.065, 1.338, 0.636),
    )
)
HOUR_SHARE = np.array(
    [30, 20, 14, 10, 9, 12, 22, 38, 48, 50, 48, 50, 58, 55, 50, 48, 48, 50, 54, 56, 58, 60, 58, 46], dtype=float
)
HOUR_SHARE /= HOUR_SHARE.sum()
HOUR_EFFECT = 0.10 * np.cos(2 * np.pi * (np.arange(24) - 21) / 24)
GENDER_SHARE = np.array([0.45, 0.55])
GENDER_EFFECT = np.array([-0.05, 0.04])
L_FEAT_3_EFFECT = np.array([-0.08, 0.06, 0.12])
L_FEAT_27_EFFECT = np.array([0.10, -0.06, -0.12, 0.05, -0.10])
FEAT_A_2_GAIN = 0.06
LOG_GAINS = {"feat_c_2": (0.16, 9.08, 2.0), "feat_e_2": (-0.06, 7.0, 2.2), "history_b_3": (0.06, 1.3, 0.9)}
"""Gain, centre and spread of log(1 + value) for the heavy-tailed numerics."""
LENGTH_NODES = np.log([4.0, 40.0, 170.0, 360.0, 700.0, 1200.0])
LENGTH_EFFECT = np.array([2.279, 0.835, -0.051, -0.084, -0.195, -0.372])


class World(NamedTuple):
    """Lookup tables of the hidden world; every array is indexed by a zero-based code.

    Attributes:
        ad_set: Ad set of each creative; `campaign`, `advertiser`, `category` and `topic` likewise.
        attributes: For each derived `l_feat_*` column, its code per creative.
        creative_cdf: Cumulative popularity of the creatives in the order `creative_order`.
        creative_order: Creatives sorted by topic, so that a topic is an interval of `creative_cdf`.
        topic_bounds: Array of shape (topics + 1,), those intervals' ends.
        creative_effect: Logit effect of the creative and of the levels it belongs to.
        tokens: The vocabulary of the behaviour sequences.
        age_slope, inventory_slope, gender_slope, topic_slope: factors of the pairwise interactions.
    """

    ad_set: NDArray[np.int64]
    campaign: NDArray[np.int64]
    advertiser: NDArray[np.int64]
    category: NDArray[np.int64]
    topic: NDArray[np.int64]
    attributes: dict[str, NDArray[np.int64]]
    creative_cdf: NDArray[np.float64]
    creative_order: NDArray[np.int64]
    topic_bounds: NDArray[np.float64]
    creative_effect: NDArray[np.float64]
    tokens: Tokens
    age_slope: NDArray[np.float64]
    inventory_slope: NDArray[np.float64]
    gender_slope: NDArray[np.float64]
    topic_slope: NDArray[np.float64]


@cache
def hidden_world() -> World:
    """Build the world; every call returns the same one."""
    # One generator for all, in this order: a draw more or less, or in another place, would be another world.
    rng = np.random.default_rng(_WORLD_SEED)
    ad_set = _parents(rng, children=NUM_VALUES["l_feat_12"], parents=NUM_VALUES["l_feat_14"])
    set_campaign = _parents(rng, children=NUM_VALUES["l_feat_14"], parents=NUM_VALUES["l_feat_11"])
    campaign_advertiser = _parents(rng, children=NUM_VALUES["l_feat_11"], parents=NUM_VALUES["l_feat_10"])
    advertiser_category = _parents(rng, children=NUM_VALUES["l_feat_10"], parents=NUM_VALUES["l_feat_26"])
    campaign = set_campaign[ad_set]
    advertiser = campaign_advertiser[campaign]
    category = advertiser_category[advertiser]
    topic = category % NUM_TOPICS
    order, cdf, bounds = _popularity_by_topic(rng, topic)
    tokens = _draw_tokens(rng)
    effects = (
        0.08 * rng.standard_normal(NUM_VALUES["l_feat_26"])[category]
        + 0.06 * rng.standard_normal(NUM_VALUES["l_feat_11"])[campaign]
        + 0.05 * rng.standard_normal(NUM_VALUES["l_feat_14"])[ad_set]
        + 0.05 * rng.standard_normal(NUM_VALUES["l_feat_12"])
    )
    attributes = {
        name: _parents(rng, children=NUM_VALUES["l_feat_14"], parents=NUM_VALUES[name])[ad_set]
        for name in ("l_feat_5", "l_feat_15", "l_feat_25")
    }
    return World(
        ad_set=ad_set,
        campaign=campaign,
        advertiser=advertiser,
        category=category,
        topic=topic,
        attributes=attributes,
        creative_cdf=cdf,
        creative_order=order,
        topic_bounds=bounds,
        creative_effect=effects,
        tokens=tokens,
        age_slope=np.linspace(1.0, -1.0, len(AGE_SHARE)),
        inventory_slope=0.30 * rng.choice([-1.0, 1.0], size=len(INVENTORY_SHARE)),
        gender_slope=np.array([1.0, -1.0]),
        topic_slope=0.16 * rng.permutation(np.repeat([-1.0, 1.0], NUM_TOPICS // 2)),
    )


def _parents(rng: np.random.Generator, *, children: int, parents: int) -> NDArray[np.int64]:
    """Parent of each child, every parent with at least one child."""
    # One child for every parent first, so that every published level occurs.
    rest = rng.integers(0, parents, size=children - parents)
    return rng.permutation(np.concatenate([np.arange(parents), rest]))


def _popularity_by_topic(
    rng: np.random.Generator, topic: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Zipf popularity of the creatives, cumulated topic by topic, so that each topic is one interval."""
    weight = 1.0 / rng.permutation(np.arange(1, len(topic) + 1)) ** 0.8
    order = np.argsort(topic, kind="stable")
    cdf = np.cumsum(weight[order]) / weight.sum()
    last = np.cumsum(np.bincount(topic, minlength=NUM_TOPICS)) - 1
    return order, cdf, np.concatenate([[0.0], cdf[last]])


def _draw_tokens(rng: np.random.Generator) -> Tokens:
    """Equally many tokens per topic; their popularity follows a Zipf law within each."""
    topics = np.concatenate([[-1], rng.permutation(np.arange(NUM_TOKENS) % NUM_TOPICS)])
    popularity = 1.0 / rng.permutation(np.arange(1, NUM_TOKENS + 1)) ** 0.7
    rows = [_table_row(np.flatnonzero(topics == topic), popularity) for topic in range(NUM_TOPICS)]
    rows.append(_table_row(np.arange(1, NUM_TOKENS + 1), popularity))
    return spell_tokens(np.stack(rows).astype(np.int16), topics=topics.astype(np.int64))


def _table_row(tokens: NDArray[np.int64], popularity: NDArray[np.float64]) -> NDArray[np.int64]:
    """`TABLE_SIZE` slots, at least one per token, shared by popularity."""
    share = np.cumsum(popularity[tokens - 1]) / popularity[tokens - 1].sum()
    free = TABLE_SIZE - len(tokens)
    # Rounded sums and not rounded shares, so that all slots are given away.
    counts = 1 + np.diff(np.rint(share * free).astype(np.int64), prepend=0)
    return np.repeat(tokens, counts)
