"""Periodic embeddings of numeric fields, with which a network resolves more than monotone effects."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

_DIM = 4  # outputs of each field
_FREQUENCY_STD = 0.3


class PeriodicEmbedding(nn.Module):
    """Maps each number ``x`` to ``relu(W [sin(2 pi c x), cos(2 pi c x)] + b)`` with learned frequencies ``c``.

    Source: Gorishniy et al. (2022), On embeddings for numerical features in tabular deep learning, section 3.3
    ("PLR"); every field has weights of its own.

    Args:
        num_fields: numeric fields, ``f``; 0 is allowed.
        num_frequencies: frequencies of each field, ``k``.

    Shape:
        - input: ``(batch, f)``, standardised
        - output: ``(batch, f * 4)``

    Raises:
        ValueError: ``num_frequencies`` is below 1.
    """

    def __init__(self, num_fields: int, num_frequencies: int) -> None:
        if num_frequencies < 1:
            raise ValueError(f"num_frequencies must be at least 1, got {num_frequencies=}")
        super().__init__()
        self.output_dim = num_fields * _DIM
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
        """Embed ``(batch, f)``; shapes as in the class description."""
        angle = 2.0 * math.pi * x.unsqueeze(2) * self.frequency  # (batch, f, k)
        waves = torch.cat((angle.sin(), angle.cos()), dim=2)
        return F.relu(torch.einsum("bfk,fkd->bfd", waves, self.weight) + self.bias).flatten(1)
