"""Periodic embeddings against their formula, number by number."""

import math

import pytest
import torch

from qin.network.numeric import PeriodicEmbedding


def make(num_fields: int, num_frequencies: int) -> PeriodicEmbedding:
    module = PeriodicEmbedding(num_fields, num_frequencies).double()
    module.init_parameters(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(1))
    return module


def test_equals_its_formula() -> None:
    module = make(3, 5)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    output = module(x)
    assert output.shape == (4, module.output_dim)
    for i in range(4):
        for f in range(3):
            angles = [2 * math.pi * c * float(x[i, f]) for c in module.frequency[f].tolist()]
            waves = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
            expected = torch.relu(waves @ module.weight[f] + module.bias[f])
            torch.testing.assert_close(output[i, 4 * f : 4 * f + 4], expected, rtol=1e-12, atol=1e-12)


def test_no_fields_give_no_outputs() -> None:
    assert make(0, 2)(torch.zeros(3, 0, dtype=torch.float64)).shape == (3, 0)


def test_a_frequency_is_needed() -> None:
    with pytest.raises(ValueError, match="num_frequencies must be at least 1"):
        PeriodicEmbedding(2, 0)
