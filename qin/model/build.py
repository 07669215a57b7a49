"""From a schema and settings to a network on its device."""

from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from qin.columns.schema import Schema
from qin.config import NetworkParams
from qin.distributed.ranks import Ranks
from qin.network.kernels.bf16 import has_bf16_units
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes
from qin.network.sharded import ShardedEmbedding
from qin.runtime.errors import ConfigError

# The authors' implementation of the published model (arXiv 2504.17699) where it differs from the settings' defaults,
# which are its other variants: what came later is off. Widths and depths stay as they are set.
PUBLISHED: dict[str, Any] = {"embedding_std": 1e-4, "norm": "batch", "dropout": 0.1, "row_dropout": 0.1}
_SIZES = ("embedding_dim", "attention_dim", "num_layers", "num_rows")


# Rows of the embedding table from which row-wise updates cost less than dense ones (benchmarks/row_adam.py).
SPARSE_TABLE_ROWS = 500_000


class Computing(Protocol):
    """Where and how a network is computed: section train of the settings, or what a scorer chooses."""

    @property
    def device(self) -> str:
        """`auto`, `cpu` or `cuda`."""
        ...

    @property
    def precision(self) -> str:
        """`auto`, `fp32` or `bf16`, of the quadratic network's matrix products."""
        ...

    @property
    def num_threads(self) -> int:
        """On the CPU."""
        ...


def build_model(
    schema: Schema, params: NetworkParams, fitted: FittedInputs, *, seed: int, shared_by: Ranks | None = None
) -> QIN:
    """The network for a schema, with seeded initial weights.

    Args:
        schema: The resolved columns.
        params: Sizes and regularisation.
        fitted: What is fitted on the train fold.
        seed: Seed of the initial weights.
        shared_by: Processes that each hold a part of the embedding tables; None: they are whole.
    """
    inputs, sizes = resolve_inputs(schema), resolve_sizes(schema, params)
    generator = torch.Generator().manual_seed(seed)
    if shared_by is None:
        return QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=generator)
    # Rows of a divided table are exchanged, never the table, so its gradient is sparse whatever its size.
    sizes, tables = replace(sizes, sparse_embedding_grad=True), partial(ShardedEmbedding, ranks=shared_by)
    return QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=generator, tables=tables)


def unfitted(schema: Schema, params: NetworkParams) -> FittedInputs:
    """What is fitted on a train fold, in its shapes and without values, to be loaded with the weights."""
    params, num_fields = resolve_preset(params), len(schema.numeric)
    zeros = torch.zeros(num_fields)
    return FittedInputs(
        normalizer=NumericNormalizer(zeros, zeros),
        # Ascending, as whoever takes edges demands.
        edges=torch.arange(params.numeric_bins + 1.0).expand(num_fields, -1) if params.numeric_bins else None,
        is_rare=torch.zeros(sum(schema.vocabularies.values()), dtype=torch.bool) if params.min_count > 1 else None,
    )


def resolve_inputs(schema: Schema) -> QINInputs:
    """Which inputs the network of a schema reads."""
    names = list(schema.vocabularies)
    positions = {field.name: position for position, field in enumerate(schema.categorical)}
    return QINInputs(
        num_buckets=tuple(schema.vocabularies.values()),
        num_fields=len(schema.categorical),
        sequence_vocabulary=tuple(names.index(field.vocabulary) for field in schema.sequences),
        target_fields=tuple(positions[name] for name in schema.target),
    )


def resolve_sizes(schema: Schema, params: NetworkParams) -> QINSizes:
    """The network's sizes and variants, with a preset's in place."""
    return network_sizes(params, is_sparse=sum(schema.vocabularies.values()) >= SPARSE_TABLE_ROWS)


def network_sizes(params: NetworkParams, *, is_sparse: bool) -> QINSizes:
    """The same for a table whose gradient is known to be sparse or not."""
    # A preset has become what it stands for, and `min_count` has become which values are rare.
    names = set(NetworkParams.model_fields) - {"preset", "min_count"}
    return QINSizes(**resolve_preset(params).model_dump(include=names), sparse_embedding_grad=is_sparse)


def resolve_preset(params: NetworkParams) -> NetworkParams:
    """The settings with a preset's variants in place; the widths and depths stay as they are set."""
    if params.preset == "custom":
        return params
    sizes = {name: getattr(params, name) for name in _SIZES}
    return NetworkParams(preset=params.preset, **sizes, **PUBLISHED)


def choose_device(params: Computing) -> torch.device:
    """The device that computes.

    Raises:
        ConfigError: If a GPU is demanded and there is none.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device: cuda, but PyTorch finds no GPU here")
    return torch.device("cuda" if params.device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_bf16(params: Computing, device: torch.device) -> bool:
    """Whether matrix products are made in bfloat16: on request, or where the hardware has units for it."""
    if params.precision != "auto":
        return params.precision == "bf16"
    if device.type == "cuda":
        # Older GPUs emulate it, slower than they multiply float32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bf16_units()


def place(network: QIN, params: Computing) -> QIN:
    """The network on its device, in its precision."""
    device = choose_device(params)
    network.use_bf16 = choose_bf16(params, device)
    return network.to(device)
