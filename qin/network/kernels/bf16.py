"""bfloat16 in kernels: numbers by their bits, uint16, because Numba has no type for them."""

from typing import Any

import numpy as np
import torch

from qin.network.kernels.arrays import Float32Array, ProductArray
from qin.runtime.jit import njit

_NAN = 0x7FC0


# As PyTorch names them: x86-64 with matrix tiles or with vectors; of aarch64, which alone has the last name.
_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


def has_bf16_units() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in _UNITS)


def bits_of(tensor: torch.Tensor) -> Any:
    """The memory of a tensor on the CPU as an array: of uint16 where it is bfloat16."""
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


@njit(nogil=True)
def round_rows(x: Float32Array, bits: ProductArray) -> None:
    """`round_row` of each row, `(n, dim)`."""
    for i in range(x.shape[0]):
        round_row(x[i], bits[i])


@njit(nogil=True)
def round_row(x: Float32Array, bits: ProductArray) -> None:
    """Round float32 to the nearest bfloat16, ties to even, as PyTorch does; `bits` of float32 take them as they are."""
    if bits.itemsize > 2:
        for d in range(x.size):
            bits[d] = x[d]
        return
    # bfloat16 is the upper half of a float32. Adding 0x7FFF carries into it from just above a half on; the bit that
    # will be its last one decides a tie. A NaN with its payload in the lower half would become infinity.
    for d in range(x.size):
        word = np.float32(x[d]).view(np.uint32)
        rounded = (word + np.uint32(0x7FFF) + (word >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        bits[d] = np.uint16(rounded) if x[d] == x[d] else np.uint16(_NAN)


@njit(nogil=True)
def widen_row(bits: ProductArray, out: Float32Array) -> None:
    """Write numbers, bfloat16 by their bits or float32, as float32."""
    if bits.itemsize > 2:
        for d in range(bits.size):
            out[d] = bits[d]
        return
    for d in range(bits.size):
        out[d] = np.uint32(np.uint32(bits[d]) << np.uint32(16)).view(np.float32)
