"""One network for several labels: each label has a head of its own, the rest they learn together.

A step reads its rows once for each label, with the statistics of that label beside them: the rows of the first label's
part of the batch come first. Each part passes the network of its label; those networks are one but for the head, the
last linear unit, and for what is fitted to the label's own rows (moments of numbers, running means of a batch norm). So
each of them is a network like any other, which is written and scored as if it had been trained alone.

Source: Caruana (1997), Multitask Learning (hard parameter sharing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qin.network.qin import QIN
from qin.shards.loader import Batch, BatchSource
from qin.train.imbalance import TrainingRows

_HEAD = "network.fc"


class SharedNetworks(nn.Module):
    """The networks of several labels, which share their parameters from here on.

    Args:
        networks: One for each label, of equal sizes; the first one's parameters are everyone's.

    Shape:
        - input: the labels' parts of a batch, one after the other, of the same number of rows each.
        - output: logits in the same order, `(labels * batch,)`.
    """

    def __init__(self, networks: Sequence[QIN]) -> None:
        super().__init__()
        first, *others = networks
        for network in others:
            _share(network, first)
        self.networks = nn.ModuleList(networks)

    def forward(
        self,
        categorical: torch.Tensor,
        numeric: torch.Tensor,
        sequences: Sequence[torch.Tensor],
        *,
        first_row: int = 0,
    ) -> torch.Tensor:
        """Logits of each label's part; see `QIN.forward`."""
        num_labels = len(self.networks)
        # Equal parts: no label is downsampled, so each has every row of the batch.
        parts = [tensor.chunk(num_labels) for tensor in (categorical, numeric, *sequences)]
        logits = [
            network(fields, numbers, histories, first_row=first_row)
            for network, (fields, numbers, *histories) in zip(self.networks, zip(*parts, strict=True), strict=True)
        ]
        return torch.cat(logits)

    def of_label(self, number: int) -> QIN:
        """The network of a label, the first being 0."""
        network = self.networks[number]
        assert isinstance(network, QIN)
        return network


def _share(network: QIN, first: QIN) -> None:
    """Give a network the parameters of another one, but for the head."""
    # Whole: tables are found by module, and an optimizer takes none twice. Which of its rows are rare knows no label.
    network.embedding, network.attention_embedding = first.embedding, first.attention_embedding
    modules = dict(first.named_modules())
    for place, module in network.named_modules():
        if place != _HEAD:
            for name, _ in list(module.named_parameters(recurse=False)):
                setattr(module, name, getattr(modules[place], name))


@dataclass(frozen=True)
class StackedLoader:
    """The batches of several labels as one: the same rows, one label's part after the other's.

    Attributes:
        loaders: Of each label, with the same seed and sizes.
    """

    loaders: tuple[BatchSource, ...]

    @property
    def batch_size(self) -> int:
        """Rows per batch, each counted once."""
        return self.loaders[0].batch_size

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        """Batches of an epoch over a selection."""
        return self.loaders[0].num_batches(is_selected)

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on."""
        sources = [loader.epoch(epoch, is_selected, first_step=first_step) for loader in self.loaders]
        for parts in zip(*sources, strict=True):
            yield stacked(parts)


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches of the same columns, one after the other."""
    tensors = [torch.cat(parts) for parts in zip(*(batch.tensors for batch in batches), strict=True)]
    return replace(batches[0].with_tensors(tensors), rows=np.concatenate([batch.rows for batch in batches]))


@dataclass(frozen=True)
class SharedRows(TrainingRows):
    """The rows of each epoch as all labels read them; their loss is the mean of the labels' losses.

    Attributes:
        parts: The rows of each label; none of them is downsampled, so an epoch has the same rows for all.
    """

    parts: tuple[TrainingRows, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[TrainingRows]) -> "SharedRows":
        """The rows of several labels."""
        first = parts[0]
        loader = StackedLoader(tuple(part.loader for part in parts))
        return cls(loader, first.is_train, first.label, first.prior, first.seed, first.ranks, tuple(parts))

    @cached_property
    def batch_weight(self) -> float:
        """What the loss of a step is divided by: each label's rows are already weighted by their own constant."""
        return 1.0

    def weights(self, label: torch.Tensor) -> torch.Tensor:
        """Weight of each row of a batch, `(labels * batch,)`: those of a label add up to its share of the mean."""
        shares = [1.0 / (len(self.parts) * part.batch_weight) for part in self.parts]
        own = zip(self.parts, label.chunk(len(self.parts)), shares, strict=True)
        return torch.cat([part.weights(values) * share for part, values, share in own])
