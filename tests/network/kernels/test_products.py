"""Products against PyTorch's, and the two promises that hold on every processor: one order, and rows by themselves."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from qin.network.kernels.products import padded, product, spread, stacked_product
from qin.network.numeric import PeriodicEmbedding
from qin.network.quadratic import QuadraticNetwork
from qin.network.threads import in_tiles, one_thread

WIDTHS = (1, 37, 64, 100, 129)
ROWS = 2 * 1024 + 77

VARIANTS: dict[str, dict[str, Any]] = {
    "inside": {"activation": "inside"},
    "published": {"activation": "after", "norm": "batch", "dropout": 0.1, "row_dropout": 0.1},
    "rms": {"activation": "after", "norm": "rms"},
    "row_dropout": {"activation": "after", "row_dropout": 0.5},
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_grads(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a function gives, and the gradients of a function of that."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad((out.tanh() * torch.arange(out.shape[-1]).cos()).sum(), leaves)]


def same_for_any_number_of_threads(results: Callable[[], list[torch.Tensor]]) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in results()))
    assert len(set(found)) == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("outputs", [1, 37, 64])
def test_products_and_their_gradients_are_pytorchs(width: int, outputs: int) -> None:
    x, weight = draw(ROWS, width, dtype=torch.float64), draw(outputs, width, seed=1, dtype=torch.float64)
    for found, expected in zip(
        with_grads(product, x, weight), with_grads(lambda a, b: a @ b.t(), x, weight), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS)
def test_rounded_products_are_near_exact_ones(width: int) -> None:
    x, weight = draw(300, width), draw(40, width, seed=1)
    found = with_grads(lambda a, b: product(a, b, dtype=torch.bfloat16), x, weight)
    for part, expected in zip(found, with_grads(lambda a, b: a @ b.t(), x, weight), strict=True):
        assert part.dtype == torch.float32
        assert 0 < float((part - expected).norm()) < 0.03 * float(expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_products_and_their_gradients_do_not_depend_on_threads(
    width: int, dtype: torch.dtype, num_threads: None
) -> None:
    x, weight = draw(ROWS, width), draw(37, width, seed=1)
    same_for_any_number_of_threads(lambda: with_grads(lambda a, b: product(a, b, dtype=dtype), x, weight))


def test_stacks_and_spread_parameters_do_not_depend_on_threads(num_threads: None) -> None:
    a, b, vector = draw(3, 50_000, 7), draw(3, 7, 5, seed=1), draw(37)
    same_for_any_number_of_threads(lambda: with_grads(stacked_product, a, b))
    same_for_any_number_of_threads(lambda: with_grads(lambda v: spread(v, 40_000) * 1.5, vector))
    found, expected = with_grads(stacked_product, a, b), with_grads(torch.bmm, a, b)
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", [0, 1, 36, -1])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_not_finite_stays_in_its_row(width: int, value: float, position: int) -> None:
    x, weight = draw(512, width), draw(37, width, seed=1)
    x[1, min(position, width - 1)] = value
    for dtype in (torch.float32, torch.bfloat16):
        is_finite = product(x, weight, dtype=dtype).isfinite().all(dim=1)
        assert (~is_finite).nonzero().tolist() == [[1]]


@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_of_any_width_do_not_depend_on_threads(variant: str, dim: int, num_threads: None) -> None:
    """Large enough for PyTorch to divide every sum of its own among threads."""
    network = QuadraticNetwork(dim, num_layers=2, num_linear=2, **VARIANTS[variant])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    x = draw(40_000 if dim < 64 else ROWS, dim, seed=1)

    def results(in_bf16: bool) -> list[torch.Tensor]:
        torch.manual_seed(2)
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logit = network(leaf)
        with one_thread():
            loss = logit.tanh().sum()
        return [logit.detach(), *torch.autograd.grad(loss, [leaf, *network.parameters()])]

    for in_bf16 in (False, True):
        same_for_any_number_of_threads(partial(results, in_bf16))


@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("in_bf16", [False, True])
def test_an_infinite_row_leaves_the_others_of_a_network(dim: int, in_bf16: bool) -> None:
    network = QuadraticNetwork(dim, num_layers=2, num_linear=2, activation="inside").eval()
    x = draw(512, dim)
    x[1, 0] = float("inf")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        is_finite = network(x).isfinite()
    assert (~is_finite).nonzero().tolist() == [[1]]


def test_periodic_embeddings_do_not_depend_on_threads(num_threads: None) -> None:
    embedding = PeriodicEmbedding(37, 5)
    embedding.init_parameters(torch.Generator().manual_seed(0))
    x = draw(5001, 37)
    same_for_any_number_of_threads(
        lambda: [
            (out := embedding(x)).detach(),
            *torch.autograd.grad(out, [*embedding.parameters()], torch.ones_like(out)),
        ]
    )


def test_one_thread_leaves_tiles_their_workers(num_threads: None) -> None:
    torch.set_num_threads(3)
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert in_tiles(3, lambda _: torch.get_num_threads(), tile_rows=1) == [1, 1, 1]
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


class _Watched(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Checks each product that PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            left, right = args[-2:]
            assert torch.get_num_threads() == 1, "a product is made by one thread"
            if left.dtype == torch.bfloat16:
                assert left.shape[-1] % 64 == 0, "a bfloat16 product has terms by the 64"
                assert all(side.stride(-1) == 1 or side.stride(-2) == 1 for side in (left, right))
            self.shapes.append((*left.shape, right.shape[-1]))
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watched]:
    """Every product in a block is checked, those of workers too, whose work this thread then does."""

    class Inline:
        def map(self, work: Callable[[slice], Any], tiles: list[slice]) -> list[Any]:
            with one_thread():
                return [work(tile) for tile in tiles]

    with monkeypatch.context() as patched, _Watched() as mode:
        patched.setattr("qin.network.threads.one_thread_workers", lambda _: Inline())
        yield mode


@pytest.mark.parametrize(("variant", "in_bf16"), list(itertools.product(VARIANTS, [False, True])))
def test_every_product_of_training_is_made_by_one_thread_on_padded_copies(
    variant: str, in_bf16: bool, monkeypatch: pytest.MonkeyPatch, num_threads: None
) -> None:
    torch.set_num_threads(3)
    network = QuadraticNetwork(37, num_layers=2, num_linear=2, **VARIANTS[variant])
    x = draw(700, 37).requires_grad_()
    with watched(monkeypatch) as mode:
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logit = network(x)
        logit.sum().backward()
    assert len(mode.shapes) >= 2 * 2 + 3  # of each layer the gradients at least, of the logit all


def test_padding_is_zero_and_contiguous() -> None:
    out = padded(draw(37, 100).t(), torch.bfloat16)
    assert out.shape == (128, 64)
    assert out.is_contiguous()
    assert not out[100:].any()
    assert not out[:, 37:].any()
