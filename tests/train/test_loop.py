"""One step of the loop against the plain formula, with every weight there is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.average import moving_average
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows
from qin.train.loop import TrainingLoop, ValidationScores
from qin.train.mining import HardNegatives, selection_generator
from qin.train.step import step_seed
from qin.train.watch import Watch
from tests.network.sizes import make_sizes
from tests.train.runs import plain_params

ROWS, NEG_RATIO, POS_WEIGHT = 256, 0.5, 3.0
ONE_PASS = HardNegatives(mode="goss", top_neg_frac=0.1, rest_frac=0.2, min_neg=8, warmup_steps=0, two_passes=False)
TWO_PASSES = replace(ONE_PASS, two_passes=True)


def make_model() -> QIN:
    sizes = make_sizes(embedding_dim=4, attention_dim=8, embedding_std=0.5, num_layers=2, embedding_dropout=0.3)
    inputs = QINInputs(num_buckets=(9, 7), num_fields=2, sequence_vocabulary=(1,), target_fields=(1,))
    normalizer = NumericNormalizer(torch.zeros(1), torch.ones(1))
    return QIN(
        inputs=inputs,
        sizes=sizes,
        fitted=FittedInputs(normalizer=normalizer),
        generator=torch.Generator().manual_seed(0),
    )


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    categorical = torch.stack([torch.randint(1, n, (ROWS,), generator=generator) for n in (9, 7)], dim=1)
    sequences = (torch.randint(0, 7, (ROWS, 5), generator=generator),)
    label = (torch.rand(ROWS, generator=generator) < 0.2).float()
    return Batch(np.arange(ROWS), categorical, torch.randn(ROWS, 1, generator=generator), sequences, label)


def step_gradients(folder: Path, *, self_ensemble: float, mining: HardNegatives | None) -> dict[str, torch.Tensor]:
    """Gradients of the loop's first step: what plain descent with rate 1 subtracts."""
    model, batch = make_model(), make_batch()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert batch.label is not None
    everything, label = np.ones(ROWS, np.bool_), batch.label.numpy().astype(np.uint8)
    prior = TrainingPrior(base_rate=float(label.mean()), pos_weight=POS_WEIGHT, neg_ratio=NEG_RATIO)
    loop = TrainingLoop(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        rows=TrainingRows(OneBatch(batch), everything, label, prior, seed=0),
        params=plain_params(self_ensemble=self_ensemble),
        hard_negatives=mining,
        stop=lambda _: ValidationScores(log_loss=0.0, ap=0.0, auc=0.0),
        checkpoints=CheckpointStore(folder, "step"),
        watch=Watch(),
    )
    loop.run()
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


class OneBatch:
    """A source with a single batch."""

    batch_size = ROWS

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def num_batches(self, is_selected: object) -> int:
        return 1

    def epoch(self, epoch: int, is_selected: object, *, first_step: int = 0) -> Iterator[Batch]:
        yield self._batch


@pytest.mark.parametrize("mining", [None, ONE_PASS, TWO_PASSES], ids=["whole batch", "one pass", "two passes"])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_a_step_descends_the_weighted_loss(tmp_path: Path, strength: float, mining: HardNegatives | None) -> None:
    """Weights multiply, the denominator is the expected weight, an ensemble's divergence has its rows' weights."""
    found = step_gradients(tmp_path, self_ensemble=strength, mining=mining)

    model, batch = make_model(), make_batch()
    assert batch.label is not None
    weight = torch.where(batch.label == 1, POS_WEIGHT, 1.0 / NEG_RATIO)
    num_positives = float(batch.label.sum())
    num_negatives = NEG_RATIO * (ROWS - num_positives)  # expected
    mean_weight = (num_positives * POS_WEIGHT + num_negatives / NEG_RATIO) / (num_positives + num_negatives)
    denominator = min(ROWS, num_positives + num_negatives) * mean_weight
    generator = selection_generator(5, step=0)
    if mining is TWO_PASSES:
        with torch.no_grad():
            logit = model.eval()(batch.categorical, batch.numeric, batch.sequences)
        weight = weight * mining.select(logit, batch.label, generator=generator)
        batch, weight = batch.take(weight.nonzero().squeeze(1)), weight[weight > 0]
    assert batch.label is not None
    model.train()
    torch.manual_seed(step_seed(5, 0))
    passes = [model(batch.categorical, batch.numeric, batch.sequences).double() for _ in range(2 if strength else 1)]
    probability = torch.stack(passes).sigmoid()
    mean, label = probability.mean(0), batch.label.double()
    if mining is ONE_PASS:
        weight = weight * mining.select(mean.logit(), batch.label, generator=generator)
        assert (weight == 0).any()
    loss = cross_entropy(mean, label)
    if strength:
        loss = loss + strength * cross_entropy(probability, mean.detach()).sum(0)
    ((weight * loss).sum() / denominator).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)
        assert parameter.grad.abs().max() > 1e-4, f"{name} would be compared on zeros"


def cross_entropy(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -(target * probability.log() + (1 - target) * (1 - probability).log())


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999, 0.9999])
def test_the_average_is_of_weights_and_moments_and_of_nothing_else(decay: float) -> None:
    """Offsets, flags and ends of bins are the model's after any number of steps."""
    inputs = QINInputs(num_buckets=(900, 7, 70_001), num_fields=3)
    edges = torch.tensor([[-0.3, 0.1, 0.7, 0.7]])
    fitted = FittedInputs(
        normalizer=NumericNormalizer(torch.full((1,), 0.3), torch.full((1,), 1.7)),
        edges=edges,
        is_rare=torch.arange(70_908) % 3 == 2,
    )
    sizes = make_sizes(embedding_dim=2, num_layers=1, norm="batch", numeric_bins=3)
    model = QIN(inputs=inputs, sizes=sizes, fitted=fitted, generator=torch.Generator().manual_seed(0))
    average = moving_average(model, decay=decay)
    expected = model.network.fc.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.network.fc.weight += 1.0
        average.update_parameters(model)
        new = model.network.fc.weight.detach()
        expected = new.clone() if step == 0 else decay * expected + (1 - decay) * new
    own, values = dict(average.module.named_buffers()), dict(model.named_buffers())
    assert set(own) >= {
        "embedding.offsets",
        "embedding.num_buckets",
        "embedding.is_rare",
        "bins.edges",
        "normalizer.std",
    }
    for name, value in values.items():
        assert torch.equal(own[name], value), name
    assert isinstance(average.module, QIN)
    torch.testing.assert_close(average.module.network.fc.weight, expected)
