"""The whole network: embeddings, one attention per behaviour sequence, then the quadratic network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from qin.columns.buckets import PADDING_BUCKET
from qin.network.attention import AttentionOptions, Score, ScoreBias, ScoreNorm, TargetAttention
from qin.network.dropout import dropout
from qin.network.embedding import FusedEmbedding
from qin.network.kernels.choice import has_kernels
from qin.network.kernels.products import spread
from qin.network.numeric import (
    BIN_DIM,
    NumericNormalizer,
    PeriodicEmbedding,
    PiecewiseLinearEmbedding,
    bins_width,
    periodic_width,
)
from qin.network.pooling import history_mean
from qin.network.quadratic import Activation, Norm, QuadraticNetwork


@dataclass(frozen=True, kw_only=True)
class QINInputs:
    """Which inputs the network reads.

    Attributes:
        num_buckets: Buckets of each vocabulary, padding and null included: first one vocabulary per categorical
            field, in the fields' order, then those that belong to a sequence alone.
        num_fields: Number of categorical fields.
        sequence_vocabulary: For each behaviour sequence, the index of its vocabulary. A sequence that
            shares a categorical field's vocabulary shares its embeddings, so that target and history can meet.
        target_fields: Indices of the categorical fields whose embeddings make up the target item.

    Raises:
        ValueError: A count or index contradicts the others; an input or target that the attention needs is absent.
    """

    num_buckets: tuple[int, ...]
    num_fields: int
    sequence_vocabulary: tuple[int, ...] = ()
    target_fields: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_fields <= len(self.num_buckets):
            raise ValueError(f"num_fields must be in [1, {len(self.num_buckets)}], got {self.num_fields}")
        for index in self.sequence_vocabulary:
            if not 0 <= index < len(self.num_buckets):
                raise ValueError(f"a sequence's vocabulary must be in [0, {len(self.num_buckets)}), got {index}")
        for index in self.target_fields:
            if not 0 <= index < self.num_fields:
                raise ValueError(f"a target field must be in [0, {self.num_fields}), got {index}")
        if len(set(self.target_fields)) != len(self.target_fields):
            raise ValueError(f"target fields must not repeat, got {self.target_fields}")
        if self.sequence_vocabulary and not self.target_fields:
            raise ValueError("a model with sequences needs at least one target field, got none")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedInputs:
    """What the network takes from the train fold before it is trained; part of its state like the weights.

    Attributes:
        normalizer: The fitted numeric normaliser; one of zero fields where there are none.
        edges: See `PiecewiseLinearEmbedding`; None without bins.
        is_rare: See `FusedEmbedding`; None where every value has an embedding of its own.
    """

    normalizer: NumericNormalizer
    edges: torch.Tensor | None = None
    is_rare: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class QINSizes:
    """Widths, depths, variants and dropout of the network; their defaults are those of the settings.

    Attributes:
        embedding_dim: Width of one embedding.
        embedding_std: Standard deviation of the initial embeddings.
        attention_dim: Width of the attention's query and key space; the authors use twice the target's width.
        num_heads: Heads of the attention.
        attention_score: See `AttentionOptions`.
        attention_norm: See `AttentionOptions`.
        attention_bias: See `AttentionOptions`.
        attention_scale: See `AttentionOptions`.
        target_values: See `AttentionOptions`.
        separate_attention_embedding: Whether the attention's scores are made of embeddings of their own, in a second
            table (DARE, arXiv 2410.02604).
        pooled_history: Whether the mean of each history's embeddings stands beside the attention's output.
        num_layers: Number of quadratic layers.
        num_rows: Number of linear functions that each quadratic layer sums (the paper's rows).
        activation: `after` the product or `inside` it.
        norm: What each quadratic product passes: `none`, `batch` or `rms`.
        dropout: Probability of dropping an element of a quadratic layer's output.
        row_dropout: Probability of dropping an element of a row inside a layer; above 0 it costs the fold.
        embedding_dropout: Probability of dropping an element of the embeddings and attention outputs that enter
            the quadratic network. The attention itself reads embeddings without dropout.
        field_dropout: Probability of dropping a whole field's embedding there, so that the network does not lean
            on identifiers alone.
        num_frequencies: Learned frequencies of each numeric field; 0 gives the fields as they are alone.
        numeric_bins: Bins of each numeric field's piecewise linear embedding beside its value; 0: none.
        sparse_embedding_grad: Whether the embedding table's gradient is sparse; for row-wise optimizers.
    """

    embedding_dim: int
    embedding_std: float
    attention_dim: int
    num_heads: int
    attention_score: Score
    attention_norm: ScoreNorm
    attention_bias: ScoreBias
    attention_scale: float
    target_values: bool
    separate_attention_embedding: bool
    pooled_history: bool
    num_layers: int
    num_rows: int
    activation: Activation
    norm: Norm
    dropout: float
    row_dropout: float
    embedding_dropout: float
    field_dropout: float
    num_frequencies: int
    numeric_bins: int
    sparse_embedding_grad: bool = False

    def __post_init__(self) -> None:
        for name in ("embedding_dropout", "field_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("num_frequencies", "numeric_bins"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


def network_width(inputs: QINInputs, sizes: QINSizes, *, num_numeric: int) -> int:
    """Width of the quadratic network: embeddings, what is made of each sequence, and the numeric block."""
    per_sequence = len(inputs.target_fields) + sizes.pooled_history
    num_embedded = inputs.num_fields + len(inputs.sequence_vocabulary) * per_sequence
    # a numeric field enters as its value and as whether it is missing
    beside = periodic_width(num_numeric, sizes.num_frequencies) + bins_width(num_numeric, sizes.numeric_bins)
    return num_embedded * sizes.embedding_dim + 2 * num_numeric + beside


class QIN(nn.Module):
    """Click logits from categorical fields, numeric fields and behaviour sequences.

    The quadratic network reads the flattened embeddings of all categorical fields, one attention output per
    sequence, with `pooled_history` one mean per sequence, and the numeric block, in this order.

    With `use_bf16` the quadratic network's matrix products are made in bfloat16; sums, residuals, attention and the
    logit stay in float32.

    Construction leaves torch's global random generator as it was; parameters come from `generator` alone. Dropout
    in training mode draws from torch's global generator, which has no per-call seed: whoever trains seeds it for every
    step, so that there is no state of it to save.

    Source: QIN (arXiv 2504.17699).
    NOTE[DIFF]: the paper has no numeric fields; here they enter after a train-fold standardisation, with missing
    flags, each times a learned weight that starts as small as the embeddings: unweighted, a hundred standardised
    noise fields drown the embeddings in the first products (sample log, 100,000 rows: AUC 0.63 after one epoch
    instead of 0.68). The paper has one sequence; here there may be several, each with its own attention.

    Args:
        inputs: Which inputs the network reads.
        sizes: Widths, depths, variants and dropout.
        fitted: What is fitted on the train fold.
        generator: Seeded CPU generator for the initial parameters.
        tables: Makes an embedding table: whole, or divided among processes.

    Raises:
        ValueError: A size is out of its range, or what is fitted is not of these sizes.
    """

    def __init__(
        self,
        *,
        inputs: QINInputs,
        sizes: QINSizes,
        fitted: FittedInputs,
        generator: torch.Generator,
        tables: Callable[..., FusedEmbedding] = FusedEmbedding,
    ) -> None:
        if (0 if fitted.edges is None else fitted.edges.shape[1] - 1) != sizes.numeric_bins:
            raise ValueError(f"edges of {sizes.numeric_bins} bins are needed, got {fitted.edges}")
        super().__init__()
        self.inputs, self.sizes = inputs, sizes
        # Set where the network is placed: it is of the machine that computes, not of the model.
        self.use_bf16 = False
        dim, num_numeric = sizes.embedding_dim, fitted.normalizer.num_fields
        target_dim = len(inputs.target_fields) * dim
        num_sequences = len(inputs.sequence_vocabulary)
        self.normalizer = fitted.normalizer
        self.numeric_weight = nn.Parameter(torch.zeros(2 * num_numeric))
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws when it is built; init_parameters draws again
            table = partial(
                tables, inputs.num_buckets, dim=dim, sparse=sizes.sparse_embedding_grad, is_rare=fitted.is_rare
            )
            has_own = sizes.separate_attention_embedding and num_sequences
            self.embedding, self.attention_embedding = table(), table() if has_own else None
            self.periodic = PeriodicEmbedding(num_numeric, sizes.num_frequencies) if sizes.num_frequencies else None
            self.bins = None if fitted.edges is None else PiecewiseLinearEmbedding(fitted.edges, dim=BIN_DIM)
            options = AttentionOptions(
                num_heads=sizes.num_heads,
                score=sizes.attention_score,
                norm=sizes.attention_norm,
                bias=sizes.attention_bias,
                scale=sizes.attention_scale,
                target_values=sizes.target_values,
            )
            self.attentions = nn.ModuleList(
                TargetAttention(target_dim, sequence_dim=dim, attention_dim=sizes.attention_dim, options=options)
                for _ in range(num_sequences)
            )
            self.network = QuadraticNetwork(
                network_width(inputs, sizes, num_numeric=num_numeric),
                num_layers=sizes.num_layers,
                num_linear=sizes.num_rows,
                activation=sizes.activation,
                norm=sizes.norm,
                dropout=sizes.dropout,
                row_dropout=sizes.row_dropout,
            )
        self.register_buffer("_target_fields", torch.tensor(inputs.target_fields, dtype=torch.int64), persistent=False)
        self.init_parameters(generator, embedding_std=sizes.embedding_std)

    _target_fields: torch.Tensor

    @torch.no_grad()
    def init_parameters(self, generator: torch.Generator, *, embedding_std: float) -> None:
        """Draw all parameters again, as the authors' framework (FuxiCTR) does, but for score biases, which start at 1.

        Embeddings, numeric weights and those of bins are normal, padding rows zero; linear weights Xavier normal with
        zero biases (a quadratic layer counts all its rows as outputs); PReLU slopes 0.25; norms at identity; waves as
        `PeriodicEmbedding` has it.

        Args:
            generator: Seeded generator on the parameters' device.
            embedding_std: Standard deviation of the embeddings, the numeric weights and those of bins.

        Raises:
            ValueError: `embedding_std` is not positive and finite.
        """
        if not 0.0 < embedding_std < math.inf:
            raise ValueError(f"embedding_std must be positive and finite, got {embedding_std=}")
        # One generator, used up in this order and in that of the modules: another order is another network for every
        # seed.
        self.numeric_weight.normal_(std=embedding_std, generator=generator)
        for module in self.modules():
            if isinstance(module, FusedEmbedding):
                module.draw(generator, std=embedding_std)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.PReLU):
                module.weight.fill_(module.init)
            elif isinstance(module, nn.BatchNorm1d | nn.RMSNorm):
                module.reset_parameters()
            elif isinstance(module, PeriodicEmbedding):
                module.init_parameters(generator)
            elif isinstance(module, PiecewiseLinearEmbedding):
                module.weight.normal_(std=embedding_std, generator=generator)

    @torch.no_grad()
    def set_base_rate(self, base_rate: float) -> None:
        """Start training from the base rate's logit: set the output bias to `log(p / (1 - p))`.

        Args:
            base_rate: Click probability of the train fold as the loss weights it.

        Raises:
            ValueError: `base_rate` is not inside (0, 1).
        """
        if not 0.0 < base_rate < 1.0:
            raise ValueError(f"the base rate must be inside (0, 1), got {base_rate=}")
        self.network.fc.bias.fill_(math.log(base_rate) - math.log1p(-base_rate))

    def forward(
        self,
        categorical: torch.Tensor,
        numeric: torch.Tensor,
        sequences: Sequence[torch.Tensor],
        *,
        first_row: int = 0,
    ) -> torch.Tensor:
        """Compute click logits.

        Args:
            categorical: Buckets, `(batch, num_fields)`, any integer type.
            numeric: Raw values, `(batch, num_numeric)`, NaN where missing.
            sequences: Buckets of each behaviour sequence, `(batch, seq)` each, 0 for padding, which may stand
                anywhere. Their lengths may differ.
            first_row: Number of the first row in the batch that several processes share, on which dropout depends.

        Returns:
            Logits, `(batch,)`.

        Raises:
            ValueError: The number or shape of the inputs does not fit the model.
        """
        self.check_inputs(categorical, numeric, sequences)
        vocabularies = self.inputs.sequence_vocabulary
        embedded, *histories = self.embedding.read(categorical, sequences, vocabularies=vocabularies)
        blocks = [self._without_fields(embedded, first_row).flatten(1)]
        if sequences:
            blocks += self._attend(embedded, histories, categorical, sequences)
        joined = torch.cat(blocks, dim=1)
        dense = dropout(joined, self.sizes.embedding_dropout, self.training, first_row=first_row)
        inputs = torch.cat((dense, *self._numeric(numeric)), dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.use_bf16):
            logit: torch.Tensor = self.network(inputs, first_row)
        return logit.float() if self.use_bf16 else logit

    def _attend(
        self,
        embedded: torch.Tensor,
        histories: list[torch.Tensor],
        categorical: torch.Tensor,
        sequences: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """One attention output `(batch, target_dim)` per sequence, then its mean `(batch, dim)` where wanted."""
        target, query = self._targets(embedded), None
        keys: Sequence[torch.Tensor | None] = [None] * len(sequences)
        if self.attention_embedding is not None:
            vocabularies = self.inputs.sequence_vocabulary
            fields, *keys = self.attention_embedding.read(categorical, sequences, vocabularies=vocabularies)
            query = self._targets(fields)
        # Comparisons lack uint16, in which buckets come.
        is_valid = [buckets.to(torch.int64) != PADDING_BUCKET for buckets in sequences]
        parts = zip(self.attentions, histories, is_valid, keys, strict=True)
        attended = [attention(target, *part, query=query, keys=key) for attention, *part, key in parts]
        pooled = zip(histories, is_valid, strict=True) if self.sizes.pooled_history else ()
        return attended + [history_mean(*part) for part in pooled]

    def _targets(self, embedded: torch.Tensor) -> torch.Tensor:
        """The target's part of embeddings `(batch, num_fields, dim)`, `(batch, target_dim)`."""
        if has_kernels(embedded):
            return embedded[:, self._target_fields].flatten(1)
        # Slices: the gradient of an index is a sort on a GPU.
        return torch.cat([embedded[:, field] for field in self.inputs.target_fields], dim=1)

    def _without_fields(self, embedded: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """Embeddings `(batch, num_fields, dim)` with whole fields dropped in training."""
        if not (self.training and self.sizes.field_dropout):
            return embedded
        ones = embedded.new_ones(embedded.shape[:2])
        kept = dropout(ones, self.sizes.field_dropout, self.training, first_row=first_row)
        return embedded * kept.unsqueeze(2)

    def _numeric(self, raw: torch.Tensor) -> list[torch.Tensor]:
        # In the order of `network_width`: weights, frozen forms and exported graphs know the blocks by their place.
        normalized = self.normalizer(raw)
        blocks = [normalized * spread(self.numeric_weight, len(raw))]
        if self.periodic is not None:
            blocks.append(self.periodic(normalized[:, : self.normalizer.num_fields]))
        if self.bins is not None:
            blocks.append(self.bins(normalized))
        return blocks

    def check_inputs(self, categorical: torch.Tensor, numeric: torch.Tensor, sequences: Sequence[torch.Tensor]) -> None:
        """Check the number and shape of the inputs; see `forward`."""
        if categorical.dim() != 2 or categorical.shape[1] != self.inputs.num_fields:
            raise ValueError(f"categorical must be (batch, {self.inputs.num_fields}), got {tuple(categorical.shape)}")
        if len(sequences) != len(self.attentions):
            raise ValueError(f"the model reads {len(self.attentions)} sequences, got {len(sequences)}")
        for part in (numeric, *sequences):
            if part.shape[0] != categorical.shape[0]:
                raise ValueError(f"every input must have {categorical.shape[0]} rows, got {tuple(part.shape)}")
