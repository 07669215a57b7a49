"""A mined step estimates the whole batch's loss and gradient, in one pass and in two, alone and over processes."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore
from qin.train.imbalance import TrainingRows, positive_weights
from qin.train.loop import TrainingLoop, ValidationScores
from qin.train.losses import weighted_logistic_loss
from qin.train.mining import HardNegatives, is_batch_coupled, mined_loss, selection_generator, two_passes_save_time
from qin.train.selection import MiningMode
from qin.train.watch import Watch
from tests.network.sizes import make_sizes
from tests.train.runs import plain_params

NUM_BUCKETS, NUM_NUMERIC, POS_WEIGHT = (20, 30), 3, 4.0
NO_DROPOUT = make_sizes(embedding_dim=3, embedding_std=0.7, attention_dim=4, num_layers=1, num_rows=2)
DROPOUT = replace(NO_DROPOUT, dropout=0.2, row_dropout=0.2, embedding_dropout=0.2)
PPS_TWO = HardNegatives(mode="pps", top_neg_frac=0.1, rest_frac=0.1, min_neg=4, warmup_steps=0, two_passes=True)


def make_model(sizes: QINSizes = NO_DROPOUT) -> QIN:
    generator = torch.Generator().manual_seed(0)
    inputs = QINInputs(num_buckets=NUM_BUCKETS, num_fields=2, sequence_vocabulary=(1,), target_fields=(1,))
    normalizer = NumericNormalizer(torch.zeros(NUM_NUMERIC), torch.ones(NUM_NUMERIC))
    network = QIN(inputs=inputs, sizes=sizes, fitted=FittedInputs(normalizer=normalizer), generator=generator).double()
    with torch.no_grad():
        network.numeric_weight.normal_(generator=generator)
    network.set_base_rate(0.2)
    return network.train()


def make_batch(num_rows: int, *, seed: int, base_rate: float = 0.05) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def buckets(limit: int, width: int) -> torch.Tensor:
        return torch.randint(0, limit, (num_rows, width), generator=generator).to(torch.uint16)

    return Batch(
        rows=np.arange(num_rows),
        categorical=torch.cat([buckets(limit, 1) for limit in NUM_BUCKETS], dim=1),
        numeric=torch.randn(num_rows, NUM_NUMERIC, generator=generator, dtype=torch.float64),
        sequences=(buckets(NUM_BUCKETS[1], 4),),
        label=(torch.rand(num_rows, generator=generator) < base_rate).float(),
    )


def weights(batch: Batch) -> torch.Tensor:
    assert batch.label is not None
    return positive_weights(batch.label, pos_weight=POS_WEIGHT).double()


def mined(network: QIN, batch: Batch, mining: HardNegatives | None, seed: int, **changes: Any) -> torch.Tensor:
    """The loss of a step, mined or, with None, of all rows."""
    weight = weights(batch)
    denominator = changes.get("denominator", weight.sum())
    if mining is None:
        assert batch.label is not None
        logit = network(batch.categorical, batch.numeric, batch.sequences)
        return weighted_logistic_loss(logit, batch.label, sample_weight=weight, denominator=denominator)
    generator = selection_generator(seed, step=0)
    return mined_loss(
        network, batch, sample_weight=weight, denominator=denominator, hard_negatives=mining, generator=generator
    )


def gradient(network: QIN, loss: torch.Tensor) -> torch.Tensor:
    """All gradients as one dense vector."""
    grads = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([(grad.to_dense() if grad.is_sparse else grad).flatten() for grad in grads])


def projections(network: QIN, loss: torch.Tensor) -> torch.Tensor:
    """The loss, and its gradient along the output bias and three fixed random directions, ``(5,)``."""
    grad = gradient(network, loss)
    random = torch.randn(3, grad.numel(), generator=torch.Generator().manual_seed(1), dtype=grad.dtype)
    return torch.cat((loss.detach().view(1), grad[-1:], random @ grad))


@pytest.fixture(scope="module")
def errors() -> dict[str, torch.Tensor]:
    """Estimate minus truth of ``projections`` over fresh batches, ``(batches, 5)``, by mode and number of passes."""
    network = make_model()
    found: dict[str, list[torch.Tensor]] = {}
    modes: list[MiningMode] = ["goss", "pps", "ohem"]
    for seed in range(60):
        batch = make_batch(128, seed=seed)
        full = projections(network, mined(network, batch, None, seed))
        for mode in modes:
            mining = replace(PPS_TWO, mode=mode, two_passes=seed % 2 == 0)
            estimate = projections(network, mined(network, batch, mining, seed))
            found.setdefault(mode, []).append(estimate - full)
    return {mode: torch.stack(values) for mode, values in found.items()}


def z_scores(errors: torch.Tensor) -> torch.Tensor:
    return errors.mean(0) / (errors.std(0) / math.sqrt(len(errors)))


@pytest.mark.parametrize("mode", ["goss", "pps"])
def test_loss_and_gradient_of_the_network_are_unbiased_where_top_k_is_not(
    errors: dict[str, torch.Tensor], mode: str
) -> None:
    assert z_scores(errors[mode]).abs().max() < 4.0
    assert errors[mode].std(0).min() > 0
    assert z_scores(errors["ohem"]).abs().min() > 10.0


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("mode", ["goss", "pps", "ohem"])
def test_two_passes_give_the_gradient_of_one(mode: MiningMode, sparse: bool) -> None:
    """Without dropout both score the same losses, so the same draw selects the same rows."""
    network, batch = make_model(replace(NO_DROPOUT, sparse_embedding_grad=sparse)), make_batch(200, seed=0)
    two = replace(PPS_TWO, mode=mode)
    losses = [mined(network, batch, mining, 3) for mining in (replace(two, two_passes=False), two)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-12)
    one_pass, two_pass = (gradient(network, loss) for loss in losses)
    assert (one_pass - two_pass).abs().max() < 1e-12
    assert one_pass.abs().max() > 0.01


def test_only_kept_rows_go_forward_with_gradient_and_dropout() -> None:
    network, batch = make_model(DROPOUT), make_batch(200, seed=0)
    passes = []
    network.register_forward_hook(lambda module, _, logit: passes.append((module.training, len(logit))))
    mined(network, batch, PPS_TWO, 0)
    assert batch.label is not None
    num_positives = int(batch.label.sum())
    num_kept = num_positives + 2 * math.ceil(0.1 * (200 - num_positives))
    assert passes == [(False, 200), (True, num_kept)]
    assert network.training


def test_a_step_depends_on_its_seeds_alone() -> None:
    network, batch = make_model(DROPOUT), make_batch(200, seed=0)

    def loss(dropout_seed: int, selection_seed: int) -> float:
        torch.manual_seed(dropout_seed)
        return mined(network, batch, PPS_TWO, selection_seed).item()

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_every_seed_and_step_draws_differently() -> None:
    cases = [{"seed": seed, "step": step} for seed in (0, 1) for step in (0, 1)]
    draws = [torch.randperm(50, generator=selection_generator(**case)).tolist() for case in cases]
    assert all(draws[i] != draws[j] for i in range(len(draws)) for j in range(i))
    assert draws[0] == torch.randperm(50, generator=selection_generator(0, step=0)).tolist()


@pytest.mark.parametrize("two_passes", [False, True])
def test_a_loss_that_is_no_number_comes_back_as_it_is(two_passes: bool) -> None:
    network, batch = make_model(), make_batch(20, seed=0)
    with torch.no_grad():
        network.numeric_weight.fill_(math.inf)
    assert not mined(network, batch, replace(PPS_TWO, two_passes=two_passes), 0).isfinite()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"top_neg_frac": 0.5, "rest_frac": 0.1}, True),
        ({"top_neg_frac": 0.5, "rest_frac": 0.2}, False),
        ({"mode": "ohem", "top_neg_frac": 0.5, "rest_frac": 0.2}, True),
        ({"min_neg": 700}, False),
        ({"mode": "ohem", "min_neg": 700}, False),
        ({"positive_share": 0.6}, False),
    ],
)
def test_two_passes_save_time_up_to_two_thirds_of_the_rows(changes: dict[str, Any], expected: bool) -> None:
    settings: dict[str, Any] = {"mode": "goss", "top_neg_frac": 0.1, "rest_frac": 0.2, "min_neg": 64}
    settings |= {"num_rows": 1000, "positive_share": 0.02, **changes}
    assert two_passes_save_time(**settings) is expected


def test_batch_norm_couples_rows_and_rms_norm_does_not() -> None:
    assert is_batch_coupled(make_model(replace(NO_DROPOUT, norm="batch")))
    assert not is_batch_coupled(make_model(replace(NO_DROPOUT, norm="rms")))


class Batches:
    """A source of the same three batches in every epoch."""

    batch_size = 40

    def num_batches(self, is_selected: npt.NDArray[np.bool_]) -> int:
        return 3

    def epoch(self, epoch: int, is_selected: npt.NDArray[np.bool_], *, first_step: int = 0) -> Iterator[Batch]:
        return iter([make_batch(40, seed=seed) for seed in range(first_step, 3)])


def test_mining_begins_after_the_warm_up_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of all epochs count, and those before a resumption."""
    seeds = []

    def recorded(network: QIN, batch: Batch, *, generator: torch.Generator, **settings: Any) -> torch.Tensor:
        seeds.append(generator.initial_seed())
        return mined_loss(network, batch, generator=generator, **settings)

    monkeypatch.setattr("qin.train.step.mined_loss", recorded)
    prior = TrainingPrior(base_rate=0.05, pos_weight=POS_WEIGHT)
    for epochs in (2, 3):
        network = make_model()
        TrainingLoop(
            network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.01),
            rows=TrainingRows(Batches(), np.ones(120, np.bool_), np.zeros(120, np.uint8), prior, 5),
            params=plain_params(epochs=epochs, checkpoint_steps=1),
            hard_negatives=replace(PPS_TWO, warmup_steps=4),
            stop=lambda _: ValidationScores(log_loss=1.0, ap=0.5, auc=0.5),
            checkpoints=CheckpointStore(tmp_path, "run"),
            watch=Watch(),
        ).run()
    assert seeds == [selection_generator(5, step=step).initial_seed() for step in (4, 5, 6, 7, 8)]
