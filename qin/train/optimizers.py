"""Several optimizers driven as one, and clipping that knows sparse gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from qin.network.kernels.row_gradient import merged


class Optimizers:
    """Optimizers of different parameters, with the interface of a single one.

    Args:
        parts: The optimizers.

    Raises:
        ValueError: If there is none, or two hold the same parameter.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        parameters = [id(parameter) for part in parts for group in part.param_groups for parameter in group["params"]]
        if not parts:
            raise ValueError("there must be at least one optimizer, got none")
        if len(set(parameters)) != len(parameters):
            raise ValueError("a parameter must belong to one optimizer, got one in two")
        self._parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts, in order; what is set in a group holds from the next step on."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Move all parameters."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of all parts, for `load_state_dict`; tensors are not copied."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; its tensors are taken over, not copied.

        Raises:
            ValueError: If the state is of another number of parts, or a part's is of other parameters.
        """
        states = state["parts"]
        if len(states) != len(self._parts):
            raise ValueError(f"the state must have {len(self._parts)} parts, got {len(states)}")
        for part, saved in zip(self._parts, states, strict=True):
            part.load_state_dict(saved)


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], *, max_norm: float) -> torch.Tensor:
    """Scale gradients down to a common norm, as `nn.utils.clip_grad_norm_`, sparse ones included.

    A sparse gradient counts with the norm of its sums per row, which is that of the dense gradient; the norm of the
    single reads would be another number. It is left with every row once.

    Args:
        parameters: Whose gradients to scale, in place.
        max_norm: Largest Euclidean norm of all gradients together.

    Returns:
        The norm before, a scalar.
    """
    grads = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = merged(parameter.grad)
        grads.append(parameter.grad._values() if parameter.grad.is_sparse else parameter.grad)
    norm = nn.utils.get_total_norm(grads)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor)
    return norm
