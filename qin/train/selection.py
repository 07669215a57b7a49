"""Hard-negative mining: which negatives of a batch are kept, and with what weight; pure functions of the losses.

A selection is unbiased when each weight is 1 in expectation.
"""

import math
from typing import Literal

import torch

MiningMode = Literal["goss", "pps", "ohem"]

# Smallest inclusion size as a share of the mean loss. It keeps rows of tiny loss, whose gradient need not be
# tiny for every loss, within reach, and bounds the weights at about ten times those of uniform sampling.
PPS_FLOOR = 0.1


def mine_hard_negatives(
    loss: torch.Tensor,
    label: torch.Tensor,
    *,
    mode: MiningMode,
    top_neg_frac: float,
    rest_frac: float,
    min_neg: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Select negatives of a batch by their loss; positives are always kept.

    With `n` negatives, `k = ceil(top_neg_frac * n)` and `m = ceil(rest_frac * n)`, the latter raised until
    `k + m` reaches `min_neg` and lowered to the rows there are:

    - `goss` keeps the `k` hardest with weight 1, and draws `m` of the other `R` uniformly without replacement
      with weight `R / m`. Unbiased for the loss and its gradient.
    - `pps` keeps `k + m` with probabilities proportional to the loss and capped at 1 (systematic sampling), and
      weights each by the inverse. Unbiased as well.
    - `ohem` keeps the `max(k, min_neg)` hardest with weight 1 and drops the rest. It is biased: its loss is not
      the data's, and neither are the probabilities of a model trained on it.

    Source: goss, LightGBM (Ke et al. 2017), algorithm 2; pps, Horvitz and Thompson (1952) weights with Madow's (1949)
    systematic selection; ohem, Shrivastava et al. (2016).

    Args:
        loss: Loss per row, `(batch,)`, finite and not negative; no gradient flows through the selection.
        label: `(batch,)`, 0 or 1.
        mode: See above.
        top_neg_frac: Share of negatives that counts as hardest, in [0, 1].
        rest_frac: Share of negatives to draw besides, in (0, 1]; `ohem` does not read it.
        min_neg: Negatives to keep at least, where there are as many.
        generator: Seeded CPU generator.

    Returns:
        Selection weight, `(batch,)`, in the type of `loss` but float32 at least; 0 where a row is not kept.

    Raises:
        ValueError: A value lies outside its range, or the settings keep no negative.
    """
    _check_mining(mode, top_neg_frac=top_neg_frac, rest_frac=rest_frac, min_neg=min_neg)
    loss = loss.detach()
    loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
    if loss.dim() != 1 or label.shape != loss.shape:
        raise ValueError(f"loss and label must be (batch,), got {tuple(loss.shape)} and {tuple(label.shape)}")
    if not (loss.isfinite() & (loss >= 0)).all():
        raise ValueError(f"every loss must be finite and not negative, got {loss.min()} to {loss.max()}")
    weight = torch.ones_like(loss)
    negative = (label == 0).nonzero().squeeze(1)
    if not len(negative):
        return weight
    hardness = loss[negative]
    num_top, num_drawn = num_kept(
        len(negative), mode=mode, top_neg_frac=top_neg_frac, rest_frac=rest_frac, min_neg=min_neg
    )
    if mode == "goss":
        drawn = torch.randperm(len(negative) - num_top, generator=generator)[:num_drawn].to(loss.device)
        selected = goss_weights(hardness, num_top=num_top, drawn=drawn)
    elif mode == "pps":
        start = torch.rand((), generator=generator, dtype=torch.float64).item()
        selected = pps_weights(hardness, num_kept=num_top + num_drawn, start=start)
    else:
        selected = ohem_weights(hardness, num_kept=num_top)
    weight[negative] = selected
    return weight


def num_kept(num_neg: int, *, mode: MiningMode, top_neg_frac: float, rest_frac: float, min_neg: int) -> tuple[int, int]:
    """How many of a batch's `num_neg` negatives are hardest, and how many are drawn from the others.

    The arguments are those of `mine_hard_negatives`; `pps` keeps as many as both numbers together.
    """
    num_top = _ceil(top_neg_frac * num_neg)
    if mode == "ohem":
        return max(num_top, min(min_neg, num_neg)), 0
    num_drawn = max(_ceil(rest_frac * num_neg), min_neg - num_top)
    return num_top, min(num_drawn, num_neg - num_top)


def goss_weights(loss: torch.Tensor, *, num_top: int, drawn: torch.Tensor) -> torch.Tensor:
    """Goss's weights for one draw; the deterministic part of the selection.

    Args:
        loss: Loss of each negative, `(n,)`.
        num_top: Number of hardest negatives, `k`.
        drawn: `m` different positions in `[0, n - k)` among the others, from the hardest to the easiest.

    Returns:
        Weights, `(n,)`.
    """
    # Stable, so that of equal losses every device takes the same rows.
    order = loss.argsort(descending=True, stable=True)
    rest = order[num_top:]
    weight = torch.zeros_like(loss)
    weight[order[:num_top]] = 1.0
    if len(rest):
        weight[rest[drawn]] = len(rest) / len(drawn)
    return weight


def pps_weights(loss: torch.Tensor, *, num_kept: int, start: float) -> torch.Tensor:
    """The inverse inclusion probabilities of the negatives that one systematic draw selects.

    Args:
        loss: Loss of each negative, `(n,)`.
        num_kept: Number of negatives to keep, in [1, n].
        start: Where the draw starts, in [0, 1); the weights' mean over it is 1.

    Returns:
        Weights, `(n,)`.
    """
    inclusion = inclusion_probabilities(loss, num_kept=num_kept)
    is_certain = inclusion >= 1.0
    # Row i is selected when a point of the grid start, start + 1, ... falls into its own stretch of the sum.
    passed = (inclusion.masked_fill(is_certain, 0.0).cumsum(0) - start).ceil()  # points below each stretch's end
    before = torch.cat((passed.new_zeros(1), passed[:-1]))
    is_selected = is_certain | (passed > before)
    return (is_selected / inclusion).to(loss.dtype)


def inclusion_probabilities(loss: torch.Tensor, *, num_kept: int) -> torch.Tensor:
    """Probabilities proportional to `max(loss, 0.1 * mean loss)`, capped at 1, that sum to `num_kept`.

    Args:
        loss: Loss of each negative, `(n,)`, not negative; where all are zero the probabilities are equal.
        num_kept: Number of negatives to keep, in [1, n].

    Returns:
        Probabilities in (0, 1], `(n,)`, float64.
    """
    if num_kept == len(loss):
        return torch.ones_like(loss, dtype=torch.float64)
    size = loss.to(torch.float64)
    size = size.clamp_min(PPS_FLOOR * size.mean()) if size.any() else torch.ones_like(size)
    largest_first = size.sort(descending=True).values
    # From the smallest up, which loses the fewest digits.
    tail = largest_first.flip(0).cumsum(0).flip(0)  # sum of a size and all smaller ones
    num_certain = torch.arange(len(size), device=size.device)
    # With the j largest certain, the others share num_kept - j; the first j whose next size fits under 1 is right.
    factor = (num_kept - num_certain) / tail
    # There is one: with num_kept - 1 of them certain 1 is left to share, and no size is larger than its tail.
    first = (factor * largest_first <= 1.0).nonzero()[0]
    return (factor[first] * size).clamp_max(1.0)


def ohem_weights(loss: torch.Tensor, *, num_kept: int) -> torch.Tensor:
    """1 for the `num_kept` hardest negatives, 0 for the others, `(n,)`; biased."""
    weight = torch.zeros_like(loss)
    weight[loss.argsort(descending=True, stable=True)[:num_kept]] = 1.0
    return weight


def _ceil(x: float) -> int:
    """Round up, but read 7.000000000000001, which is what 0.07 * 100 gives, as 7."""
    return math.ceil(x - 1e-9)


def _check_mining(mode: str, *, top_neg_frac: float, rest_frac: float, min_neg: int) -> None:
    if mode not in ("goss", "pps", "ohem"):
        raise ValueError(f"the mining mode must be goss, pps or ohem, got {mode!r}")
    if not 0.0 <= top_neg_frac <= 1.0:
        raise ValueError(f"top_neg_frac must be in [0, 1], got {top_neg_frac}")
    if min_neg < 0:
        raise ValueError(f"min_neg must not be negative, got {min_neg}")
    if mode == "ohem" and top_neg_frac == 0.0 and min_neg == 0:
        raise ValueError("ohem with top_neg_frac=0 and min_neg=0 would keep no negative")
    if mode != "ohem" and not 0.0 < rest_frac <= 1.0:
        raise ValueError(f"rest_frac must be in (0, 1] for an unbiased selection, got {rest_frac}")
