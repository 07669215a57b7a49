"""The form of a training step on a GPU: which of its parts are compiled, and whether its kernels are one graph."""

from dataclasses import dataclass

import torch

from qin.network.attention import TargetAttention
from qin.network.qin import QIN


@dataclass(frozen=True)
class Form:
    """How a step is made; its bytes depend on it.

    Attributes:
        compiled: Whether the quadratic layers and the attention's sums are compiled (`torch.compile`).
        recorded: Whether the launches of a step are recorded once and then made as one (CUDA graph).
    """

    compiled: bool = False
    recorded: bool = False

    def __str__(self) -> str:
        parts = [name for name in ("compiled", "recorded") if getattr(self, name)]
        return " ".join(parts) or "eager"


EAGER = Form()

# What a GPU takes. Neither other form has ever met one: benchmarks/gpu.py runs all of them, compares their results and
# times them, and whoever has its figures chooses here.
ON_GPU = EAGER


def choose_form(device: torch.device) -> Form:
    """The form for a device; the CPU has kernels of its own and takes none."""
    return ON_GPU if device.type == "cuda" else EAGER


def compile_parts(network: QIN) -> None:
    """Compile what moves most numbers between memory and products, for the one shape that batches have."""
    for attention in network.attentions:
        assert isinstance(attention, TargetAttention)
        attention.whole_sums = torch.compile(attention.whole_sums, dynamic=False)  # type: ignore[method-assign]
    network.network.whole = torch.compile(network.network.whole, dynamic=False)  # type: ignore[method-assign]
