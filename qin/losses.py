"""Logistic loss on logits, per row and as the weighted sum that training minimises."""

import math

import torch
import torch.nn.functional as F  # noqa: N812


def logistic_loss(logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Compute ``-log p(label)`` of each row from its logit.

    The form ``softplus(-z)`` for clicks and ``softplus(z)`` otherwise keeps the relative precision of tiny losses.

    Args:
        logit: ``(batch,)``; half-precision logits are widened to float32 first.
        label: ``(batch,)``, 0 or 1, any type.

    Returns:
        Losses in nats, ``(batch,)``, float32, or float64 where ``logit`` is.

    Raises:
        ValueError: ``logit`` is not a floating-point vector, or ``label`` has another shape.
    """
    if logit.dim() != 1 or not logit.is_floating_point():
        raise ValueError(f"logit must be floating-point of shape (batch,), got {logit.dtype} {tuple(logit.shape)}")
    _check_vector("label", label, like=logit)
    wide = logit.to(torch.promote_types(logit.dtype, torch.float32))
    sign = label.to(wide.dtype) * 2.0 - 1.0
    return -F.logsigmoid(sign * wide)


def weighted_logistic_loss(
    logit: torch.Tensor, label: torch.Tensor, *, sample_weight: torch.Tensor, denominator: float | torch.Tensor
) -> torch.Tensor:
    """Compute ``sum(sample_weight * loss) / denominator``.

    ``denominator`` is the full batch's weight, fixed before any row is selected and, over several ranks, summed over
    them. Divided by the weight of the rows that a selection kept, the loss would no longer be unbiased.

    Args:
        logit: ``(batch,)``.
        label: ``(batch,)``, 0 or 1.
        sample_weight: ``(batch,)``, the product of all weights of a row; a row of weight 0 counts for nothing.
        denominator: positive total weight; a tensor must be a scalar, and is not checked for its value, because that
            would stall a GPU.

    Returns:
        The loss, a scalar in float32, or float64 where ``logit`` is.

    Raises:
        ValueError: A shape is wrong, or a ``float`` denominator is not positive and finite.
    """
    _check_vector("sample_weight", sample_weight, like=logit)
    if isinstance(denominator, torch.Tensor):
        if denominator.dim() != 0:
            raise ValueError(f"a tensor denominator must be a scalar, got shape {tuple(denominator.shape)}")
    elif not 0.0 < denominator < math.inf:
        raise ValueError(f"the denominator must be positive and finite, got {denominator}")
    loss = logistic_loss(logit, label)
    return (sample_weight.to(loss.dtype) * loss).sum() / denominator


def _check_vector(name: str, value: torch.Tensor, *, like: torch.Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(f"{name} must have the shape of logit, {tuple(like.shape)}, got {tuple(value.shape)}")
