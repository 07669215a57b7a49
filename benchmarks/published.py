"""The baseline of `benchmarks.train_speed`: QIN as published, the loop that FuxiCTR trains it with, and its cost.

One table per field, keys and values projected for every history item, every quadratic row computed on its own, and
an L2 penalty over all tables in the loss. Nothing here is slowed on purpose: it is the direct reading of the
equations, in the order of the authors' implementation.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, Dataset

from qin.columns.buckets import PADDING_BUCKET
from qin.network.attention import TargetAttention
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, QINInputs, QINSizes
from qin.network.quadratic import QuadraticLayer
from qin.shards.files import ShardReader

_Kind = TypeVar("_Kind", bound=nn.Module)

EMBEDDING_L2 = 2e-4  # of the authors' configuration; they also use Adam


class PublishedAttention(nn.Module):
    """Computes `W_o sum_i relu(W_q t . W_k x_i / sqrt(d_a)) W_v x_i + t`.

    Source: QIN (arXiv 2504.17699), the equations of "Adaptive Sparse Target Attention".

    Shape:
        - target: `(batch, target_dim)`
        - sequence: `(batch, seq, sequence_dim)`
        - is_valid: `(batch, seq)`, bool
        - output: `(batch, target_dim)`
    """

    def __init__(self, target_dim: int, *, sequence_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.scale = math.sqrt(attention_dim)
        self.query = nn.Linear(target_dim, attention_dim, bias=False)
        self.key = nn.Linear(sequence_dim, attention_dim, bias=False)
        self.value = nn.Linear(sequence_dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, target_dim, bias=False)

    def forward(self, target: torch.Tensor, sequence: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
        """Attend from each target item to its own history."""
        query = self.query(target).unsqueeze(1)  # (batch, 1, attention_dim)
        key, value = self.key(sequence), self.value(sequence)  # (batch, seq, attention_dim) each
        score = torch.matmul(query, key.transpose(1, 2)) / self.scale  # (batch, 1, seq)
        weight = F.relu(score * is_valid.unsqueeze(1))
        attended: torch.Tensor = self.output(torch.matmul(weight, value).squeeze(1))
        return attended + target


class PublishedQuadraticLayer(nn.Module):
    """Computes `x * sum_r dropout(W_r x + b_r)` for `(batch, dim)`, one product per row.

    Source: QIN (arXiv 2504.17699), the Khatri-Rao quadratic layer.
    """

    def __init__(self, dim: int, *, num_rows: int, dropout: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.linear = nn.Linear(dim, num_rows * dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the sum of the rows."""
        rows = self.dropout(self.linear(x)).view(len(x), self.num_rows, -1)  # (batch, rows, dim)
        return torch.einsum("bd,brd->bd", x, rows)


class PublishedNetwork(nn.Module):
    """Residual quadratic layers, then one logit: `(batch, dim)` to `(batch,)`.

    Source: QIN (arXiv 2504.17699), the quadratic neural network.
    """

    def __init__(self, dim: int, *, num_layers: int, num_rows: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        layers = range(num_layers)
        self.layers = nn.ModuleList(PublishedQuadraticLayer(dim, num_rows=num_rows, dropout=dropout) for _ in layers)
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) if batch_norm else nn.Identity() for _ in layers)
        self.activations = nn.ModuleList(nn.PReLU() for _ in layers)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits."""
        for layer, norm, activation in zip(self.layers, self.norms, self.activations, strict=True):
            x = self.dropout(activation(norm(layer(x)))) + x
        logit: torch.Tensor = self.fc(x)
        return logit.squeeze(1)


class PublishedQIN(nn.Module):
    """The same function as `qin.network.qin.QIN`, computed as published; weights start where a `QIN`'s are.

    NOTE[DIFF]: numeric fields enter as they do in `QIN`; FuxiCTR would widen each to an embedding, which costs more.

    Args:
        model: What to copy the weights and the numeric normaliser from.
        sizes: The sizes it was built with.

    Raises:
        ValueError: `sizes` asks for embedding dropout, which the published network does not have.
    """

    def __init__(self, model: QIN, *, sizes: QINSizes) -> None:
        if sizes.embedding_dropout:
            raise ValueError(f"the published network has no embedding dropout, got {sizes.embedding_dropout}")
        super().__init__()
        self.inputs: QINInputs = model.inputs
        dim, target_dim = sizes.embedding_dim, len(self.inputs.target_fields) * sizes.embedding_dim
        self.tables = nn.ModuleList(
            nn.Embedding(num_buckets, dim, padding_idx=PADDING_BUCKET) for num_buckets in self.inputs.num_buckets
        )
        self.attentions = nn.ModuleList(
            PublishedAttention(target_dim, sequence_dim=dim, attention_dim=sizes.attention_dim)
            for _ in self.inputs.sequence_vocabulary
        )
        self.network = PublishedNetwork(
            model.network.dim,
            num_layers=sizes.num_layers,
            num_rows=sizes.num_rows,
            batch_norm=sizes.norm == "batch",
            dropout=sizes.dropout,
        )
        weight = model.numeric_weight.detach()
        self.numeric_weight = nn.Parameter(weight.clone())
        self.to(weight.device, weight.dtype)
        # After all else has its type: its moments have 64 bits.
        self.normalizer = NumericNormalizer(model.normalizer.mean, model.normalizer.std)
        self._copy_weights(model)

    @torch.no_grad()
    def _copy_weights(self, model: QIN) -> None:
        parts = torch.split(model.embedding.embedding_table, list(self.inputs.num_buckets))
        for table, part in zip(self.table_weights, parts, strict=True):
            table.copy_(part)
        self.attentions.load_state_dict(model.attentions.state_dict())
        self.network.load_state_dict(model.network.state_dict())

    @property
    def table_weights(self) -> list[torch.Tensor]:
        """The weight of each vocabulary's table, `(num_buckets, dim)`."""
        return list(self.tables.parameters())

    def forward(
        self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Compute click logits `(batch,)`; arguments as of `QIN.forward`."""
        embedded = [self.tables[field](categorical[:, field].long()) for field in range(self.inputs.num_fields)]
        blocks = list(embedded)
        if sequences:
            target = torch.cat([embedded[field] for field in self.inputs.target_fields], dim=1)
            for attention, vocabulary, tokens in zip(
                self.attentions, self.inputs.sequence_vocabulary, sequences, strict=True
            ):
                index = tokens.long()
                blocks.append(attention(target, self.tables[vocabulary](index), index != PADDING_BUCKET))
        blocks.append(self.normalizer(numeric) * self.numeric_weight)
        logit: torch.Tensor = self.network(torch.cat(blocks, dim=1))
        return logit


class LogRows(Dataset[npt.NDArray[np.float64]]):
    """The whole log in memory, one row of float64 per item, as FuxiCTR's data sets hold it.

    Columns: categorical buckets, numeric values, sequence tokens, label.

    Args:
        reader: Prepared train file with one sequence.
    """

    def __init__(self, reader: ShardReader) -> None:
        parts = [reader.read(group.name, 0, reader.num_rows) for group in reader.groups]
        self._rows = np.concatenate(parts, axis=1, dtype=np.float64)
        widths = [group.width for group in reader.groups]
        self.stops = np.cumsum(widths).tolist()  # of categorical, numeric, sequence, label

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> npt.NDArray[np.float64]:
        """All columns of one row."""
        return np.asarray(self._rows[row])


class PublishedLoop:
    """Training steps and scoring of FuxiCTR: Adam over every table, gradients clipped to a norm of 10.

    Args:
        model: What to train.
        reader: Prepared train file with one sequence.
        batch_size: Rows per batch.
        lr: Learning rate.
        device: Where the model is.
    """

    def __init__(
        self, model: PublishedQIN, *, reader: ShardReader, batch_size: int, lr: float, device: torch.device
    ) -> None:
        self.model = model
        self._optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self._rows, self._batch_size, self._device = LogRows(reader), batch_size, device

    def train(self) -> Iterator[int]:
        """Train without end; yield the rows of each step after it."""
        # No worker process: it would take a core from the step, of which the loader is a few percent.
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(self._rows, self._batch_size, shuffle=True, drop_last=True, generator=generator)
        for _ in count():
            for batch in loader:
                self.model.train()
                self._step(batch)
                yield len(batch)

    def score(self) -> Iterator[int]:
        """Score the log without end; yield the rows of each batch after it."""
        loader = DataLoader(self._rows, self._batch_size)
        for _ in count():
            for batch in loader:
                self.model.eval()
                with torch.no_grad():
                    torch.sigmoid(self._logit(batch)).cpu().numpy()
                yield len(batch)

    def _step(self, batch: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        probability = torch.sigmoid(self._logit(batch))
        label = batch[:, -1].to(self._device).float()
        loss = F.binary_cross_entropy(probability, label) + embedding_penalty(self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self._optimizer.step()
        loss.item()

    def _logit(self, batch: torch.Tensor) -> torch.Tensor:
        on_device = batch.to(self._device)
        categorical, numeric, tokens, _ = on_device.tensor_split(self._rows.stops[:-1], dim=1)
        logit: torch.Tensor = self.model(categorical, numeric.float(), [tokens])
        return logit


def embedding_penalty(model: PublishedQIN, *, strength: float = EMBEDDING_L2) -> torch.Tensor:
    """Return `strength / 2` times the sum of squares of every table."""
    return torch.stack([strength / 2 * torch.linalg.vector_norm(table) ** 2 for table in model.table_weights]).sum()


def forward_flops(network: QIN, *, batch: int, seq: int, is_folded: bool) -> int:
    """Floating-point operations of a forward pass, two per multiply-add.

    Counted are matrix products and the attention's two sums over each history; elementwise work is not. A training
    step has three times as many: each product has a gradient for either factor.

    Args:
        network: Sizes.
        batch: Rows.
        seq: Items per history.
        is_folded: Whether a quadratic layer is one product, or one per row.
    """
    dim = network.network.dim
    per_row = dim + sum(dim**2 * (1 if is_folded else layer.num_linear) for layer in _modules(network, QuadraticLayer))
    for attention in _modules(network, TargetAttention):
        target_dim, sequence_dim = attention.query.in_features, attention.key.in_features
        per_row += 2 * attention.attention_dim * (target_dim + sequence_dim)  # query, direction, value, output
        per_row += 2 * seq * sequence_dim  # scores, weighted sum
        if attention.unit is not None:  # a direction and a product for each unit instead of one, then their sum
            units = attention.unit.of_target.out_features
            per_row += units * target_dim + (units - 1) * attention.attention_dim * sequence_dim
            per_row += seq * ((units - 1) * sequence_dim + units)
    return 2 * batch * per_row


def training_bytes(network: QIN, *, batch: int, seq: int, is_folded: bool) -> int:
    """Bytes that a float32 training step must move if no tensor is touched twice for one use: a lower bound.

    Args:
        network: Sizes.
        batch: Rows.
        seq: Items per history.
        is_folded: As in `forward_flops`.
    """
    table = network.embedding.embedding_table
    num_sequences = len(network.attentions)
    # Read and write the embeddings; read their gradient, read and write the table's gradient there.
    values = 5 * batch * (network.inputs.num_fields + num_sequences * seq) * table.shape[1]
    # The attention reads the history forward and backward, and writes its gradient.
    values += 3 * batch * num_sequences * seq * table.shape[1]
    # A layer reads its input and writes its output; backward, it reads input and gradient and writes a gradient.
    # Each product is written and read, and so is its gradient.
    for layer in _modules(network, QuadraticLayer):
        values += batch * network.network.dim * (5 + 4 * (1 if is_folded else layer.num_linear))
    # The optimizer reads and writes the weight and two moments; the gradient is written and read. Weights other than
    # the table are read whole, forward and backward.
    num_weights = sum(parameter.numel() for parameter in network.parameters())
    return 4 * (values + 10 * num_weights - 2 * table.numel())


def _modules(network: QIN, kind: type[_Kind]) -> list[_Kind]:
    return [module for module in network.modules() if isinstance(module, kind)]
