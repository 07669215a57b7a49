"""A network that only scores, on the CPU: weights folded and converted once, rows computed tile by tile."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from qin.network.frozen_attention import FrozenAttention, FrozenTable
from qin.network.heights import TILE_ROWS, cuts, usable_heights
from qin.network.kernels.arrays import Int64Array
from qin.network.kernels.bf16 import bits_of, round_rows
from qin.network.kernels.products import padded, padded_width
from qin.network.kernels.scoring import (
    FrozenBins,
    FrozenOptions,
    advance,
    embed_in_bins,
    multiply_by_vector,
    standardise,
)
from qin.network.numeric import PiecewiseLinearEmbedding
from qin.network.packed import multiplier
from qin.network.qin import QIN
from qin.network.quadratic import QuadraticLayer

# A library's loop over numbers rounds the last ones, if they do not fill a vector, in another way than the others.
_WHOLE_VECTORS = 64


class FrozenQIN:
    """Computes what a `QIN` in evaluation mode does, with its weights as they are now.

    The rows of a quadratic layer and the projections of the attention are folded once, and matrices that are used in
    bfloat16 are converted once. Histories are read, scored and added up without a copy of them. Residuals, attention,
    norms and the logit are float32, as in `QIN`. Rows are computed in tiles of up to 512: their activations stay in a
    core's cache from layer to layer. Smaller tiles are used where they give the same bytes, the last rows of a tile may
    be empty, and so a row's logit does not depend on how many others there are.

    Args:
        network: Its weights must be float32, on the CPU. Its tables are shared, all else is copied.

    Raises:
        ValueError: If the weights are of another type or on another device.
    """

    def __init__(self, network: QIN) -> None:
        weight = network.embedding.embedding_table
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError(f"weights must be float32 on the CPU, got {weight.dtype} on {weight.device}")
        stack, separate = network.network, network.attention_embedding
        self._network, self._dim = network, stack.dim
        self._product_type = torch.bfloat16 if network.use_bf16 else torch.float32
        self._targets = np.array(network.inputs.target_fields, np.int64)
        with torch.no_grad():
            values = self._values = FrozenTable(network.embedding)
            keys = self._keys = values if separate is None else FrozenTable(separate)
            self._attentions = [
                FrozenAttention(attention, keys=keys, values=values, vocabulary=vocabulary)
                for attention, vocabulary in zip(network.attentions, network.inputs.sequence_vocabulary, strict=True)
            ]
            vocabularies = network.inputs.sequence_vocabulary if network.sizes.pooled_history else ()
            self._pooled = [int(values.offset[vocabulary]) for vocabulary in vocabularies]
            self._numeric = _FrozenNumeric(network)
            self._layers = [
                _FrozenLayer(*parts, dtype=self._product_type)
                for parts in zip(stack.layers, stack.norms, stack.activations, strict=True)
            ]
            self._last = stack.fc.weight[0].numpy().copy(), np.float32(stack.fc.bias.item())

    def __call__(
        self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits `(batch,)`; arguments and errors as of `QIN.forward`."""
        parts = [tile() for tile in self.tiles(categorical, numeric, sequences)]
        return torch.cat(parts) if parts else torch.empty(0)

    def tiles(
        self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: Sequence[torch.Tensor]
    ) -> list[Callable[[], torch.Tensor]]:
        """Check a batch and cut it into pieces of work that give consecutive logits and may run in any thread."""
        self._network.check_inputs(categorical, numeric, sequences)
        self._network.normalizer.check(numeric)
        embedding = self._network.embedding
        fields = embedding.field_index(categorical).contiguous()
        histories = [
            embedding.sequence_index(part, field=vocabulary).contiguous()
            for part, vocabulary in zip(sequences, self._network.inputs.sequence_vocabulary, strict=True)
        ]
        # Whole tiles alone need no others, nor the trial of which may be used.
        heights = (TILE_ROWS,) if len(fields) % TILE_ROWS == 0 else usable_heights(self._dim, self._product_type)
        return [
            partial(self._tile, fields[cut], numeric[cut], [part[cut] for part in histories], height=height)
            for cut, height in cuts(len(fields), heights)
        ]

    @torch.inference_mode()
    def _tile(
        self, fields: torch.Tensor, numeric: torch.Tensor, histories: list[torch.Tensor], *, height: int
    ) -> torch.Tensor:
        num_rows = len(fields)
        x = torch.empty(height, self._dim)
        self._read(fields.numpy(), numeric, histories, x)
        # Zeros, because the padding is multiplied as well.
        rounded = torch.zeros(height, padded_width(self._dim), dtype=self._product_type)
        round_rows(x.numpy(), bits_of(rounded))
        for layer in self._layers:  # the residual stays in `x` as float32; only what is multiplied is rounded
            rounded = layer.multiply(rounded)
            advance(x.numpy(), bits_of(rounded), *layer.rest)
        logit = torch.empty(num_rows)
        multiply_by_vector(x[:num_rows].numpy(), *self._last, logit.numpy())
        return logit

    def _read(self, fields: Int64Array, numeric: torch.Tensor, histories: list[torch.Tensor], x: torch.Tensor) -> None:
        """Write what the quadratic network reads into the first rows of `x`, `(height, dim)`, zeros into the others."""
        inputs = x[: len(fields)].numpy()
        position = self._values.read(fields, np.arange(fields.shape[1]), inputs)
        target = query = np.empty((len(fields), self._targets.size * self._values.dim), np.float32)
        self._values.read(fields, self._targets, target)
        if self._keys is not self._values:
            query = np.empty_like(target)
            self._keys.read(fields, self._targets, query)
        for attention, history in zip(self._attentions, histories, strict=True):
            inputs[:, position : position + target.shape[1]] = attention(target, query, history.numpy())
            position += target.shape[1]
        # One for each history, or none where histories are not pooled.
        for offset, history in zip(self._pooled, histories, strict=bool(self._pooled)):
            inputs[:, position : position + self._values.dim] = self._values.mean(history.numpy(), offset)
            position += self._values.dim
        self._numeric.write(numeric, x[: len(numeric), position:])
        x[len(fields) :] = 0.0


class _FrozenNumeric:
    """The numeric block: `NumericNormalizer` with its weights, then the embeddings beside it that there are."""

    def __init__(self, network: QIN) -> None:
        self._normalizer, self._periodic = copy.deepcopy(network.normalizer), copy.deepcopy(network.periodic)
        self._bins = None if network.bins is None else _frozen_bins(network.bins)
        self._weight = network.numeric_weight.detach().numpy().copy()

    def write(self, raw: torch.Tensor, out: torch.Tensor) -> None:
        """Write the block of raw values `(rows, fields)` into `out (rows, width)`."""
        num_rows, num_fields = raw.shape
        mean, std = self._normalizer.mean.numpy(), self._normalizer.std.numpy()
        # Logarithms are made of whole vectors, waves and their products of whole tiles.
        height = num_rows if self._periodic is None else TILE_ROWS
        values = torch.zeros(-(-height * num_fields // _WHOLE_VECTORS) * _WHOLE_VECTORS)
        values[: num_rows * num_fields] = raw.reshape(-1)
        log = torch.log1p(values.abs().double())
        rows = slice(num_rows * num_fields)
        numbers, logs = (part.numpy()[rows].reshape(num_rows, num_fields) for part in (values, log))
        standardise(numbers, logs, mean, std, self._weight, out[:, : 2 * num_fields].numpy())
        position = 2 * num_fields
        if self._periodic is not None:
            whole = values[: height * num_fields].view(height, num_fields)
            waves = self._periodic(self._normalizer(whole)[:, :num_fields])[:num_rows]
            out[:, position : position + waves.shape[1]] = waves
            position += waves.shape[1]
        if self._bins is not None:
            embed_in_bins(numbers, logs, mean, std, self._bins, out[:, position:].numpy())


def _frozen_bins(bins: PiecewiseLinearEmbedding) -> FrozenBins:
    lower, inverse_width = bins.bins()
    return FrozenBins(*(part.detach().numpy().copy() for part in (lower, inverse_width, bins.weight)))


class _FrozenLayer:
    """What a residual quadratic layer is made of, its rows folded.

    Attributes:
        multiply: The product with `W` transposed, `(dim, dim)`, with zeros up to the width of what is multiplied.
        rest: The last four arguments of `advance`.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module, activation: nn.Module, *, dtype: torch.dtype) -> None:
        assert isinstance(layer, QuadraticLayer)
        weight, bias = layer.folded()
        self.multiply = multiplier(padded(weight.t(), dtype))
        slope = float(activation.weight) if isinstance(activation, nn.PReLU) else 1.0
        eps, scale, shift = folded_norm(norm, bias)
        self.rest = bias.numpy(), FrozenOptions(layer.rectified, eps, slope), scale.numpy(), shift.numpy()


def folded_norm(norm: nn.Module, like: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The epsilon of an RMS norm, or -1, with the scale and shift that follow, `(dim,)` each."""
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return -1.0, scale, norm.bias - norm.running_mean * scale
    if isinstance(norm, nn.RMSNorm):
        eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        return eps, norm.weight.clone(), torch.zeros_like(like)
    assert isinstance(norm, nn.Identity), "every norm of the quadratic network has its folded form"
    return -1.0, torch.ones_like(like), torch.zeros_like(like)
