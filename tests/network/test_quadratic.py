"""The quadratic network against the authors' outputs, and its folded rows against the unfolded ones."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from qin.network.quadratic import QuadraticLayer, QuadraticNetwork

FIXTURE = Path(__file__).parents[3] / "shared/fixtures/qin_reference.npz"
RENAMED = {r"^layer\.(\d+)\.linear\.0": r"layers.\1.linear", "^norm": "norms", "^activation": "activations"}


def our_name(theirs: str) -> str:
    for pattern, replacement in RENAMED.items():
        theirs = re.sub(pattern, replacement, theirs)
    return theirs


def unfolded(layer: QuadraticLayer, x: torch.Tensor) -> torch.Tensor:
    """The published form: one product per row, then the sum."""
    rows = layer.linear(x).view(len(x), layer.num_linear, -1)
    return torch.einsum("bd,brd->bd", x, rows)


@pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE} is absent")
@pytest.mark.parametrize("case", ["qnn_plain", "qnn_bn_train", "qnn_bn_eval"])
def test_matches_the_authors_outputs_and_gradients(case: str) -> None:
    with np.load(FIXTURE) as arrays:
        data = {k.removeprefix(f"{case}/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{case}/")}
    state = {our_name(k.removeprefix("state:")): v for k, v in data.items() if k.startswith("state:")}
    grads = {our_name(k.removeprefix("grad:")): v for k, v in data.items() if k.startswith("grad:")}
    num_outputs, dim = state["layers.0.linear.weight"].shape
    network = QuadraticNetwork(
        dim,
        num_layers=sum(name.startswith("activations") for name in state),
        num_linear=num_outputs // dim,
        norm="batch" if "norms.0.weight" in state else "none",
        dropout=0.0,
    ).double()
    network.load_state_dict(state)
    network.train(case != "qnn_bn_eval")
    x = data["input"].requires_grad_()

    logit = network(x)
    logit.backward(data["logit_grad"].squeeze(1))

    torch.testing.assert_close(logit, data["logit"].squeeze(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(x.grad, data["input_grad"], rtol=0, atol=1e-10)
    parameters = dict(network.named_parameters())
    assert parameters.keys() == grads.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_linear", [1, 2, 5])
def test_folded_rows_equal_unfolded_rows_with_gradients(num_linear: int) -> None:
    generator = torch.Generator().manual_seed(num_linear)
    layer = QuadraticLayer(7, num_linear=num_linear, dropout=0.0).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(9, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    cotangent = torch.randn(9, 7, dtype=torch.float64, generator=generator)
    inputs = [x, *layer.parameters()]

    folded, reference = layer(x), unfolded(layer, x)
    torch.testing.assert_close(folded, reference, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(folded, inputs, cotangent), torch.autograd.grad(reference, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_dropout_acts_on_each_row_alone_and_only_in_training() -> None:
    """With x = 1, zero weights and biases 1 and 10, the four sums of kept rows are known."""
    layer = QuadraticLayer(1, num_linear=2, dropout=0.5)
    with torch.no_grad():
        layer.linear.weight.zero_()
        layer.linear.bias.copy_(torch.tensor([1.0, 10.0]))
        x = torch.ones(4000, 1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            values, counts = layer(x).unique(return_counts=True)
        assert values.tolist() == [0.0, 2.0, 20.0, 22.0]
        assert ((counts - 1000).abs() < 4 * (4000 * 0.25 * 0.75) ** 0.5).all()
        assert layer.eval()(x).unique().tolist() == [11.0]


def test_dropout_acts_after_the_activation_too() -> None:
    """With one row whose sum is the constant 1, the layer's output dropout is all that is left to see."""
    network = QuadraticNetwork(1, num_layers=1, num_linear=1, dropout=0.25)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        network.layers[0].get_parameter("linear.weight").zero_()
        network.layers[0].get_parameter("linear.bias").fill_(1.0)
        network.fc.weight.fill_(1.0)
        network.fc.bias.zero_()
        values, counts = network(torch.ones(4000, 1)).unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([1.0, 1.0 + 4 / 3]))
    assert abs(counts[0].item() - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_a_network_without_products_is_linear_in_its_input() -> None:
    """Zero rows leave the residual alone, so the logit is fc(x)."""
    network = QuadraticNetwork(5, num_layers=3, num_linear=2, dropout=0.0).double()
    for layer in network.layers:
        nn.init.zeros_(layer.get_parameter("linear.weight"))
        nn.init.zeros_(layer.get_parameter("linear.bias"))
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network.fc(x).squeeze(1))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_linear=0"):
        QuadraticLayer(3, num_linear=0, dropout=0.0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got dropout=1.0"):
        QuadraticLayer(3, num_linear=1, dropout=1.0)
    with pytest.raises(ValueError, match="num_layers=0"):
        QuadraticNetwork(3, num_layers=0, num_linear=1, dropout=0.0)
    network = QuadraticNetwork(3, num_layers=1, num_linear=1, dropout=0.0)
    with pytest.raises(ValueError, match=r"must be \(batch, 3\), got \(2, 4\)"):
        network(torch.zeros(2, 4))


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_the_activation_inside_the_product(norm: Literal["none", "rms"]) -> None:
    """``x + norm(x * relu(W x + b))``, row by row, folded or not."""
    generator = torch.Generator().manual_seed(0)
    network = QuadraticNetwork(5, num_layers=2, num_linear=2, activation="inside", norm=norm).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    expected = x
    for layer, scale in zip(network.layers, network.norms, strict=True):
        linear = layer.get_submodule("linear")
        weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
        product = expected * torch.relu(expected @ (weight[:5] + weight[5:]).T + bias[:5] + bias[5:])
        if norm == "rms":
            root = (product.square().mean(dim=1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()
            product = product / root * scale.get_parameter("weight")
        expected = expected + product
    torch.testing.assert_close(network(x), network.fc(expected).squeeze(1), rtol=1e-12, atol=1e-12)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown option, got activation='between'"):
        QuadraticNetwork(3, num_layers=1, num_linear=1, activation="between")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got dropout=1.0"):
        QuadraticNetwork(3, num_layers=1, num_linear=1, dropout=1.0)
