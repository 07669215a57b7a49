"""Periodic embeddings against their formula, number by number."""

import math

import pytest
import torch

from qin.network.numeric import NumericNormalizer, PeriodicEmbedding, signed_log


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


def test_numeric_block_equals_a_plain_loop() -> None:
    raw = [[0.0, -5.0, math.nan], [1e30, math.nan, 7.0], [-2.5, 0.25, 7.0]]
    mean, std = [1.0, -0.5, 2.0794415416798357], [2.0, 0.125, 0.0]
    normalizer = NumericNormalizer(torch.tensor(mean), torch.tensor(std))

    expected = []
    for row in raw:
        values = [
            0.0 if math.isnan(x) or s == 0 else (math.copysign(math.log1p(abs(x)), x) - m) / s
            for x, m, s in zip(row, mean, std, strict=True)
        ]
        expected.append([*values, *(float(math.isnan(x)) for x in row)])
    torch.testing.assert_close(normalizer(torch.tensor(raw)), torch.tensor(expected))
    assert normalizer(torch.tensor(raw))[:, 2].tolist() == [0.0, 0.0, 0.0]
    assert set(normalizer.state_dict()) == {"mean", "std"}


def test_no_numeric_fields_give_an_empty_block() -> None:
    normalizer = NumericNormalizer(torch.empty(0), torch.empty(0))
    assert normalizer.num_fields == 0
    assert normalizer(torch.empty(4, 0)).shape == (4, 0)


def test_signed_log_is_odd_and_monotone() -> None:
    x = torch.tensor([-1e30, -3.0, -1e-8, 0.0, 1e-8, 3.0, 1e30], dtype=torch.float64)
    y = signed_log(x)
    assert torch.equal(y, -signed_log(-x))
    assert (y.diff() > 0).all()
    torch.testing.assert_close(y.abs(), torch.tensor([math.log1p(abs(v)) for v in x.tolist()], dtype=torch.float64))


def test_bad_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="std finite and not negative"):
        NumericNormalizer(torch.zeros(2), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="mean must be finite"):
        NumericNormalizer(torch.tensor([math.nan]), torch.ones(1))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        NumericNormalizer(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match=r"must be \(batch, 2\), got \(4, 3\)"):
        NumericNormalizer(torch.zeros(2), torch.ones(2))(torch.zeros(4, 3))
