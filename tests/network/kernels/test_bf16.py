"""Numbers by their bits: rounding is that of PyTorch, and what has no bits of its own passes as it is."""

import numpy as np
import torch

from qin.network.kernels.bf16 import bits_of, round_rows, widen_row


def test_rounding_to_bf16_is_that_of_pytorch() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, (64, 512), np.uint64).astype(np.uint32)
    words[0, :8] = 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF, 0x00000001, 0x80000000
    values = words.view(np.float32)
    bits = np.empty(values.shape, np.uint16)
    round_rows(values, bits)
    expected = torch.from_numpy(values).bfloat16()
    found = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    is_number = ~np.isnan(values)
    np.testing.assert_array_equal(bits[is_number], expected.view(torch.int16).numpy().view(np.uint16)[is_number])


def test_widening_is_exact_and_float32_passes_as_it_is() -> None:
    half = torch.randn(300, generator=torch.Generator().manual_seed(0)).bfloat16()
    for tensor in (half, half.float()):
        out = np.empty(300, np.float32)
        widen_row(bits_of(tensor), out)
        np.testing.assert_array_equal(out, half.float().numpy())
    same = np.empty((2, 150), np.float32)
    round_rows(out.reshape(2, 150), same)
    np.testing.assert_array_equal(same.ravel(), out)
