"""Periodic embeddings against their formula, number by number."""

import math
from itertools import pairwise

import pytest
import torch

from qin.network.numeric import NumericNormalizer, PeriodicEmbedding, PiecewiseLinearEmbedding, signed_log


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


EDGES = torch.tensor([[-1.5, -0.25, 0.5, 2.0], [0.0, 1.0, 1.0, 1.0], [0.7, 0.7, 0.7, 0.7]])


def make_bins(dim: int = 2) -> PiecewiseLinearEmbedding:
    module = PiecewiseLinearEmbedding(EDGES, dim=dim).double()
    torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    return module


def make_normalized() -> torch.Tensor:
    """Below, at and between the edges, above, and missing."""
    value = torch.tensor([-9.0, -1.5, -0.7, -0.25, 0.0, 0.3, 0.5, 0.7, 1.0, 1.9, 2.0, 8.0, 0.0], dtype=torch.float64)
    value = value.unsqueeze(1).expand(-1, 3)
    is_missing = torch.zeros_like(value)
    is_missing[-1] = 1.0
    return torch.cat((value, is_missing), dim=1)


def encoded_by_hand(value: float, edges: list[float]) -> list[float]:
    """Equation 1, bounded at both ends; a bin that there is not is never reached."""
    parts = []
    for lower, upper in pairwise(edges):
        is_there = upper > lower
        parts.append(min(max((value - lower) / (upper - lower), 0.0), 1.0) if is_there else 0.0)
    return parts


def test_bins_equal_their_formula() -> None:
    module, normalized = make_bins(), make_normalized()
    normalized.requires_grad_(False)
    output = module(normalized)
    assert output.shape == (len(normalized), 3 * 2)
    expected = torch.zeros_like(output)
    grad = torch.zeros_like(module.weight)
    above = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for i, row in enumerate(normalized.tolist()):
        for f, edges in enumerate(EDGES.tolist()):
            parts = [0.0] * 3 if row[3 + f] else encoded_by_hand(row[f], edges)
            encoded = torch.tensor([*parts, row[3 + f]], dtype=torch.float64)
            expected[i, 2 * f : 2 * f + 2] = encoded @ module.weight[f].detach()
            grad[f] += encoded[:, None] * above[i, 2 * f : 2 * f + 2]
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    output.backward(above)
    torch.testing.assert_close(module.weight.grad, grad, rtol=1e-12, atol=1e-12)
    assert not grad[2, :3].any()


def test_bins_are_part_of_the_state() -> None:
    other = PiecewiseLinearEmbedding(torch.arange(4.0).expand(3, -1), dim=2).double()
    other.load_state_dict(make_bins().state_dict())
    assert torch.equal(other(make_normalized()), make_bins()(make_normalized()))


def test_no_fields_have_no_bins() -> None:
    assert PiecewiseLinearEmbedding(torch.empty(0, 3), dim=2)(torch.empty(4, 0)).shape == (4, 0)


def test_bad_edges_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2\), got \(3, 1\)"):
        PiecewiseLinearEmbedding(torch.zeros(3, 1), dim=1)
    for edges in ([0.0, -0.1, 1.0], [0.0, math.nan, 1.0], [0.0, 1.0, math.inf]):
        with pytest.raises(ValueError, match="must be finite and ascend"):
            PiecewiseLinearEmbedding(torch.tensor([edges]), dim=1)


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


def test_numbers_that_differ_little_beside_their_size_are_told_apart() -> None:
    """Seconds since 1970 over five days: of a logarithm with 32 bits the last one is a hundredth of its deviation."""
    raw = torch.arange(1_650_844_800, 1_651_276_800, 4096).to(torch.float32).unsqueeze(1)
    log = raw.double().log1p()
    mean, std = log.mean(0), log.std(0)
    values = NumericNormalizer(mean, std)(raw)[:, :1]
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), (log - mean) / std, rtol=0, atol=2e-7)


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
