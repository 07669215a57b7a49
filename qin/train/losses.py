"""Logistic loss on logits, per row and as the weighted sum that training minimises; one pass, or two as an ensemble."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.sharded import without_rows
from qin.network.threads import one_thread
from qin.shards.loader import Batch


def logistic_loss(logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Compute `-log p(label)` of each row from its logit.

    The form `softplus(-z)` for clicks and `softplus(z)` otherwise keeps the relative precision of tiny losses.

    Args:
        logit: `(batch,)`; half-precision logits are widened to float32 first.
        label: `(batch,)`, 0 or 1, any type.

    Returns:
        Losses in nats, `(batch,)`, float32, or float64 where `logit` is.

    Raises:
        ValueError: `logit` is not a floating-point vector, or `label` has another shape.
    """
    _check_logit(logit)
    _check_vector("label", label, like=logit)
    wide = logit.to(torch.promote_types(logit.dtype, torch.float32))
    sign = label.to(wide.dtype) * 2.0 - 1.0
    return -F.logsigmoid(sign * wide)


def weighted_logistic_loss(
    logit: torch.Tensor,
    label: torch.Tensor,
    *,
    sample_weight: torch.Tensor,
    denominator: float | torch.Tensor,
    extra_loss: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `sum(sample_weight * (loss + extra_loss)) / denominator`.

    `denominator` is the expected weight of a full batch, of all ranks together: a constant that is known before any
    batch is drawn. Divided by the weight of this batch, or of the rows that a selection kept, the loss would be a ratio
    of two random numbers and no longer unbiased.

    Args:
        logit: `(batch,)`.
        label: `(batch,)`, 0 or 1.
        sample_weight: `(batch,)`, the product of all weights of a row; a row of weight 0 counts for nothing.
        denominator: Positive total weight; a tensor must be a scalar, and is not checked for its value, because that
            would stall a GPU.
        extra_loss: `(batch,)`, what else each row costs; None: nothing.

    Returns:
        The loss, a scalar in float32, or float64 where `logit` is.

    Raises:
        ValueError: A shape is wrong, or a `float` denominator is not positive and finite.
    """
    _check_vector("sample_weight", sample_weight, like=logit)
    if isinstance(denominator, torch.Tensor):
        if denominator.dim() != 0:
            raise ValueError(f"a tensor denominator must be a scalar, got shape {tuple(denominator.shape)}")
    elif not 0.0 < denominator < math.inf:
        raise ValueError(f"the denominator must be positive and finite, got {denominator}")
    loss = logistic_loss(logit, label)
    if extra_loss is not None:
        _check_vector("extra_loss", extra_loss, like=logit)
        loss = loss + extra_loss
    with one_thread():  # or the sum over a large batch would depend on the number of threads
        return (sample_weight.to(loss.dtype) * loss).sum() / denominator


def self_ensemble(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Join two passes of one network, whose dropout masks differ, into their ensemble.

    With the passes' probabilities `p1`, `p2` and their mean `p`, the published loss is `L(p, label) +
    L(p1, p) + L(p2, p)`, where `L` is the cross-entropy and no gradient flows through a `p` that is a target.
    The first term is `logistic_loss` of the ensemble's logit.

    Source: QNN-alpha (arXiv 2505.17999), the self-ensemble loss.
    NOTE[DIFF]: the other terms are divergences here, `L(p1, p) - L(p, p)`: 0 where passes agree, the same gradient.

    Args:
        first: Logits of one pass, `(batch,)`.
        second: Logits of the other, `(batch,)`.

    Returns:
        The logit of the mean probability, `(batch,)`, and the sum of both passes' divergences from it in nats,
        `(batch,)`; both in float32 at least.

    Raises:
        ValueError: The logits are not floating-point vectors of one shape.
    """
    _check_logit(first)
    _check_vector("second", second, like=first)
    wide = torch.stack((first, second)).to(torch.promote_types(first.dtype, torch.float32))
    log_p, log_q = F.logsigmoid(wide), F.logsigmoid(-wide)  # q = 1 - p
    mean_log_p, mean_log_q = (each.logsumexp(0) - math.log(2.0) for each in (log_p, log_q))
    of_p = mean_log_p.detach().exp() * (mean_log_p.detach() - log_p)
    of_q = mean_log_q.detach().exp() * (mean_log_q.detach() - log_q)
    return mean_log_p - mean_log_q, (of_p + of_q).sum(0)


def _check_logit(logit: torch.Tensor) -> None:
    if logit.dim() != 1 or not logit.is_floating_point():
        raise ValueError(f"logit must be floating-point of shape (batch,), got {logit.dtype} {tuple(logit.shape)}")


def _check_vector(name: str, value: torch.Tensor, *, like: torch.Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(f"{name} must have the shape of logit, {tuple(like.shape)}, got {tuple(value.shape)}")


def forward(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of a batch, `(batch,)`; of none in a process for which a short batch has no row."""
    if not batch.rows.size:
        logit = without_rows(network)
        return batch.numeric.new_zeros(0) if logit is None else logit
    computed: torch.Tensor = network(batch.categorical, batch.numeric, batch.sequences, first_row=batch.first_row)
    return computed


def forward_ensemble(network: nn.Module, batch: Batch, *, strength: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of a batch, and what a self-ensemble adds to the loss of each row.

    Args:
        network: In training mode, with dropout where there is a strength: each pass draws masks of its own.
        batch: Rows.
        strength: Weight of the passes' divergence from their mean; 0 makes one pass.

    Returns:
        Logits `(batch,)`, of the mean probability where there are two passes, and the weighted divergence, `(batch,)`,
        or None after one pass.
    """
    first = forward(network, batch)
    if not strength:
        return first, None
    # The second pass draws masks of its own, the next ones of the step's generator.
    logit, divergence = self_ensemble(first, forward(network, batch))
    return logit, strength * divergence
