"""What other devices than the CPU compute is what the kernels compute; here the CPU does both."""

from typing import Any

import pytest
import torch

from qin.network.attention import recencies, taken_rows
from qin.network.dropout import Mask, _write_kept, kept_by, keys_given
from qin.network.frozen import FrozenQIN
from qin.network.kernels.choice import as_other_devices
from qin.network.plain import PlainNetwork
from qin.network.qin import QIN
from qin.network.quadratic import padded_linear
from tests.network.sizes import make_sizes
from tests.network.test_qin import make, make_batch

DROPOUT = {"dropout": 0.3, "row_dropout": 0.2, "embedding_dropout": 0.3, "field_dropout": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": DROPOUT,
    "inside, dropout": {"activation": "inside", **DROPOUT},
    "batch norm, dropout": {"norm": "batch", **DROPOUT},
    "rms norm": {"norm": "rms", "activation": "inside", **DROPOUT},
    "heads, recency": {"num_heads": 7, "attention_norm": "sqrt_length", "attention_bias": "recency"},
    "constant bias, gate": {"attention_bias": "constant", "target_values": True, "attention_norm": "length"},
    "mlp": {"attention_score": "mlp"},
    "mlp, separate table": {
        "attention_score": "mlp",
        "attention_scale": 2.0,
        "attention_bias": "recency",
        "attention_norm": "length",
        "target_values": True,
        "separate_attention_embedding": True,
    },
    "separate table": {"separate_attention_embedding": True, "attention_bias": "recency"},
    "everything beside": {"pooled_history": True, "num_frequencies": 3, "numeric_bins": 4, **DROPOUT},
    "sparse": {"sparse_embedding_grad": True, "separate_attention_embedding": True, **DROPOUT},
}


def make_variant(**changes: Any) -> QIN:
    return make(sizes=make_sizes(embedding_dim=3, attention_dim=7, num_layers=2, num_rows=2, **changes))


def run(model: QIN, *, use_bf16: bool = False) -> dict[str, torch.Tensor]:
    """Logits and gradients of one training pass."""
    model.zero_grad()
    model.train()
    model.use_bf16 = use_bf16
    torch.manual_seed(5)
    categorical, numeric, sequences = make_batch(40)
    logit = model(categorical.to(torch.uint16), numeric, sequences, first_row=3)
    (logit * torch.linspace(-0.5, 1.0, 40)).sum().backward()
    grads = {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
    return {"logit": logit.detach(), **{name: grad.clone() for name, grad in grads.items()}}


def assert_near(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, of_each: float, of_all: float
) -> None:
    """Each within a share of its own norm, and all together, where a sum near zero counts for what it is."""
    squares = torch.zeros(2)
    for key, value in expected.items():
        apart, norm = (found[key] - value).norm(), value.norm()
        assert apart <= of_each * norm, key
        squares += torch.stack((apart, norm)).square()
    assert squares[0] <= of_all**2 * squares[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_pass_is_that_of_the_kernels(name: str) -> None:
    """The same masks, too, or the logits of rows would differ in their first digit."""
    ours = run(make_variant(**VARIANTS[name]))
    with as_other_devices():
        found = run(make_variant(**VARIANTS[name]))
    assert found.keys() == ours.keys()
    assert all(value.abs().max() > 0.0 for value in ours.values()), "zeros would be compared"
    assert_near(found, ours, of_each=1e-4, of_all=2e-6)


@pytest.mark.parametrize("name", ["dropout", "batch norm, dropout"])
def test_in_bfloat16_it_is_within_its_rounding(name: str) -> None:
    ours = run(make_variant(**VARIANTS[name]), use_bf16=True)
    with as_other_devices():
        found = run(make_variant(**VARIANTS[name]), use_bf16=True)
    assert_near(found, ours, of_each=0.3, of_all=3e-2)


def test_masks_are_the_same_bits_on_every_device() -> None:
    for key, probability, first_row in ((1, 0.5, 0), (2**63 - 1, 0.1, 7), (0x123456789ABCDEF, 0.999, 1 << 20)):
        mask = Mask(key, round(probability * 2**32))
        expected = torch.empty(50, 301, dtype=torch.bool)
        _write_kept(mask.key, mask.threshold, first_row, expected.numpy())  # type: ignore[arg-type]
        assert torch.equal(kept_by(mask, 50, 301, device=torch.device("cpu"), first_row=first_row), expected)
        of_tensor = Mask(torch.tensor(key), mask.threshold)
        assert torch.equal(kept_by(of_tensor, 50, 301, device=torch.device("cpu"), first_row=first_row), expected)
        assert 0.0 < float(expected.double().mean()) < 1.0


def test_masks_take_the_keys_they_are_given_in_order() -> None:
    keys = torch.tensor([4, 5])
    state = torch.random.get_rng_state()
    with keys_given(iter(keys.unbind())):
        assert [Mask.draw(0.5).key, Mask.draw(0.0).key, Mask.draw(0.5).key] == [4, 0, 5]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(Mask.draw(0.5).key, int)


def test_rows_that_a_product_takes_are_padded() -> None:
    x, weight, bias = torch.randn(5, 9, requires_grad=True), torch.randn(7, 9), torch.randn(7)
    torch.testing.assert_close(padded_linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        out = padded_linear(x, weight, bias)
    assert (out.dtype, out.shape) == (torch.bfloat16, (5, 7))
    (grad,) = torch.autograd.grad(out.float().sum(), x)
    torch.testing.assert_close(grad, weight.sum(0).expand(5, -1), rtol=2e-2, atol=5e-2)


def test_the_gradient_of_a_bias_by_recency_is_that_of_an_index() -> None:
    is_valid = torch.rand(6, 20) < 0.7
    table = torch.randn(16, 3, requires_grad=True)
    index, above = recencies(is_valid), torch.randn(6, 20, 3)
    out = taken_rows(table, index)
    assert torch.equal(out, table[index])
    (expected,) = torch.autograd.grad(table[index], table, above)
    (found,) = torch.autograd.grad(out, table, above)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_frozen_for_a_gpu_gives_the_logits_of_the_frozen_one(name: str, dtype: torch.dtype) -> None:
    model = make_variant(**VARIANTS[name])
    run(model)  # running averages of batch norm
    model.eval()
    model.use_bf16 = dtype == torch.bfloat16
    categorical, numeric, sequences = make_batch(40)
    with torch.inference_mode():
        expected = FrozenQIN(model)(categorical, numeric, sequences)
        found = PlainNetwork(model, dtype=dtype)(categorical, numeric, sequences)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert all(parameter.requires_grad for parameter in model.parameters()), "a check may come while it is trained"


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's own use of its trees
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_network_is_made_of_what_every_runtime_has(variant: str) -> None:
    """No operation that ONNX lacks, such as the parts of a float: a biased attention's ages are a table."""
    categorical, numeric, sequences = make_batch(3)
    arguments = (categorical.long(), numeric, [sequence.long() for sequence in sequences])
    graph = torch.export.export(PlainNetwork(make_variant(**VARIANTS[variant]).eval()), arguments).run_decompositions()
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "frexp" in name or name.startswith("prims.")]
