"""Target-conditioned sparse attention: what, in the user's history, matters for this target item."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class TargetAttention(nn.Module):
    """Adds to the target item the part of the behaviour sequence that it attends to.

    The published form is ``W_o sum_i relu(W_q t . W_k x_i / sqrt(d_a)) W_v x_i + t``. Without a softmax the
    projections leave the sum: with ``u = W_k^T W_q t`` the score is ``u . x_i / sqrt(d_a)``, and with
    ``c = sum_i relu(score_i) x_i`` the output is ``W_o W_v c + t``. No history item is ever projected, so the
    cost per item is two dot products of length ``sequence_dim``. The result is the same up to rounding.

    Source: QIN (arXiv 2504.17699), the equations of "Adaptive Sparse Target Attention".

    Args:
        target_dim: width of the target item, ``dt``.
        sequence_dim: width of one history item, ``ds``.
        attention_dim: width of the query and key space, ``A``.

    Shape:
        - target: ``(batch, dt)``
        - sequence: ``(batch, seq, ds)``
        - is_valid: ``(batch, seq)``, bool, true where a position holds an item
        - output: ``(batch, dt)``; exactly ``target`` where the history is empty

    Raises:
        ValueError: A size is below 1, or an input's shape or type breaks the rules above.
    """

    def __init__(self, target_dim: int, *, sequence_dim: int, attention_dim: int) -> None:
        if min(target_dim, sequence_dim, attention_dim) < 1:
            raise ValueError(f"every size must be at least 1, got {target_dim=}, {sequence_dim=}, {attention_dim=}")
        super().__init__()
        self.attention_dim = attention_dim
        self.query = nn.Linear(target_dim, attention_dim, bias=False)  # W_q (A, dt)
        self.key = nn.Linear(sequence_dim, attention_dim, bias=False)  # W_k (A, ds)
        self.value = nn.Linear(sequence_dim, attention_dim, bias=False)  # W_v (A, ds)
        self.output = nn.Linear(attention_dim, target_dim, bias=False)  # W_o (dt, A)

    def forward(self, target: torch.Tensor, sequence: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
        """Attend from each target item to its own history; shapes as in the class description."""
        self._check(target, sequence, is_valid)
        scale = 1.0 / math.sqrt(self.attention_dim)
        direction = self.query(target) @ self.key.weight * scale  # u / sqrt(d_a), (batch, ds)
        # Products and sums rather than batched matrix products: a (seq, ds) by (ds, 1) product per row is too
        # small for BLAS, and its backward pass took 1.8 times as long (4096 x 100 x 16, two cores).
        score = (sequence * direction.unsqueeze(1)).sum(dim=2)  # (batch, seq)
        # Masked before the relu, so whatever stands in a padded position gets a gradient of exactly zero.
        weight = F.relu(score.masked_fill(~is_valid, 0.0))
        context = (weight.unsqueeze(2) * sequence).sum(dim=1)  # c, (batch, ds)
        attended: torch.Tensor = self.output(self.value(context))
        return attended + target

    def _check(self, target: torch.Tensor, sequence: torch.Tensor, is_valid: torch.Tensor) -> None:
        target_dim, sequence_dim = self.query.in_features, self.key.in_features
        if target.dim() != 2 or target.shape[1] != target_dim:
            raise ValueError(f"target must be (batch, {target_dim}), got {tuple(target.shape)}")
        batch = target.shape[0]
        if sequence.dim() != 3 or sequence.shape[0] != batch or sequence.shape[2] != sequence_dim:
            raise ValueError(f"sequence must be ({batch}, seq, {sequence_dim}), got {tuple(sequence.shape)}")
        if is_valid.shape != sequence.shape[:2] or is_valid.dtype != torch.bool:
            raise ValueError(
                f"is_valid must be bool of shape {tuple(sequence.shape[:2])}, "
                f"got {is_valid.dtype} of {tuple(is_valid.shape)}"
            )
