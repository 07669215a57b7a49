"""Whether a model's training fits into memory, before any of it is allocated."""

import torch

from qin.columns.schema import Schema
from qin.config import NetworkParams
from qin.model.build import resolve_inputs, resolve_sizes
from qin.network.qin import network_width
from qin.runtime.errors import ConfigError
from qin.runtime.host import total_memory_bytes

# Of each weight: itself, its gradient, the optimizer's two moments, and the best epoch's copy, in float32.
_BYTES_PER_WEIGHT = 5 * 4


def memory_bytes(device: torch.device, *, num_processes: int) -> int:
    """Memory for each process: of its GPU, or a share of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return total_memory_bytes() // num_processes


def check_memory(schema: Schema, params: NetworkParams, *, available_bytes: int, num_parts: int = 1) -> None:
    """Refuse a model whose weights alone cannot be trained in the memory of this machine.

    Every quadratic layer is a matrix of the inputs' width squared, so this grows with the square of the columns.

    Args:
        schema: The resolved columns.
        params: Sizes of the network.
        available_bytes: Memory of the machine or the device.
        num_parts: Processes that each hold a part of the tables.

    Raises:
        ConfigError: Naming the width, what it takes and what would take less.
    """
    inputs, sizes = resolve_inputs(schema), resolve_sizes(schema, params)
    width = network_width(inputs, sizes, num_numeric=len(schema.numeric))
    in_layers = sizes.num_layers * sizes.num_rows * width * (width + 1)
    num_tables = 1 + (sizes.separate_attention_embedding and bool(inputs.sequence_vocabulary))
    in_tables = num_tables * sum(inputs.num_buckets) * sizes.embedding_dim / num_parts
    needed_bytes = _BYTES_PER_WEIGHT * (in_layers + in_tables)
    if needed_bytes > available_bytes:
        raise ConfigError(
            f"params.yaml: model: {len(schema.fields)} columns make the network {width} wide: {in_layers:.2g} weights "
            f"in {sizes.num_layers} x {sizes.num_rows} quadratic matrices and {in_tables:.2g} in embeddings take "
            f"{needed_bytes / 2**30:.3g} GiB to train, of {available_bytes / 2**30:.3g} GiB here; leave columns out "
            "(data.ignore), or lower model.embedding_dim, model.num_layers, model.num_rows or features.num_buckets"
        )
