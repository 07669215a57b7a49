"""Whole training steps give the same bytes on any number of threads, with every option of the network and the loop."""

import hashlib
from typing import Any

import pytest
import torch

from qin.network.embedding import FusedEmbedding
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs
from qin.network.threads import one_thread
from qin.train.average import moving_average
from qin.train.losses import self_ensemble, weighted_logistic_loss
from qin.train.optimizers import Optimizers, RowWiseAdam, clip_grad_norm
from tests.network.sizes import make_sizes

BATCH, NUM_NUMERIC = 33_003, 7  # PyTorch divides an operation on more than 32,768 numbers among its threads

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"norm": "batch", "dropout": 0.1, "row_dropout": 0.1},
    "rms, inside": {"norm": "rms", "activation": "inside", "num_frequencies": 3, "embedding_dropout": 0.1},
    "attention": {
        "num_heads": 2,
        "attention_norm": "sqrt_length",
        "attention_bias": "recency",
        "target_values": True,
        "separate_attention_embedding": True,
        "field_dropout": 0.1,
    },
    "mlp": {
        "attention_score": "mlp",
        "attention_norm": "sqrt_length",
        "attention_bias": "recency",
        "target_values": True,
        "separate_attention_embedding": True,
    },
    "sparse": {"sparse_embedding_grad": True},
    "pooled, bins": {"pooled_history": True, "numeric_bins": 5},
}


def draw_batch() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    categorical = torch.randint(0, 30_000, (BATCH, 3), generator=generator)
    numeric = torch.randn(BATCH, NUM_NUMERIC, generator=generator).mul_(5.0)
    numeric[::7, 1] = torch.nan
    sequence = torch.randint(0, 50, (BATCH, 6), generator=generator)
    return categorical, numeric, [sequence], (torch.rand(BATCH, generator=generator) < 0.1).float()


def trained(variant: dict[str, Any], *, in_bf16: bool) -> str:
    """A digest of the weights and of their moving average after two steps."""
    inputs = QINInputs(num_buckets=(30_000,) * 3, num_fields=3, sequence_vocabulary=(1,), target_fields=(0, 1))
    sizes = make_sizes(embedding_dim=5, embedding_std=0.3, attention_dim=6, num_layers=2, **variant)
    edges = torch.linspace(-1.0, 1.0, sizes.numeric_bins + 1).expand(NUM_NUMERIC, -1) if sizes.numeric_bins else None
    fitted = FittedInputs(
        normalizer=NumericNormalizer(torch.zeros(NUM_NUMERIC), torch.ones(NUM_NUMERIC)),
        edges=edges,
        is_rare=torch.arange(90_000) % 5 == 4 if sizes.pooled_history else None,
    )
    network = QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=torch.Generator().manual_seed(1))
    network.use_bf16 = in_bf16
    sparse = [m.embedding_table for m in network.modules() if isinstance(m, FusedEmbedding) and m.sparse]
    dense = [p for p in network.parameters() if not any(p is table for table in sparse)]
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=0.01, fused=True)]
    optimizer = Optimizers(*parts, *([RowWiseAdam(sparse, lr=0.01)] if sparse else []))
    average = None if sparse else moving_average(network, decay=0.9)
    *batch, label = draw_batch()
    for step in range(2):
        torch.manual_seed(step)
        logit, extra = self_ensemble(network(*batch), network(*batch))
        loss = weighted_logistic_loss(
            logit, label, sample_weight=1.0 + label, denominator=float(BATCH), extra_loss=0.5 * extra
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm(network.parameters(), max_norm=0.01)
        optimizer.step()
        if average is not None:
            with one_thread():
                average.update_parameters(network)
    states = [network.state_dict(), {} if average is None else average.state_dict()]
    tensors = [value for state in states for value in state.values()]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in tensors)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_does_not_depend_on_the_number_of_threads(variant: str, in_bf16: bool, num_threads: None) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(trained(VARIANTS[variant], in_bf16=in_bf16))
    assert len(set(found)) == 1
