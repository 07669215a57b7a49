"""The quadratic network by tiles against the same network by whole batches, gradients and dropout included."""

from typing import Any

import pytest
import torch
from torch import nn

from qin.network.kernels.quadratic import tile_rows
from qin.network.quadratic import QuadraticNetwork
from qin.network.threads import TILE_ROWS

DIM, NUM_ROWS = 37, 2 * TILE_ROWS + 41
VARIANTS: dict[str, dict[str, Any]] = {
    "inside": {"activation": "inside"},
    "after": {"activation": "after"},
    "layer_dropout": {"activation": "inside", "dropout": 0.3},
    "published": {"activation": "after", "dropout": 0.1, "row_dropout": 0.1},
    "inside_row_dropout": {"activation": "inside", "row_dropout": 0.5},
}


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest) -> QuadraticNetwork:
    return make(**VARIANTS[request.param])


def make(**variant: Any) -> QuadraticNetwork:
    network = QuadraticNetwork(DIM, num_layers=3, num_linear=2, **variant)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def make_input() -> torch.Tensor:
    return torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()


def results(network: QuadraticNetwork, x: torch.Tensor, *, in_bf16: bool = False) -> list[torch.Tensor]:
    """Logits and the gradients of a function of them, with the dropout of one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logit = network(x)
    return [logit.detach(), *torch.autograd.grad(logit.tanh().sum(), [x, *network.parameters()])]


def mean_error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    return sum(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)) / len(exact)


def by_whole_batches(network: QuadraticNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network._is_tiled(make_input())
    monkeypatch.setattr(network, "_is_tiled", lambda _: False)


def test_logits_and_gradients_are_those_of_whole_batches(
    network: QuadraticNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 for the reference: what is left is the rounding of float32."""
    x = make_input()
    found = results(network, x)
    by_whole_batches(network, monkeypatch)
    expected = results(network.double(), x.detach().double().requires_grad_())
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b).norm()) < 2e-6 * float(b.norm())


def test_bfloat16_differs_by_its_rounding_alone(network: QuadraticNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both round one function; by tiles, gradients are about as far from float32 as autocast's are."""
    x = make_input()
    exact = results(network, x)
    tiled = results(network, x, in_bf16=True)
    by_whole_batches(network, monkeypatch)
    whole = results(network, x, in_bf16=True)
    assert not torch.equal(tiled[0], exact[0])
    assert mean_error(tiled, exact) < 2 * mean_error(whole, exact) < 0.3


def test_in_evaluation_nothing_is_dropped(network: QuadraticNetwork) -> None:
    x, state = make_input().detach(), torch.random.get_rng_state()
    with torch.no_grad():
        found = network.eval()(x)
    torch.testing.assert_close(found, network.double()(x.double()).float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_bytes_depend_neither_on_threads_nor_on_the_rows_that_follow(
    network: QuadraticNetwork, num_threads: None
) -> None:
    x = make_input()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(b"".join(part.numpy().tobytes() for part in results(network, x, in_bf16=True)))
    assert len(set(found)) == 1
    first = x[: 2 * TILE_ROWS].detach().requires_grad_()
    assert torch.equal(results(network, first)[0], results(network, x)[0][: 2 * TILE_ROWS])


def test_a_large_batch_has_higher_tiles(
    network: QuadraticNetwork, num_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_rows = 2 * 2 * TILE_ROWS + 41
    assert [tile_rows(n) for n in (NUM_ROWS, 4 * TILE_ROWS - 1, num_rows)] == [TILE_ROWS, TILE_ROWS, 2 * TILE_ROWS]
    x = torch.randn(num_rows, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
    of_threads = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        of_threads.append(results(network, x))
    assert all(torch.equal(*pair) for other in of_threads[1:] for pair in zip(of_threads[0], other, strict=True))
    by_whole_batches(network, monkeypatch)
    expected = results(network.double(), x.detach().double().requires_grad_())
    for a, b in zip(of_threads[0], expected, strict=True):
        assert float((a.double() - b).norm()) < 2e-6 * float(b.norm())


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_the_slope_has_its_gradient_even_where_it_does_nothing(slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = make(activation="after"), make_input()
    with torch.no_grad():
        for activation in network.activations:
            activation.get_parameter("weight").fill_(slope)
    found = results(network, x)
    by_whole_batches(network, monkeypatch)
    for a, b in zip(found, results(network, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-6 * float(b.abs().max()))
        assert b.any()


def test_nan_stays_in_its_row(network: QuadraticNetwork) -> None:
    x = make_input().detach()
    x[TILE_ROWS + 3, 5] = float("nan")
    with torch.no_grad():
        is_nan = network.eval()(x).isnan()
    assert is_nan.nonzero().tolist() == [[TILE_ROWS + 3]]


def test_what_was_used_up_is_not_used_again() -> None:
    network, x = make(activation="inside"), make_input()
    logit = network(x)
    torch.autograd.grad(logit.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="can run backward once, not twice"):
        torch.autograd.grad(logit.sum(), x)


@pytest.mark.parametrize(("norm", "dtype"), [("batch", torch.float32), ("rms", torch.float32), ("none", torch.float64)])
def test_what_tiles_cannot_do_is_left_to_whole_batches(norm: Any, dtype: torch.dtype) -> None:
    network = make(norm=norm).to(dtype)
    assert not network._is_tiled(make_input().to(dtype))
    assert network(make_input().to(dtype)).dtype == dtype
