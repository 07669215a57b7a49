"""The numeric block: standardised signed logs with missing flags, and their periodic embeddings."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from qin.network.kernels.products import spread, stacked_product
from qin.network.threads import one_thread

# Not tuned, as are the waves below: no log that was tried gained by them (docs/results.md).
_DIM = 4  # outputs of each field
_FREQUENCY_STD = 0.3
BIN_DIM = 1  # outputs of each field's bins


def periodic_width(num_fields: int, num_frequencies: int) -> int:
    """Width of the embeddings of numeric fields, 0 without frequencies."""
    return num_fields * _DIM if num_frequencies else 0


def bins_width(num_fields: int, num_bins: int) -> int:
    """Width of the piecewise linear embeddings of numeric fields, 0 without bins."""
    return num_fields * BIN_DIM if num_bins else 0


class PeriodicEmbedding(nn.Module):
    """Maps each number `x` to `relu(W [sin(2 pi c x), cos(2 pi c x)] + b)` with learned frequencies `c`.

    Source: Gorishniy et al. (2022), On embeddings for numerical features in tabular deep learning, section 3.3
    ("PLR"); every field has weights of its own.

    Args:
        num_fields: Numeric fields, `f`; 0 is allowed.
        num_frequencies: Frequencies of each field, `k`.

    Shape:
        - input: `(batch, f)`, standardised
        - output: `(batch, f * 4)`

    Raises:
        ValueError: `num_frequencies` is below 1.
    """

    def __init__(self, num_fields: int, num_frequencies: int) -> None:
        if num_frequencies < 1:
            raise ValueError(f"num_frequencies must be at least 1, got {num_frequencies=}")
        super().__init__()
        self.output_dim = periodic_width(num_fields, num_frequencies)
        self.frequency = nn.Parameter(torch.zeros(num_fields, num_frequencies))
        self.weight = nn.Parameter(torch.zeros(num_fields, 2 * num_frequencies, _DIM))
        self.bias = nn.Parameter(torch.zeros(num_fields, _DIM))

    @torch.no_grad()
    def init_parameters(self, generator: torch.Generator) -> None:
        """Draw frequencies and weights again; biases are zero."""
        self.frequency.normal_(std=_FREQUENCY_STD, generator=generator)
        self.weight.normal_(std=1.0 / math.sqrt(self.weight.shape[1]), generator=generator)
        self.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed `(batch, f)`; shapes as in the class description."""
        batch = len(x)
        frequency = spread(self.frequency.flatten(), batch).view(batch, *self.frequency.shape)
        angle = 2.0 * math.pi * x.unsqueeze(2) * frequency  # (batch, f, k)
        waves = torch.cat((angle.sin(), angle.cos()), dim=2)
        mixed = stacked_product(waves.transpose(0, 1), self.weight).transpose(0, 1)  # (batch, f, 4)
        return F.relu(mixed.flatten(1) + spread(self.bias.flatten(), batch))


class PiecewiseLinearEmbedding(nn.Module):
    """Maps each number to `sum_t e_t w_t`, where `e_t` is the part of bin `t` that lies below the number.

    So each output is a function of the number that is linear inside every bin, and starts at 0. A missing number has
    an output of its own.

    Source: Gorishniy et al. (2022), On embeddings for numerical features in tabular deep learning, equation 1, with a
    linear map of each field's own.
    NOTE[DIFF]: the first and the last bin are bounded on both sides: the plain value, which stands beside, goes on.

    Args:
        edges: Ends of each field's bins in standardised units, ascending, `(f, num_bins + 1)`; the last one again and
            again where a field has fewer.
        dim: Outputs of each field.

    Shape:
        - input: `(batch, 2 f)`, of `NumericNormalizer`
        - output: `(batch, f * dim)`

    Raises:
        ValueError: The edges descend or are not finite, or there are fewer than two for each field.
    """

    edges: torch.Tensor

    def __init__(self, edges: torch.Tensor, *, dim: int) -> None:
        if edges.dim() != 2 or edges.shape[1] < 2:
            raise ValueError(f"edges must be (fields, at least 2), got {tuple(edges.shape)}")
        if not (edges.isfinite().all() and (edges.diff(dim=1) >= 0.0).all()):
            raise ValueError("the edges of a field must be finite and ascend")
        super().__init__()
        self.register_buffer("edges", edges.detach().to(torch.float32, copy=True))
        num_fields, num_edges = edges.shape
        self.weight = nn.Parameter(torch.zeros(num_fields, num_edges, dim))  # of each bin, then of a missing number

    def bins(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lower end of each bin and one over its width, 0 where there is none, `(f, num_bins)` each."""
        width = self.edges.diff(dim=1)
        return self.edges[:, :-1].contiguous(), 1.0 / width.masked_fill(width == 0.0, torch.inf)

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        """Embed `(batch, 2 f)`; shapes as in the class description."""
        num_fields = self.edges.shape[0]
        value, is_missing = normalized[:, :num_fields].unsqueeze(2), normalized[:, num_fields:].unsqueeze(2)
        lower, inverse_width = self.bins()
        parts = ((value - lower) * inverse_width).clamp(0.0, 1.0) * (1.0 - is_missing)  # (batch, f, num_bins)
        encoded = torch.cat((parts, is_missing), dim=2)
        return stacked_product(encoded.transpose(0, 1), self.weight).transpose(0, 1).flatten(1)


def signed_log(x: torch.Tensor) -> torch.Tensor:
    """Return `sign(x) * log(1 + |x|)`, which shortens heavy tails and keeps zero and the sign."""
    return torch.copysign(torch.log1p(x.abs()), x)


class NumericNormalizer(nn.Module):
    """Standardised signed logs of numeric fields, then their missing flags.

    Logarithms and moments have 64 bits: seconds since 1970 differ in the eighth digit of theirs, the last of 32 bits.

    Args:
        mean: Mean of each field's signed log over the train fold's non-missing values, `(fields,)`.
        std: Standard deviation of the same; 0 for a constant or always missing field, whose output is then 0.

    Shape:
        - raw: `(batch, fields)`, NaN where missing
        - output: `(batch, 2 * fields)`, in the type of the raw values: values (0 where missing), then
          flags (1 where missing)

    Raises:
        ValueError: `mean` and `std` are not finite `(fields,)` vectors, or a `std` is negative.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        if mean.dim() != 1 or mean.shape != std.shape:
            raise ValueError(f"mean and std must be (fields,), got {tuple(mean.shape)} and {tuple(std.shape)}")
        if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
            raise ValueError(f"mean must be finite, std finite and not negative, got {mean=}, {std=}")
        super().__init__()
        self.register_buffer("mean", mean.detach().to(torch.float64, copy=True))
        self.register_buffer("std", std.detach().to(torch.float64, copy=True))

    @property
    def num_fields(self) -> int:
        """Number of numeric fields; 0 is allowed."""
        return self.mean.shape[0]

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Map raw values to the block the network reads; shapes as in the class description."""
        self.check(raw)
        is_missing = raw.isnan()
        is_constant = self.std == 0
        with one_thread():  # a library may round the last numbers of each thread's share in another way
            log = signed_log(raw.double())
        standard = (log - self.mean) / self.std.masked_fill(is_constant, 1.0)
        values = standard.masked_fill(is_missing | is_constant, 0.0).to(raw.dtype)
        return torch.cat((values, is_missing.to(raw.dtype)), dim=1)

    def check(self, raw: torch.Tensor) -> None:
        """Check the shape of raw values; see the class description."""
        if raw.dim() != 2 or raw.shape[1] != self.num_fields:
            raise ValueError(f"numeric values must be (batch, {self.num_fields}), got {tuple(raw.shape)}")
