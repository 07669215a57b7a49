"""Behaviour sequences of one vocabulary, read alone."""

import torch

from qin.network.embedding import FusedEmbedding


def lookup(embedding: FusedEmbedding, buckets: torch.Tensor, *, field: int) -> torch.Tensor:
    """Embeddings of sequences `(batch, seq)` as a read of its own, `(batch, seq, dim)`."""
    no_fields = torch.zeros(len(buckets), 0, dtype=torch.int64)
    return embedding.read(no_fields, (buckets,), vocabularies=(field,))[1]
