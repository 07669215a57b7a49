"""Target-conditioned sparse attention: what, in the user's history, matters for this target item."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.activation_unit import ActivationUnit
from qin.network.kernels.activation_unit import unit_sums
from qin.network.kernels.attention import attended_sums
from qin.network.kernels.choice import has_kernels
from qin.network.kernels.products import product, stacked_product

Score = Literal["product", "mlp"]
ScoreNorm = Literal["none", "length", "sqrt_length"]
ScoreBias = Literal["none", "constant", "recency"]

_NUM_RECENCIES = 16  # the last item, the 2 before it, the 4 before those, and so on: up to 65,535 items


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Variants of `TargetAttention`; the defaults are the published form.

    Attributes:
        num_heads: Heads, a divisor of the attention's width; 1 with an activation unit.
        score: How items are scored: by the product of query and key, or by an activation unit.
        norm: What the sum over the history is divided by.
        bias: What is added to the scores.
        scale: What the scores are multiplied by.
        target_values: Whether the values depend on the target.

    Raises:
        ValueError: An option is unknown or out of its range, or an activation unit would have several heads.
    """

    num_heads: int = 1
    score: Score = "product"
    norm: ScoreNorm = "none"
    bias: ScoreBias = "none"
    scale: float = 1.0
    target_values: bool = False

    def __post_init__(self) -> None:
        for name, known in (("score", Score), ("norm", ScoreNorm), ("bias", ScoreBias)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"unknown option, got {name}={getattr(self, name)!r}")
        if self.score == "mlp" and self.num_heads != 1:
            raise ValueError(f"an activation unit has one head, got num_heads={self.num_heads}")
        if not 0.0 < self.scale < math.inf:
            raise ValueError(f"the scale must be positive and finite, got scale={self.scale}")


_PUBLISHED = AttentionOptions()


class TargetAttention(nn.Module):
    """Adds to the target item the part of the behaviour sequence that it attends to.

    The published form is `W_o sum_i relu(W_q t . W_k x_i / sqrt(d_a)) W_v x_i + t`. Without a softmax the
    projections leave the sum: with `u = W_k^T W_q t` the score is `u . x_i / sqrt(d_a)`, and with
    `c = sum_i relu(score_i) x_i` the output is `W_o W_v c + t`. No history item is ever projected, so the
    cost per item is two dot products of length `sequence_dim`. The result is the same up to rounding.

    Source: QIN (arXiv 2504.17699), the equations of "Adaptive Sparse Target Attention".
    NOTE[DIFF]: the defaults are the published form. `num_heads` divides query, key and value space as in Vaswani
    et al. (2017). `norm` divides `c` by the history's length or its root, because the published sum grows with
    it. `bias` adds a learned number to the score, the same for all items or by recency; it starts at 1, so that
    training starts from a pooled history instead of from scores near zero, of which the relu passes half. `scale`
    multiplies the score before the bias: with small embeddings it is a product of small numbers and stays near zero.
    `target_values` multiplies `c` by `1 + W_g t`, the target-aware representation of TIN (arXiv 2308.08487)
    taken out of the sum. With `score` `mlp` DIN's activation unit (`ActivationUnit`) scores the items, and as in DIN
    no relu follows: `c = sum_i score_i x_i`.

    Args:
        target_dim: Width of the target item, `dt`.
        sequence_dim: Width of one history item, `ds`.
        attention_dim: Width of the query and key space over all heads, `A`.
        options: The variants.

    Shape:
        - target: `(batch, dt)`
        - sequence: `(batch, seq, ds)`
        - is_valid: `(batch, seq)`, bool, true where a position holds an item
        - query, keys: as target and sequence; what the scores are made of, where they have embeddings of their own
          (DARE, arXiv 2410.02604)
        - output: `(batch, dt)`; exactly `target` where the history is empty

    Raises:
        ValueError: A size is below 1, `num_heads` does not divide `attention_dim`, or an input's shape or type
            breaks the rules above.
    """

    def __init__(
        self,
        target_dim: int,
        *,
        sequence_dim: int,
        attention_dim: int,
        options: AttentionOptions = _PUBLISHED,
    ) -> None:
        num_heads = options.num_heads
        if min(target_dim, sequence_dim, attention_dim, num_heads) < 1:
            raise ValueError(
                f"every size must be at least 1, got {target_dim=}, {sequence_dim=}, {attention_dim=}, {num_heads=}"
            )
        if attention_dim % num_heads:
            raise ValueError(f"num_heads must divide attention_dim, got {num_heads=}, {attention_dim=}")
        super().__init__()
        self.attention_dim, self.num_heads = attention_dim, num_heads
        self.norm, self.bias, self.scale = options.norm, options.bias, options.scale
        self.query = nn.Linear(target_dim, attention_dim, bias=False)  # W_q (A, dt)
        self.key = nn.Linear(sequence_dim, attention_dim, bias=False)  # W_k (A, ds)
        self.value = nn.Linear(sequence_dim, attention_dim, bias=False)  # W_v (A, ds)
        self.output = nn.Linear(attention_dim, target_dim, bias=False)  # W_o (dt, A)
        self.gate = nn.Linear(target_dim, sequence_dim, bias=False) if options.target_values else None  # W_g (ds, dt)
        widths = {"sequence_dim": sequence_dim, "attention_dim": attention_dim}
        self.unit = ActivationUnit(target_dim, **widths) if options.score == "mlp" else None
        num_biases = {"none": 0, "constant": 1, "recency": _NUM_RECENCIES}[options.bias]
        self.score_bias = nn.Parameter(torch.ones(num_biases, num_heads)) if num_biases else None

    def forward(
        self,
        target: torch.Tensor,
        sequence: torch.Tensor,
        is_valid: torch.Tensor,
        *,
        query: torch.Tensor | None = None,
        keys: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from each target item to its own history; shapes as in the class description."""
        query = target if query is None else query
        self._check(target, sequence, is_valid)
        self._check(query, sequence if keys is None else keys, is_valid)
        # Kernels are written for float32; float64 is what gradients are tested in.
        is_tiled = has_kernels(sequence) and sequence.dtype == torch.float32
        sums = self._tiled_sums if is_tiled else self.whole_sums
        directions, offset = self._directions(query)
        context = self._scaled(sums(directions, offset, keys, sequence, is_valid), is_valid, target)
        return product(self._values(context), self.output.weight) + target

    def _directions(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What items are multiplied by: `u / sqrt(d_a)` of each head, `(batch, heads, ds)`, or what a unit makes."""
        if self.unit is not None:
            projected = product(query, self.query.weight)
            return self.unit.of_rows(query, query=projected, key_weight=self.key.weight)
        heads, width = self.num_heads, self.attention_dim // self.num_heads
        factor = self.scale / math.sqrt(width)
        if heads == 1:  # the same, without a stack
            return (product(product(query, self.query.weight), self.key.weight.t()) * factor).unsqueeze(1), None
        projected = product(query, self.query.weight).view(-1, heads, width).transpose(0, 1)  # (heads, batch, width)
        return stacked_product(projected, self.key.weight.view(heads, width, -1)).transpose(0, 1) * factor, None

    def _tiled_sums(
        self,
        directions: torch.Tensor,
        offset: torch.Tensor | None,
        keys: torch.Tensor | None,
        sequence: torch.Tensor,
        is_valid: torch.Tensor,
    ) -> torch.Tensor:
        """`c` of each head, `(batch, heads, ds)`."""
        bias = torch.zeros(1, self.num_heads) if self.score_bias is None else self.score_bias
        biases = bias, bias_of_age(is_valid.shape[1], self.bias)
        if self.unit is None or offset is None:
            return attended_sums(sequence, keys, directions, is_valid, *biases)
        weight = self.unit.output.weight.squeeze(0) * self.scale
        return unit_sums(sequence, keys, (directions, offset, weight), is_valid, *biases).unsqueeze(1)

    def whole_sums(
        self,
        directions: torch.Tensor,
        offset: torch.Tensor | None,
        keys: torch.Tensor | None,
        sequence: torch.Tensor,
        is_valid: torch.Tensor,
    ) -> torch.Tensor:
        """What `_tiled_sums` computes, up to rounding, in a few operations on whole batches."""
        keys = sequence if keys is None else keys
        if self.unit is None or offset is None:
            score = torch.bmm(keys, directions.transpose(1, 2))
        else:
            score = self.unit.scores(keys, directions, offset) * self.scale
        if self.score_bias is not None:
            is_constant = self.bias == "constant"
            score = score + (self.score_bias if is_constant else taken_rows(self.score_bias, recencies(is_valid)))
        # Masked before the relu, so whatever stands in a padded position gets a gradient of exactly zero.
        weight = score.masked_fill(~is_valid.unsqueeze(2), 0.0)
        if self.unit is None:
            weight = F.relu(weight)
        return torch.bmm(weight.transpose(1, 2), sequence)

    def _values(self, context: torch.Tensor) -> torch.Tensor:
        """`W_v c` of all heads, one after the other, `(batch, A)`."""
        if self.num_heads == 1:
            return product(context.squeeze(1), self.value.weight)
        value_weight = self.value.weight.view(self.num_heads, -1, context.shape[2])  # (heads, width, ds)
        return stacked_product(context.transpose(0, 1), value_weight.mT).transpose(0, 1).flatten(1)

    def _scaled(self, context: torch.Tensor, is_valid: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Sums divided by the history's length or its root, times what the target makes of them."""
        if self.norm != "none":
            length = is_valid.sum(dim=1).clamp_min(1).to(context.dtype).view(-1, 1, 1)
            context = context / (length if self.norm == "length" else length.sqrt())
        if self.gate is not None:
            context = context * (1.0 + product(target, self.gate.weight)).unsqueeze(1)
        return context

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


def recencies(is_valid: torch.Tensor) -> torch.Tensor:
    """The recency of each position: the base-2 logarithm, rounded down, of one plus the valid positions after it.

    Args:
        is_valid: `(batch, seq)`, bool; the newest item stands last.

    Returns:
        Integers `(batch, seq)` from 0 to 15; arbitrary where not valid.
    """
    num_after = is_valid.sum(dim=1, keepdim=True) - is_valid.cumsum(dim=1)
    # Not `log2`, whose rounding may put a power of two on the wrong side.
    exponent: torch.Tensor = torch.frexp((num_after + 1).to(torch.float32)).exponent.to(torch.int64) - 1
    return exponent.clamp(0, _NUM_RECENCIES - 1)


def taken_rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`table[index]` of a table of few rows, whose gradient is one matrix product instead of a sort of all reads."""
    out: torch.Tensor = _TakenRows.apply(table, index)  # type: ignore[no-untyped-call]
    return out


class _TakenRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(table)
        return F.embedding(index, table)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,), grad = ctx.saved_tensors, grad_outputs[0]
        is_read = index.reshape(-1, 1) == torch.arange(ctx.num_rows, device=index.device)
        return is_read.to(grad.dtype).t() @ grad.reshape(-1, grad.shape[-1]), None


def bias_of_age(seq: int, bias: ScoreBias) -> torch.Tensor:
    """Which score bias an item gets, by the number of valid items after it, int64, `(seq,)`.

    What `recencies` gives, in whole numbers of Python: an exported graph holds the table, and needs no logarithm.
    """
    ages = [min((age + 1).bit_length() - 1, _NUM_RECENCIES - 1) if bias == "recency" else 0 for age in range(seq)]
    return torch.tensor(ages, dtype=torch.int64)
