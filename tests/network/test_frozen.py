"""The network that only scores against the network itself, and its kernels against naive loops in float64."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qin.network.frozen import FrozenQIN
from qin.network.heights import TILE_ROWS
from qin.network.kernels.scoring import FrozenUnit, attend, attend_by_unit
from qin.network.qin import QIN, QINInputs
from tests.network.sizes import make_sizes
from tests.network.test_qin import INPUTS, make

Rows = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]

NUM_ROWS = TILE_ROWS + 90
SIZES: dict[str, Any] = {"embedding_dim": 5, "attention_dim": 6, "num_layers": 2, "num_rows": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "batch_norm": {"norm": "batch"},
    "inside": {"activation": "inside", "attention_norm": "sqrt_length", "attention_bias": "constant"},
    "scaled": {"attention_bias": "constant", "attention_scale": 3.0},
    "heads": {"num_heads": 3, "attention_norm": "length", "norm": "rms"},
    "recency": {"num_heads": 2, "attention_bias": "recency", "target_values": True},
    "mlp": {"attention_score": "mlp", "attention_bias": "constant", "attention_norm": "sqrt_length"},
    "mlp, separate": {
        "attention_score": "mlp",
        "attention_scale": 3.0,
        "attention_bias": "recency",
        "target_values": True,
        "separate_attention_embedding": True,
        "pooled_history": True,
    },
    "separate": {"separate_attention_embedding": True, "attention_norm": "sqrt_length", "activation": "inside"},
    "periodic": {"num_frequencies": 3, "norm": "batch", "activation": "inside"},
    "pooled": {"pooled_history": True, "attention_bias": "recency", "norm": "batch"},
    "rare": {"is_rare": torch.arange(30) % 7 == 2, "separate_attention_embedding": True, "pooled_history": True},
    "bins": {"numeric_bins": 4, "num_frequencies": 2, "activation": "inside"},
}


def make_trained(**variant: Any) -> QIN:
    """A network whose every parameter and running moment matters."""
    is_rare = variant.pop("is_rare", None)
    model = make(INPUTS, make_sizes(**SIZES, **variant), num_numeric=3, is_rare=is_rare)
    model.normalizer.std[2] = 0.0
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.RMSNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            module.eps = 1e-3  # left open, it would depend on the type
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    for attention in model.attentions:
        if isinstance(attention.score_bias, nn.Parameter):
            nn.init.normal_(attention.score_bias, generator=generator)
    return model.eval()


def make_rows(num_rows: int = NUM_ROWS, *, seed: int = 1) -> Rows:
    """Padding and null anywhere, empty histories, missing numbers."""
    generator = torch.Generator().manual_seed(seed)
    categorical = torch.stack([torch.randint(0, n, (num_rows,), generator=generator) for n in (5, 9, 4)], dim=1)
    numeric = 5 * torch.randn(num_rows, 3, generator=generator)
    numeric[torch.rand(num_rows, 3, generator=generator) < 0.1] = math.nan
    sequences = []
    for vocabulary, seq in zip(INPUTS.sequence_vocabulary, (4, 9), strict=True):
        tokens = torch.randint(0, INPUTS.num_buckets[vocabulary], (num_rows, seq), generator=generator)
        sequences.append(tokens * (torch.rand(num_rows, 1, generator=generator) < 0.8))
    return categorical, numeric, sequences


def reference(model: QIN, rows: Rows) -> torch.Tensor:
    """The network's own logits in float64."""
    double = copy.deepcopy(model).double()
    double.use_bf16 = False
    with torch.inference_mode():
        logit: torch.Tensor = double(*rows)
    return logit


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_network(variant: str) -> None:
    model, rows = make_trained(**VARIANTS[variant]), make_rows()
    expected = reference(model, rows)
    torch.testing.assert_close(FrozenQIN(model)(*rows).double(), expected, rtol=2e-6, atol=2e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_bf16_it_is_as_exact_as_the_network(variant: str) -> None:
    model, rows = make_trained(**VARIANTS[variant]), make_rows()
    model.use_bf16 = True
    with torch.inference_mode():
        own = model(*rows)
    expected = reference(model, rows)
    scale = 1.0 + expected.abs()
    error, own_error = (FrozenQIN(model)(*rows) - expected) / scale, (own - expected) / scale
    assert 0.0 < error.square().mean().sqrt() < 1.1 * own_error.square().mean().sqrt()
    assert error.abs().max() < 1.5 * own_error.abs().max()


@pytest.mark.parametrize("variant", ["heads", "mlp, separate"])
def test_rows_do_not_see_each_other(variant: str) -> None:
    """Bit for bit: alone, in another order, beside other rows, in other integer types."""
    for use_bf16 in (False, True):
        model, (categorical, numeric, sequences) = make_trained(**VARIANTS[variant]), make_rows()
        model.use_bf16 = use_bf16
        frozen = FrozenQIN(model)
        whole = frozen(categorical, numeric, sequences)
        order = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(0))
        assert torch.equal(frozen(categorical[order], numeric[order], [s[order] for s in sequences]), whole[order])
        for row in (0, 17, TILE_ROWS, NUM_ROWS - 1):
            one = slice(row, row + 1)
            assert torch.equal(frozen(categorical[one], numeric[one], [s[one] for s in sequences]), whole[one])
        stored = [s.to(torch.uint16) for s in sequences]
        assert torch.equal(frozen(categorical.to(torch.int32), numeric.double(), stored), whole)


@pytest.mark.parametrize("variant", ["recency", "mlp, separate"])
def test_padding_and_its_place_change_nothing(variant: str) -> None:
    model, (categorical, numeric, sequences) = make_trained(**VARIANTS[variant]), make_rows()
    frozen = FrozenQIN(model)
    longer = [nn.functional.pad(s, (2, 3)) for s in sequences]
    assert torch.equal(frozen(categorical, numeric, longer), frozen(categorical, numeric, sequences))
    none = [s[:, :0] for s in sequences]
    empty = [torch.zeros_like(s) for s in sequences]
    assert torch.equal(frozen(categorical, numeric, none), frozen(categorical, numeric, empty))


def test_without_sequences_numbers_or_rows() -> None:
    model = make(QINInputs(num_buckets=(5, 9), num_fields=2), num_numeric=0).eval()
    rows = torch.tensor([[1, 8], [0, 0], [4, 2]]), torch.empty(3, 0), list[torch.Tensor]()
    torch.testing.assert_close(FrozenQIN(model)(*rows).double(), reference(model, rows), rtol=1e-6, atol=1e-6)
    assert FrozenQIN(model)(rows[0][:0], rows[1][:0], []).shape == (0,)


def test_a_loss_of_meaning_stays_visible() -> None:
    """A number beyond float32 in one row gives no finite logit there, and leaves the others alone."""
    for use_bf16 in (False, True):
        model, (categorical, numeric, sequences) = make_trained(), make_rows(3)
        model.use_bf16 = use_bf16
        expected = FrozenQIN(model)(categorical, numeric, sequences)
        numeric[1, 0] = math.inf
        found = FrozenQIN(model)(categorical, numeric, sequences)
        assert found.isfinite().tolist() == [True, False, True]
        assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_later_training_does_not_change_it() -> None:
    model, rows = make_trained(norm="batch", target_values=True, num_frequencies=2, numeric_bins=3), make_rows(8)
    frozen = FrozenQIN(model)
    before = frozen(*rows)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "embedding_table" not in name:
                value.add_(1)
    assert torch.equal(frozen(*rows), before)


def test_bad_inputs_are_refused() -> None:
    frozen, (categorical, numeric, sequences) = FrozenQIN(make_trained()), make_rows()
    wrong = categorical.clone()
    wrong[TILE_ROWS + 3, 1] = 9
    with pytest.raises(ValueError, match=rf"must be in \[0, 9\) here, got 9 at row {TILE_ROWS + 3}, column 1"):
        frozen(wrong, numeric, sequences)
    with pytest.raises(ValueError, match=r"must be in \[0, 12\) here, got -1 at row 0, column 0"):
        frozen(categorical, numeric, [sequences[0], sequences[1] * 0 - 1])
    with pytest.raises(ValueError, match=r"must be integers, got torch\.float32"):
        frozen(categorical.float(), numeric, sequences)
    with pytest.raises(ValueError, match=r"numeric values must be \(batch, 3\)"):
        frozen(categorical, numeric[:, :2], sequences)
    with pytest.raises(ValueError, match="the model reads 2 sequences, got 1"):
        frozen(categorical, numeric, sequences[:1])
    with pytest.raises(ValueError, match=r"weights must be float32 on the CPU, got torch\.float64"):
        FrozenQIN(make_trained().double())


def test_histories_are_added_up_as_a_loop_does() -> None:
    generator = np.random.default_rng(0)
    buckets = generator.integers(0, 7, (6, 11)) * (generator.random((6, 11)) < 0.6)
    buckets[2] = 0
    keys, values = (generator.standard_normal((12, 5)).astype(np.float32) for _ in range(2))
    direction = generator.standard_normal((6, 2, 5)).astype(np.float32)
    bias, divisor = generator.standard_normal((11, 2)).astype(np.float32), np.arange(1, 13, dtype=np.float32)
    found = np.full((6, 2, 5), np.nan, np.float32)
    attend(buckets, 4, keys, values, direction, bias, divisor, found)

    expected = np.zeros((6, 2, 5))
    for i, history in enumerate(buckets):
        items = [bucket + 4 for bucket in history if bucket]
        for age, row in enumerate(reversed(items)):
            for head in range(2):
                score = direction[i, head].astype(float) @ keys[row] + bias[age, head]
                expected[i, head] += max(score, 0.0) * values[row].astype(float) / divisor[len(items)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert not found[2].any()


def test_a_units_histories_are_added_up_as_a_loop_does() -> None:
    generator = np.random.default_rng(1)
    buckets = generator.integers(0, 7, (6, 11)) * (generator.random((6, 11)) < 0.6)
    buckets[2] = 0
    keys, values = (generator.standard_normal((12, 5)).astype(np.float32) for _ in range(2))
    unit = FrozenUnit(*(generator.standard_normal(size).astype(np.float32) for size in ((6, 5, 3), (6, 3), 3)))
    bias, divisor = generator.standard_normal((11, 1)).astype(np.float32), np.arange(1, 13, dtype=np.float32)
    found = np.full((6, 1, 5), np.nan, np.float32)
    attend_by_unit(buckets, 4, keys, values, unit, bias, divisor, found)

    expected = np.zeros((6, 5))
    for i, history in enumerate(buckets):
        items = [bucket + 4 for bucket in history if bucket]
        for age, row in enumerate(reversed(items)):
            hidden = np.maximum(keys[row].astype(float) @ unit.matrix[i] + unit.offset[i], 0.0)
            expected[i] += (hidden @ unit.weight + bias[age, 0]) * values[row] / divisor[len(items)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-5)
    assert not found[2].any()
    keys[buckets[0].max() + 4, 0] = np.nan
    attend_by_unit(buckets, 4, keys, values, unit, bias, divisor, found)
    assert np.isnan(found[0]).all(), "a relu keeps what is not a number"
