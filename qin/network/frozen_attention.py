"""The attention of a network that only scores: over rows of a table, its projections folded once."""

import numpy as np
import torch
from torch import nn

from qin.network.activation_unit import ActivationUnit
from qin.network.attention import TargetAttention, bias_of_age
from qin.network.embedding import FusedEmbedding
from qin.network.kernels.arrays import Float32Array, Int64Array
from qin.network.kernels.scoring import FrozenUnit, attend, attend_by_unit, average, multiply, read_fields


class FrozenTable:
    """An embedding table and its vocabularies, as arrays."""

    def __init__(self, embedding: FusedEmbedding) -> None:
        self.weight, self.dim = embedding.embedding_table.detach().numpy(), embedding.dim
        self.offset, self.limit = embedding.offsets.numpy(), embedding.num_buckets.numpy()

    def read(self, buckets: Int64Array, fields: Int64Array, out: Float32Array) -> int:
        """Write some fields' embeddings into the first columns of `out`; return how many those are."""
        read_fields(buckets, fields, self.offset, self.weight, out)
        return fields.size * self.dim

    def mean(self, history: Int64Array, offset: int) -> Float32Array:
        """Means `(rows, dim)` of histories' buckets `(rows, seq)` in the vocabulary that begins at `offset`."""
        out = np.empty((len(history), self.dim), np.float32)
        average(history, offset, self.weight, out)
        return out


class FrozenAttention:
    """`TargetAttention` over rows of a table, its projections folded.

    Of each head, `u = D t` with `D = scale W_k^T W_q / sqrt(width)` scores the history, or an activation unit does;
    `W_o W_v` maps the sums.
    """

    def __init__(self, attention: nn.Module, *, keys: FrozenTable, values: FrozenTable, vocabulary: int) -> None:
        assert isinstance(attention, TargetAttention)
        self._keys, self._values = keys.weight, values.weight
        self._offset = int(values.offset[vocabulary])
        self._heads, dim = attention.num_heads, values.dim
        width = attention.attention_dim // self._heads
        # In float64, once: a product of two matrices has more terms, and so larger errors, than each on its own.
        query, key, value = (
            module.weight.double().view(self._heads, width, -1)  # (heads, width, dt or ds)
            for module in (attention.query, attention.key, attention.value)
        )
        output = attention.output.weight.double().view(-1, self._heads, width)  # (dt, heads, width)
        self._unit = None
        if attention.unit is not None:
            self._unit = _FoldedUnit(attention.unit, query=query[0], key=key[0], scale=attention.scale)
        direction = torch.einsum("hwt,hwd->thd", query, key) * (attention.scale / width**0.5)
        self._direction = direction.reshape(-1, self._heads * dim).float().numpy()  # (dt, heads * ds)
        self._projection = torch.einsum("hwd,ohw->hdo", value, output).reshape(self._heads * dim, -1).float().numpy()
        self._gate = None if attention.gate is None else attention.gate.weight.t().contiguous().numpy()  # (dt, ds)
        self._score_bias = None if attention.score_bias is None else attention.score_bias.clone()
        self._bias, self._norm = attention.bias, attention.norm
        # Made at the first batch, by the width of its histories: there is one.
        self._of_length: dict[int, tuple[Float32Array, Float32Array]] = {}

    def __call__(self, target: Float32Array, query: Float32Array, history: Int64Array) -> Float32Array:
        """Attention outputs `(rows, dt)` of targets and queries `(rows, dt)` and histories' buckets `(rows, seq)`."""
        num_rows, seq = history.shape
        context = np.empty((num_rows, self._heads, self._values.shape[1]), np.float32)
        of_length = self._of_length.get(seq)
        if of_length is None:
            of_length = self._of_length[seq] = self._bias_of_age(seq), self._divisor(seq)
        tables = self._offset, self._keys, self._values
        if self._unit is not None:
            attend_by_unit(history, *tables, self._unit(query), *of_length, context)
        else:
            attend(history, *tables, _multiply(query, self._direction).reshape(context.shape), *of_length, context)
        if self._gate is not None:
            context *= 1.0 + _multiply(target, self._gate)[:, None]
        return target + _multiply(context.reshape(num_rows, -1), self._projection)

    def _bias_of_age(self, seq: int) -> Float32Array:
        """What is added to the score of an item by the number of items after it, `(seq, heads)`."""
        if self._score_bias is None:
            return np.zeros((seq, self._heads), np.float32)
        return np.asarray(self._score_bias[bias_of_age(seq, self._bias)])

    def _divisor(self, seq: int) -> Float32Array:
        """What a sum is divided by, by the history's length, `(seq + 1,)`."""
        length = np.arange(seq + 1, dtype=np.float32).clip(1.0)  # of an empty history the sum is 0 whatever divides it
        if self._norm == "none":
            return np.ones_like(length)
        return length if self._norm == "length" else np.sqrt(length)


class _FoldedUnit:
    """`ActivationUnit` from the target to what items are multiplied by, one matrix with what is added."""

    def __init__(self, unit: ActivationUnit, *, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        of_product = unit.of_product.weight.double()  # (units, A); query and key are (A, dt) and (A, ds), float64
        of_target = torch.einsum("at,ad,ua->tdu", query, key, of_product).flatten(1)
        self._weight = torch.cat((of_target, unit.of_target.weight.double().t()), dim=1).float().numpy()
        matrix = unit.of_item.weight.t().flatten()
        self._added = torch.cat((matrix, unit.of_target.bias)).numpy()
        self._output = (unit.output.weight[0].double() * scale).float().numpy()

    def __call__(self, query: Float32Array) -> FrozenUnit:
        """Of targets `(rows, dt)`."""
        both, num_units = _multiply(query, self._weight), len(self._output)
        both += self._added
        matrix, offset = both[:, :-num_units], both[:, -num_units:]
        return FrozenUnit(matrix.reshape(len(query), -1, num_units), np.ascontiguousarray(offset), self._output)


def _multiply(rows: Float32Array, matrix: Float32Array) -> Float32Array:
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    multiply(rows, matrix, out)
    return out
