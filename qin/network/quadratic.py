"""The quadratic network: each layer multiplies its input by a linear function of itself."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.dropout import NOTHING_DROPPED, Mask, masked
from qin.network.kernels.choice import has_kernels
from qin.network.kernels.products import padded_width, product, spread
from qin.network.kernels.quadratic import TiledLayer, run_layers
from qin.network.norms import normalise

Activation = Literal["after", "inside"]
Norm = Literal["none", "batch", "rms"]


class QuadraticLayer(nn.Module):
    """Computes `x * sum_r dropout(W_r x + b_r)`.

    Nothing stands between the rows and their sum when dropout is off, so the rows are folded into one matrix:
    `x * ((sum_r W_r) x + sum_r b_r)` costs one product instead of `num_linear`, and gives every row the same
    gradient as before. The parameters stay `(num_linear * dim, dim)`, row after row, because the optimizer's
    path, and with it the effective step size, depends on their number. Rows differ in training only by dropout.

    Source: QIN (arXiv 2504.17699), the Khatri-Rao quadratic layer.

    Args:
        dim: Width of the input and output.
        num_linear: Number of linear functions in the sum.
        dropout: Probability of dropping an element of one row, in [0, 1). It acts in training mode, through
            torch's global random generator, and costs the fold.
        rectified: Whether the sum passes a relu before the product, `x * relu(sum_r W_r x + b_r)`.

    Shape:
        - input and output: `(batch, dim)`

    Raises:
        ValueError: `dim` or `num_linear` is below 1, or `dropout` is outside [0, 1).
    """

    def __init__(self, dim: int, *, num_linear: int, dropout: float, rectified: bool = False) -> None:
        if min(dim, num_linear) < 1:
            raise ValueError(f"sizes must be at least 1, got {dim=}, {num_linear=}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout=}")
        super().__init__()
        self.num_linear = num_linear
        self.dropout = dropout
        self.rectified = rectified
        self.linear = nn.Linear(dim, num_linear * dim)

    def forward(self, x: torch.Tensor, first_row: int = 0, mask: Mask | None = None) -> torch.Tensor:
        """Multiply `(batch, dim)` by the sum of its rows; `first_row` as of `dropout`, `mask` as of `draw_mask`."""
        total = self._sum_of_rows(x, first_row, self.draw_mask() if mask is None else mask)
        return x * (F.relu(total) if self.rectified else total)

    def draw_mask(self) -> Mask:
        """The mask of the rows in one pass; one that drops nothing where the rows are folded."""
        return Mask.draw(self.dropout) if self.training and self.dropout > 0.0 else NOTHING_DROPPED

    def _sum_of_rows(self, x: torch.Tensor, first_row: int, mask: Mask) -> torch.Tensor:
        if self.training and self.dropout > 0.0:
            dim = self.linear.in_features
            rows = _linear(x, self.linear.weight, self.linear.bias)
            kept = masked(rows, mask, first_row=first_row)
            return kept.view(-1, self.num_linear, dim).sum(dim=1)  # (batch, num_linear, dim) -> (batch, dim)
        return _linear(x, *self.folded())

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums of the rows' matrices, `(dim, dim)`, and of their biases, `(dim,)`."""
        dim = self.linear.in_features
        weights = self.linear.weight.view(self.num_linear, dim, dim).unbind()
        # One after the other: a reduction over so few matrices takes twice as long as adding them.
        return reduce(torch.add, weights), self.linear.bias.view(self.num_linear, dim).sum(dim=0)


class QuadraticNetwork(nn.Module):
    """A stack of residual quadratic layers, then a linear function to one logit.

    The published order is quadratic product, batch norm, activation, dropout, residual: the activation stands after
    the product. Inside it, `x * relu(W x) + x`, the network trains better, because no product is cut to zero on
    the way that carries `x` itself.

    Source: QIN (arXiv 2504.17699), the quadratic neural network; the order follows the authors' implementation.
    RMS norm: Zhang and Sennrich (2019).

    Args:
        dim: Width of the input and of every layer.
        num_layers: Number of quadratic layers.
        num_linear: Number of linear functions that each layer sums.
        activation: `after` the product (PReLU, published) or `inside` it (ReLU).
        norm: What each product passes: nothing, batch norm (published), or RMS norm.
        dropout: Probability for each layer's output, in [0, 1).
        row_dropout: Probability for the rows, in [0, 1); see `QuadraticLayer`.

    Shape:
        - input: `(batch, dim)`
        - output: logits, `(batch,)`

    Raises:
        ValueError: A size is below 1, a dropout is outside [0, 1), or the input is not `(batch, dim)`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int,
        num_linear: int,
        activation: Activation = "after",
        norm: Norm = "none",
        dropout: float = 0.0,
        row_dropout: float = 0.0,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"the network needs at least one layer, got {num_layers=}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout=}")
        if activation not in get_args(Activation) or norm not in get_args(Norm):
            raise ValueError(f"unknown option, got {activation=}, {norm=}")
        super().__init__()
        self.dim = dim
        self.dropout = dropout
        is_inside = activation == "inside"
        self.layers = nn.ModuleList(
            QuadraticLayer(dim, num_linear=num_linear, dropout=row_dropout, rectified=is_inside)
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(_make_norm(norm, dim) for _ in range(num_layers))
        self.activations = nn.ModuleList(nn.Identity() if is_inside else nn.PReLU() for _ in range(num_layers))
        self.fc = nn.Linear(dim, 1)

    def forward(self, x: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """Map `(batch, dim)` to logits `(batch,)`; `first_row` as of `dropout`."""
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"the input must be (batch, {self.dim}), got {tuple(x.shape)}")
        # All before the first layer, so that tiled and whole forms draw the same keys.
        masks = [(layer.draw_mask(), self._draw_mask()) for layer in self._layers]
        x = self._tiled(x, masks, first_row) if self._is_tiled(x) else self.whole(x, masks, first_row)
        with torch.autocast(x.device.type, enabled=False):  # or a logit of 4 would be known to 0.016
            return _linear(x, self.fc.weight, self.fc.bias).squeeze(1)

    @property
    def _layers(self) -> list[QuadraticLayer]:
        return cast("list[QuadraticLayer]", list(self.layers))

    def _draw_mask(self) -> Mask:
        return Mask.draw(self.dropout) if self.training else NOTHING_DROPPED

    def whole(self, x: torch.Tensor, masks: Sequence[tuple[Mask, Mask]], first_row: int) -> torch.Tensor:
        """The layers' output, one operation after the other on the whole batch: what a compiler may take.

        Args:
            x: `(batch, dim)`.
            masks: Of each layer's rows, and of its output.
            first_row: As of `dropout`.
        """
        parts = zip(self._layers, self.norms, self.activations, masks, strict=True)
        for layer, norm, activation, (of_rows, of_output) in parts:
            activated = _activate(normalise(norm, layer(x, first_row, of_rows)), activation)
            x = x + masked(activated, of_output, first_row=first_row)
        return x

    def _is_tiled(self, x: torch.Tensor) -> bool:
        """Whether the layers' output is computed by tiles, which needs rows that no norm couples or scales."""
        is_plain = all(isinstance(norm, nn.Identity) for norm in self.norms)
        return is_plain and has_kernels(x) and x.dtype == torch.float32

    def _tiled(self, x: torch.Tensor, masks: Sequence[tuple[Mask, Mask]], first_row: int) -> torch.Tensor:
        """What `whole` computes, up to rounding."""
        plans, weights, biases = [], [], []
        for layer, activation, (row_mask, mask) in zip(self._layers, self.activations, masks, strict=True):
            plans.append(TiledLayer(layer.rectified, isinstance(activation, nn.PReLU), row_mask, mask))
            # Only dropout tells rows apart; folded, one product makes all of them.
            keeps_rows = self.training and layer.dropout > 0.0
            weight, bias = (layer.linear.weight, layer.linear.bias) if keeps_rows else layer.folded()
            weights.append(weight)
            biases.append(bias)
        slopes = [a.weight if isinstance(a, nn.PReLU) else torch.ones(1) for a in self.activations]
        dtype = _product_type(x)
        return run_layers(x, plans, weights=weights, biases=biases, slopes=slopes, dtype=dtype, first_row=first_row)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`F.linear` with sums in an order of ours on the CPU, and on other devices at the width of fast products."""
    if not has_kernels(x):
        return padded_linear(x, weight, bias)
    return product(x, weight, dtype=_product_type(x)) + spread(bias, len(x))


def padded_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`F.linear` of copies with zeros up to a multiple of 64: rows of another width take slow products on a GPU.

    Under autocast the copies are of its type, which would have been made anyway.
    """
    (num_outputs, width), device = weight.shape, x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    right, below = padded_width(width) - width, padded_width(num_outputs) - num_outputs
    wide = F.pad(weight.to(dtype), (0, right, 0, below))
    return F.linear(F.pad(x.to(dtype), (0, right)), wide, F.pad(bias.to(dtype), (0, below)))[:, :num_outputs]


def _activate(x: torch.Tensor, activation: nn.Module) -> torch.Tensor:
    """What an activation makes of `(batch, dim)`; on the CPU a slope's gradient is added up in an order of ours."""
    if not has_kernels(x) or not isinstance(activation, nn.PReLU):
        activated: torch.Tensor = activation(x)
        return activated
    return torch.where(x > 0.0, x, spread(activation.weight, len(x)) * x)


def _product_type(x: torch.Tensor) -> torch.dtype:
    """What matrix products on the CPU read and give: bfloat16 under autocast, the type of `x` otherwise."""
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if is_bf16 else x.dtype


def _make_norm(norm: Norm, dim: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(dim)
    return nn.RMSNorm(dim) if norm == "rms" else nn.Identity()
