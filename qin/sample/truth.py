"""The click probability of drawn rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qin.sample import world as w
from qin.sample.rows import Rows


class Logit(NamedTuple):
    """The parts of the click logit, float64 arrays of shape (rows,).

    Attributes:
        main: Bias and main effects.
        interaction: Pairwise interactions of fields.
        sequence: What the recent history says about this target item.
    """

    main: NDArray[np.float64]
    interaction: NDArray[np.float64]
    sequence: NDArray[np.float64]

    @property
    def probability(self) -> NDArray[np.float64]:
        """The click probability: the logistic function of the parts' sum."""
        return 1.0 / (1.0 + np.exp(-(self.main + self.interaction + self.sequence)))


def click_logit(rows: Rows, *, world: w.World) -> Logit:
    """The logit of `qin.sample`'s formula; a null column contributes nothing."""
    return Logit(
        main=_main_effects(rows, world=world),
        interaction=_interactions(rows, world=world),
        sequence=w.MATCH_GAIN * np.minimum(rows.matches, w.MATCH_CAP_TOKENS) / w.MATCH_CAP_TOKENS,
    )


def _main_effects(rows: Rows, *, world: w.World) -> NDArray[np.float64]:
    codes = rows.codes
    never_null = (
        w.BIAS
        + w.DAY_EFFECT[codes["day_of_week"]]
        + w.HOUR_EFFECT[codes["hour"]]
        + w.INVENTORY_EFFECT[codes["inventory_id"]]
        + w.L_FEAT_3_EFFECT[codes["l_feat_3"]]
        + w.L_FEAT_27_EFFECT[codes["l_feat_27"]]
        + world.creative_effect[codes["l_feat_12"]]
        + np.interp(np.log(rows.lengths), w.LENGTH_NODES, w.LENGTH_EFFECT)
    )
    nullable = (
        w.AGE_EFFECT[codes["age_group"]]
        + w.GENDER_EFFECT[codes["gender"]]
        + _log_score(rows, "feat_c_2")
        + _log_score(rows, "feat_e_2")
        + _log_score(rows, "history_b_3")
    )
    feat_a = w.FEAT_A_2_GAIN * rows.numerics["feat_a_2"]
    total: NDArray[np.float64] = (
        never_null + np.where(rows.is_joint_null, 0.0, nullable) + np.where(rows.is_feat_a_null, 0.0, feat_a)
    )
    return total


def _log_score(rows: Rows, name: str) -> NDArray[np.float64]:
    gain, centre, spread = w.LOG_GAINS[name]
    score: NDArray[np.float64] = gain * (np.log1p(rows.numerics[name].astype(np.float64)) - centre) / spread
    return score


def _interactions(rows: Rows, *, world: w.World) -> NDArray[np.float64]:
    codes = rows.codes
    topics = world.topic[codes["l_feat_12"]]
    by_user = (
        world.age_slope[codes["age_group"]] * world.inventory_slope[codes["inventory_id"]]
        + world.gender_slope[codes["gender"]] * world.topic_slope[topics]
    )
    return np.where(rows.is_joint_null, 0.0, by_user)
