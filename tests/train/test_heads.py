"""One network of several labels: what is shared, what it descends, and that nothing of one label reaches another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qin.config import ModelParams, load_params
from qin.distributed.ranks import ONE
from qin.model.build import build_model, unfitted
from qin.network.embedding import FusedEmbedding
from qin.network.qin import QIN
from qin.scored.prior import TrainingPrior
from qin.shards.files import ShardReader
from qin.shards.loader import Batch, ShuffledLoader, iterate_in_order
from qin.train.heads import SharedNetworks, SharedRows, StackedLoader, stacked
from qin.train.imbalance import TrainingRows
from qin.train.losses import forward, weighted_logistic_loss
from tests.planted import write_planted
from tests.project import ROOT

NUM_ROWS = 600
BATCH = 64


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write_planted(tmp_path_factory.mktemp("planted") / "log", num_rows=NUM_ROWS)


def network_of(reader: ShardReader, *, seed: int = 3, **changes: Any) -> QIN:
    model: ModelParams = load_params(ROOT / "params.yaml").model
    sizes = {"embedding_dim": 4, "attention_dim": 4, "dropout": 0.0, "alternatives": [], **changes}
    params = model.model_copy(update=sizes).network
    return build_model(reader.schema, params, unfitted(reader.schema, params), seed=seed)


def parts_of(reader: ShardReader, priors: list[TrainingPrior]) -> list[TrainingRows]:
    is_train = np.arange(NUM_ROWS) % 3 > 0
    labels = [np.random.default_rng(n).integers(0, 2, NUM_ROWS).astype(np.uint8) for n in range(len(priors))]
    loader = ShuffledLoader(reader, batch_size=BATCH, buffer_rows=256, seed=1)
    return [TrainingRows(loader, is_train, label, prior, 1, ONE) for label, prior in zip(labels, priors, strict=True)]


def batch_with(batch: Batch, label: np.ndarray[Any, Any]) -> Batch:
    tensors = [*batch.tensors[:-1], torch.from_numpy(label[batch.rows]).float()]
    return batch.with_tensors(tensors)


def test_all_is_shared_but_the_heads(reader: ShardReader) -> None:
    first, second = network_of(reader), network_of(reader, seed=4)
    heads = [network.network.fc.weight.detach().clone() for network in (first, second)]
    model = SharedNetworks([first, second])
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    assert ours.keys() == theirs.keys()
    own = {name for name in ours if ours[name] is not theirs[name]}
    assert own == {"network.fc.weight", "network.fc.bias"}
    assert [torch.equal(model.of_label(n).network.fc.weight, head) for n, head in enumerate(heads)] == [True, True]
    assert len(list(model.parameters())) == len(ours) + 2


def test_each_part_of_a_batch_passes_its_own_network(reader: ShardReader) -> None:
    model = SharedNetworks([network_of(reader), network_of(reader, seed=4)]).eval()
    whole = next(iterate_in_order(reader, is_selected=None, batch_size=BATCH))
    first, second = whole.take(torch.arange(0, 32)), whole.take(torch.arange(32, 64))
    with torch.inference_mode():
        found = forward(model, stacked([first, second]))
        expected = [forward(model.of_label(0), first), forward(model.of_label(1), second)]
        other = forward(model.of_label(1), first)
    assert torch.equal(found, torch.cat(expected))
    assert not torch.equal(expected[0], other)


@pytest.mark.parametrize("tables", ["dense", "sparse"])
def test_the_gradient_is_the_mean_of_the_labels_gradients(reader: ShardReader, tables: str) -> None:
    """Of what is shared; that of a head is half of its label's own. The labels' classes weigh differently."""
    priors = [TrainingPrior(base_rate=0.5), TrainingPrior(base_rate=0.5, pos_weight=5.0)]
    parts = parts_of(reader, priors)
    shared = SharedRows.of(parts)
    model = SharedNetworks([network_of(reader), network_of(reader, seed=4)]).train()
    if tables == "sparse":
        for module in model.modules():
            if isinstance(module, FusedEmbedding):
                module.sparse = True
    whole = next(iterate_in_order(reader, is_selected=parts[0].is_train, batch_size=BATCH))
    batches = [batch_with(whole, part.label) for part in parts]

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return {
            name: p.grad.to_dense().clone() if p.grad.is_sparse else p.grad.clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }

    def loss_of(network: nn.Module, batch: Batch, rows: TrainingRows) -> torch.Tensor:
        assert batch.label is not None
        weight = rows.weights(batch.label)
        return weighted_logistic_loss(
            forward(network, batch), batch.label, sample_weight=weight, denominator=rows.batch_weight
        )

    together = gradients(loss_of(model, stacked(batches), shared))
    alone = [
        gradients(loss_of(model.of_label(n), batch, part))
        for n, (batch, part) in enumerate(zip(batches, parts, strict=True))
    ]
    assert "networks.1.network.fc.weight" in together
    for name, gradient in together.items():
        owned = [found[name] for found in alone if name in found]
        expected = torch.stack(owned).sum(0) / 2.0
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
        assert gradient.abs().max() > 0, name
    value = loss_of(model, stacked(batches), shared)
    losses = [loss_of(model.of_label(n), batches[n], parts[n]) for n in range(2)]
    torch.testing.assert_close(value, torch.stack(losses).mean())


def test_an_epoch_has_the_same_rows_for_each_label(reader: ShardReader) -> None:
    parts = parts_of(reader, [TrainingPrior(base_rate=0.5)] * 3)
    shared = SharedRows.of(parts)
    selection = shared.selection(0)
    assert isinstance(shared.loader, StackedLoader)
    assert shared.loader.num_batches(selection) == parts[0].loader.num_batches(selection)
    found = list(shared.loader.epoch(0, selection, first_step=1))
    expected = list(parts[0].loader.epoch(0, selection, first_step=1))
    assert len(found) == len(expected) > 0
    for together, alone in zip(found, expected, strict=True):
        assert together.rows.reshape(3, -1).tolist() == [alone.rows.tolist()] * 3
        assert torch.equal(together.categorical.reshape(3, *alone.categorical.shape)[2], alone.categorical)


def test_a_label_does_not_move_the_head_of_another(reader: ShardReader, tmp_path: Path) -> None:
    parts = parts_of(reader, [TrainingPrior(base_rate=0.5)] * 2)
    model = SharedNetworks([network_of(reader), network_of(reader, seed=4)]).train()
    whole = next(iterate_in_order(reader, is_selected=parts[0].is_train, batch_size=BATCH))
    gradients = []
    for flipped in (False, True):
        labels = [parts[0].label, 1 - parts[1].label if flipped else parts[1].label]
        batch = stacked([batch_with(whole, label) for label in labels])
        assert batch.label is not None
        weight = SharedRows.of(parts).weights(batch.label)
        model.zero_grad()
        loss = weighted_logistic_loss(forward(model, batch), batch.label, sample_weight=weight, denominator=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        heads = [model.of_label(number).network.fc.weight.grad for number in range(2)]
        gradients.append([head.clone() for head in heads if head is not None])
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])
