"""Attention against the authors' outputs and against the published formula, row by row."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qin.network.attention import AttentionOptions, TargetAttention, bias_of_age, recencies

FIXTURE = Path(__file__).parents[3] / "shared/fixtures/qin_reference.npz"
WEIGHTS = {"query": "W_q", "key": "W_k", "value": "W_v", "output": "W_o"}


def make(target_dim: int, sequence_dim: int, attention_dim: int, *, seed: int = 0) -> TargetAttention:
    generator = torch.Generator().manual_seed(seed)
    attention = TargetAttention(target_dim, sequence_dim=sequence_dim, attention_dim=attention_dim).double()
    for weight in attention.parameters():
        torch.nn.init.normal_(weight, generator=generator)
    return attention


def naive(attention: TargetAttention, target: torch.Tensor, sequence: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The published formula with every history item projected, one item at a time."""
    rows = []
    for t, history, length in zip(target, sequence, lengths, strict=True):
        total = torch.zeros(attention.attention_dim, dtype=t.dtype)
        for x in history[:length]:
            score = (attention.query.weight @ t) @ (attention.key.weight @ x) / math.sqrt(attention.attention_dim)
            total = total + torch.relu(score) * (attention.value.weight @ x)
        rows.append(attention.output.weight @ total + t)
    return torch.stack(rows)


@pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE} is absent")
@pytest.mark.parametrize("case", ["attn_small", "attn_wide"])
def test_matches_the_authors_outputs_and_gradients(case: str) -> None:
    with np.load(FIXTURE) as arrays:
        data = {k.removeprefix(f"{case}/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{case}/")}
    attention_dim, dim = data["W_q_weight"].shape
    attention = TargetAttention(dim, sequence_dim=dim, attention_dim=attention_dim).double()
    attention.load_state_dict({f"{ours}.weight": data[f"{theirs}_weight"] for ours, theirs in WEIGHTS.items()})
    target, sequence = data["target"].requires_grad_(), data["sequence"].requires_grad_()

    output = attention(target, sequence, data["is_valid"])
    output.backward(data["output_grad"])

    pairs = [(output, data["output"]), (target.grad, data["target_grad"]), (sequence.grad, data["sequence_grad"])]
    pairs += [(attention.get_parameter(f"{o}.weight").grad, data[f"{t}_weight_grad"]) for o, t in WEIGHTS.items()]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_matches_the_published_formula_with_gradients() -> None:
    """Target and history of different widths, histories of length 0 to 5, against the naive loop."""
    attention = make(6, 3, 4)
    generator = torch.Generator().manual_seed(1)
    lengths = [0, 5, 2, 1]
    target = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    sequence = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    is_valid = torch.arange(5) < torch.tensor(lengths)[:, None]
    cotangent = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    inputs = [target, sequence, *attention.parameters()]

    ours, reference = attention(target, sequence, is_valid), naive(attention, target, sequence, lengths)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(reference, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_an_empty_history_returns_the_target_itself() -> None:
    target = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    attention = make(3, 2, 4)
    for seq in (0, 4):
        output = attention(target, torch.ones(2, seq, 2, dtype=torch.float64), torch.zeros(2, seq, dtype=torch.bool))
        assert torch.equal(output, target)


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    attention = make(3, 2, 4).float()
    generator = torch.Generator().manual_seed(2)
    target, history = torch.randn(5, 3, generator=generator), torch.randn(5, 4, 2, generator=generator)
    garbage = torch.full((5, 3, 2), 1e38)  # its score overflows to infinity
    sequence = torch.cat((history, garbage), dim=1).requires_grad_()
    is_valid = (torch.arange(7) < 4).expand(5, 7)

    output = attention(target, sequence, is_valid)
    output.sum().backward()

    torch.testing.assert_close(output, attention(target, history, is_valid[:, :4]))
    assert sequence.grad is not None
    assert sequence.grad[:, :4].abs().sum() > 0
    assert torch.equal(sequence.grad[:, 4:], torch.zeros(5, 3, 2))
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in attention.parameters())


def test_the_order_of_the_history_does_not_matter() -> None:
    attention = make(3, 2, 4)
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    sequence = torch.randn(4, 6, 2, dtype=torch.float64, generator=generator)
    is_valid = torch.rand(4, 6, generator=generator) < 0.6
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(
        attention(target, sequence, is_valid), attention(target, sequence[:, order], is_valid[:, order])
    )


def test_bad_inputs_are_refused() -> None:
    attention = TargetAttention(3, sequence_dim=2, attention_dim=4)
    target, sequence, is_valid = torch.zeros(5, 3), torch.zeros(5, 7, 2), torch.ones(5, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"target must be \(batch, 3\), got \(5, 2\)"):
        attention(target[:, :2], sequence, is_valid)
    with pytest.raises(ValueError, match=r"sequence must be \(5, seq, 2\), got \(4, 7, 2\)"):
        attention(target, sequence[:4], is_valid)
    with pytest.raises(ValueError, match=r"is_valid must be bool of shape \(5, 7\), got torch.int64"):
        attention(target, sequence, is_valid.long())
    with pytest.raises(ValueError, match="attention_dim=0"):
        TargetAttention(3, sequence_dim=2, attention_dim=0)


VARIANTS: dict[str, dict[str, Any]] = {
    "heads": {"num_heads": 3},
    "length": {"norm": "length"},
    "sqrt_length": {"norm": "sqrt_length"},
    "constant": {"bias": "constant"},
    "scaled": {"bias": "constant", "scale": 0.3},
    "recency": {"bias": "recency"},
    "target_values": {"target_values": True},
    "mlp": {"score": "mlp"},
    "mlp, all": {"score": "mlp", "scale": 2.5, "norm": "sqrt_length", "bias": "recency", "target_values": True},
    "all": {"num_heads": 2, "scale": 2.5, "norm": "sqrt_length", "bias": "recency", "target_values": True},
}


def naive_variant(
    attention: TargetAttention, inputs: tuple[torch.Tensor, ...], lengths: list[int], **options: Any
) -> torch.Tensor:
    """The variants' formulas with every history item projected, head by head and item by item."""
    target, sequence, query, keys = inputs
    num_heads = options.get("num_heads", 1)
    width = attention.attention_dim // num_heads
    rows = []
    for i, length in enumerate(lengths):
        heads = []
        for h in range(num_heads):
            part = slice(h * width, (h + 1) * width)
            total = torch.zeros(width, dtype=target.dtype)
            for k in range(length):
                q, key = attention.query.weight[part] @ query[i], attention.key.weight[part] @ keys[i, k]
                unit = attention.unit
                score = q @ key / math.sqrt(width)
                if unit is not None:
                    hidden = unit.of_target(query[i]) + unit.of_item(keys[i, k]) + unit.of_product(q * key)
                    score = unit.output(torch.relu(hidden)).squeeze()
                score = options.get("scale", 1.0) * score
                if attention.score_bias is not None:
                    age = int(math.log2(length - k)) if options["bias"] == "recency" else 0
                    score = score + attention.score_bias[age, h]
                value = sequence[i, k]
                if attention.gate is not None:
                    value = value * (1 + attention.gate.weight @ target[i])
                weight = torch.relu(score) if unit is None else score
                total = total + weight * (attention.value.weight[part] @ value)
            divisor = {"length": max(length, 1), "sqrt_length": math.sqrt(max(length, 1))}
            heads.append(total / divisor.get(options.get("norm", "none"), 1))
        rows.append(attention.output.weight @ torch.cat(heads) + target[i])
    return torch.stack(rows)


@pytest.mark.parametrize("has_own_keys", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_their_formulas_with_gradients(variant: str, has_own_keys: bool) -> None:
    options, generator = VARIANTS[variant], torch.Generator().manual_seed(2)
    attention = TargetAttention(6, sequence_dim=3, attention_dim=6, options=AttentionOptions(**options)).double()
    for weight in attention.parameters():
        torch.nn.init.normal_(weight, generator=generator)
    lengths = [0, 9, 2, 1]
    shapes = [(4, 6), (4, 9, 3), (4, 6), (4, 9, 3)]
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    if not has_own_keys:
        inputs[2:] = inputs[:2]
    target, sequence, query, keys = inputs
    is_valid = torch.arange(9) < torch.tensor(lengths)[:, None]
    cotangent = torch.randn(4, 6, dtype=torch.float64, generator=generator)

    ours = attention(target, sequence, is_valid, **({"query": query, "keys": keys} if has_own_keys else {}))
    reference = naive_variant(attention, (target, sequence, query, keys), lengths, **options)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-11)
    sources = [*{id(part): part for part in inputs}.values(), *attention.parameters()]
    for a, b in zip(
        torch.autograd.grad(ours, sources, cotangent), torch.autograd.grad(reference, sources, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_leave_the_target_alone_without_a_history(variant: str) -> None:
    attention = TargetAttention(6, sequence_dim=3, attention_dim=6, options=AttentionOptions(**VARIANTS[variant]))
    target = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attention(target, torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)), target)


def test_recencies_count_the_valid_positions_after() -> None:
    is_valid = torch.tensor([[True, False, True, True, True, False], [True] * 6])
    expected: list[list[int | None]] = [[2, None, 1, 1, 0, None], [2, 2, 2, 1, 1, 0]]
    found = recencies(is_valid).tolist()
    for row, wanted in zip(found, expected, strict=True):
        assert [age for age, known in zip(row, wanted, strict=True) if known is not None] == [
            known for known in wanted if known is not None
        ]
    assert recencies(torch.ones(1, 1 << 17, dtype=torch.bool)).max() == 15


def test_the_table_of_ages_is_what_recencies_gives() -> None:
    seq = (1 << 16) + 9
    expected = recencies(torch.ones(1, seq, dtype=torch.bool))[0].flip(0)
    assert torch.equal(bias_of_age(seq, "recency"), expected)
    assert torch.equal(bias_of_age(seq, "constant"), torch.zeros(seq, dtype=torch.int64))
    assert bias_of_age(0, "recency").dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "num_heads must divide attention_dim, got num_heads=4, attention_dim=6"),
        ({"num_heads": 0}, "every size must be at least 1"),
        ({"norm": "mean"}, "unknown option, got norm='mean'"),
        ({"score": "sum"}, "unknown option, got score='sum'"),
        ({"score": "mlp", "num_heads": 2}, "an activation unit has one head, got num_heads=2"),
        ({"scale": 0.0}, "the scale must be positive and finite, got scale=0.0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetAttention(6, sequence_dim=3, attention_dim=6, options=AttentionOptions(**options))
