"""The state of an optimizer as named tensors, for a run that goes on from it on another day."""

from collections.abc import Mapping
from typing import Any

import torch

from qin.network.qin import QIN
from qin.train.optimizers import Optimizers


def optimizer_state(network: QIN, optimizer: torch.optim.Optimizer | Optimizers) -> dict[str, torch.Tensor]:
    """The state of an optimizer by parameter, as tensors alone: `<parameter>/<what>`."""
    states = {parameter: state for part in parts_of(optimizer) for parameter, state in part.state.items()}
    return {
        f"{name}/{key}": torch.as_tensor(value).cpu().contiguous()
        for name, parameter in network.named_parameters()
        for key, value in states.get(parameter, {}).items()
    }


def restore_optimizer(
    network: QIN, optimizer: torch.optim.Optimizer | Optimizers, saved: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of `optimizer_state`."""
    by_name: dict[str, dict[str, Any]] = {}
    for path, value in saved.items():
        name, _, key = path.rpartition("/")
        by_name.setdefault(name, {})[key] = value
    owner = {p: part for part in parts_of(optimizer) for group in part.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        state = by_name.get(name)
        if state is not None:  # a number that counts is one, whatever it was written as
            plain = {
                key: int(value) if not value.dtype.is_floating_point else value.to(parameter.device)
                for key, value in state.items()
            }
            owner[parameter].state[parameter] = plain


def parts_of(optimizer: torch.optim.Optimizer | Optimizers) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers that one drives."""
    return optimizer.parts if isinstance(optimizer, Optimizers) else (optimizer,)
