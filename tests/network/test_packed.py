"""A matrix in the library's order gives the bytes of a plain product, or is not used."""

from typing import Any

import pytest
import torch

from qin.network import packed
from qin.network.packed import multiplier, packs_alike
from qin.network.threads import one_thread

WIDTH = 192


def matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(rows, WIDTH, generator=generator).to(dtype) for rows in (512, WIDTH))
    return x, weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 8, 32, 128, 512])
def test_it_multiplies_to_the_byte(dtype: torch.dtype, num_rows: int) -> None:
    x, weight = matrices(dtype)
    with torch.inference_mode(), one_thread():
        part = x[:num_rows].clone()
        assert torch.equal(multiplier(weight)(part), part @ weight)


def test_without_the_library_s_order_the_product_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: torch.Tensor) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(packed, "_pack", missing)
    packs_alike.cache_clear()
    x, weight = matrices(torch.bfloat16)
    assert not packs_alike(WIDTH, torch.bfloat16)
    assert torch.equal(multiplier(weight)(x), x @ weight)
    packs_alike.cache_clear()


def test_other_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_pack", lambda weight: weight)
    monkeypatch.setattr(packed, "_multiply_packed", lambda x, *, packed: x @ packed + 1)
    packs_alike.cache_clear()
    assert not packs_alike(WIDTH, torch.bfloat16)
    packs_alike.cache_clear()
