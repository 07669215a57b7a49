"""Which tiles a batch is cut into, and that a smaller one is used only where it gives the same bytes."""

import pytest
import torch

from qin.network.heights import TILE_ROWS, cuts, usable_heights

ALL = (1, 8, 32, 128, 512)


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (0, []),
        (1, [1]),
        (5, [8]),
        (9, [8, 1]),
        (20, [32]),
        (33, [32, 1]),
        (200, [128, 128]),
        (512, [512]),
        (700, [512, 128, 32, 32]),
    ],
)
def test_rows_are_covered_in_order_without_much_emptiness(num_rows: int, expected: list[int]) -> None:
    found = list(cuts(num_rows, ALL))
    assert [height for _, height in found] == expected
    assert [row for rows, _ in found for row in range(num_rows)[rows]] == list(range(num_rows))
    assert all(rows.stop - rows.start <= height for rows, height in found)


@pytest.mark.parametrize("heights", [(512,), (8, 512), (128, 512)])
def test_without_a_small_height_rows_take_a_larger_one(heights: tuple[int, ...]) -> None:
    for num_rows in (1, 7, 9, 130, 513):
        found = list(cuts(num_rows, heights))
        assert sum(rows.stop - rows.start for rows, _ in found) == num_rows
        assert {height for _, height in found} <= set(heights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_usable_heights_give_the_bytes_of_a_whole_tile_and_that_is_always_one(dtype: torch.dtype) -> None:
    width = 200
    heights = usable_heights(width, dtype)
    assert heights[-1] == TILE_ROWS
    assert list(heights) == sorted(set(heights) & set(ALL))
    generator = torch.Generator().manual_seed(9)
    x, weight = (torch.randn(n, 256, generator=generator).to(dtype) for n in (TILE_ROWS, 256))
    for height in heights:
        parts = [x[start : start + height] @ weight for start in range(0, TILE_ROWS, height)]
        assert torch.equal(torch.cat(parts), x @ weight)


def test_a_height_that_rounds_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library does that has a routine of its own for a few rows, which adds up from the other end."""
    plain = torch.Tensor.__matmul__

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return plain(a.flip(1), b.flip(0)) if len(a) < 9 else plain(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    usable_heights.cache_clear()
    try:
        found = usable_heights(100, torch.float32)
    finally:
        usable_heights.cache_clear()
    assert not set(found) & {1, 8}
    assert set(found) >= {TILE_ROWS}
