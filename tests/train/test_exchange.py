"""A step of several processes is the step of one: loss and gradient to rounding, and the same bytes in each process."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from qin.distributed.ranks import ONE, Ranks
from qin.network.embedding import FusedEmbedding
from qin.network.numeric import NumericNormalizer
from qin.network.qin import QIN, FittedInputs, QINInputs, QINSizes
from qin.network.sharded import ShardedEmbedding, divided_tables, gathered
from qin.scored.prior import TrainingPrior
from qin.shards.loader import Batch
from qin.train.checkpoint import CheckpointStore
from qin.train.exchange import GradientSum
from qin.train.imbalance import TrainingRows
from qin.train.loop import Budget, TrainingLoop
from qin.train.mining import HardNegatives
from qin.train.watch import SILENT
from tests.network.sizes import make_sizes
from tests.together import together
from tests.train.runs import plain_params

NUM_BUCKETS = (9, 50)
SIZES = make_sizes(embedding_dim=4, attention_dim=8, embedding_std=0.5, num_layers=2, num_rows=2)
DROPOUT = replace(SIZES, dropout=0.3, row_dropout=0.2, embedding_dropout=0.3, field_dropout=0.3)
GOSS = HardNegatives(mode="goss", top_neg_frac=0.1, rest_frac=0.2, min_neg=8, warmup_steps=0, two_passes=False)
FEW = replace(GOSS, mode="ohem", min_neg=1, top_neg_frac=0.0, two_passes=True)


@dataclass(frozen=True)
class Case:
    """A step; of `num_rows` rows the first `num_empty` read padding alone, and tables may be divided."""

    sizes: QINSizes = SIZES
    num_rows: int = 301
    num_empty: int = 0
    self_ensemble: float = 0.0
    mining: HardNegatives | None = None
    is_divided: bool = False


SPARSE = replace(DROPOUT, sparse_embedding_grad=True)
TWO_TABLES = replace(SPARSE, separate_attention_embedding=True)
CASES = {
    "plain": Case(),
    "dropout": Case(DROPOUT),
    "dropout on whole batches": Case(replace(DROPOUT, norm="rms")),
    "ensemble": Case(DROPOUT, self_ensemble=0.7),
    "sparse table": Case(replace(DROPOUT, sparse_embedding_grad=True)),
    "a process reads padding alone": Case(replace(SIZES, sparse_embedding_grad=True), num_empty=200),
    "padding alone, dense": Case(num_empty=200),
    "no row for some": Case(DROPOUT, num_rows=2),
    "no row for some, sparse": Case(replace(DROPOUT, sparse_embedding_grad=True), num_rows=1),
    "goss": Case(DROPOUT, mining=GOSS),
    "goss, two passes": Case(DROPOUT, mining=replace(GOSS, two_passes=True)),
    "pps": Case(mining=replace(GOSS, mode="pps")),
    "pps, two passes": Case(DROPOUT, mining=replace(GOSS, mode="pps", two_passes=True)),
    "few rows kept": Case(DROPOUT, 40, mining=FEW),
    "divided": Case(SPARSE, is_divided=True),
    "divided, two tables": Case(TWO_TABLES, is_divided=True, self_ensemble=0.7),
    "divided, padding alone": Case(SPARSE, num_empty=200, is_divided=True),
    "divided, no row for some": Case(TWO_TABLES, num_rows=1, is_divided=True, self_ensemble=0.7),
    "divided, few rows kept": Case(TWO_TABLES, 40, mining=FEW, is_divided=True),
}


@dataclass(frozen=True)
class Slice:
    """A source of one batch, of which this process has its part."""

    batch: Batch
    ranks: Ranks
    batch_size: int = 400

    def num_batches(self, is_selected: object) -> int:
        return 1

    def epoch(self, epoch: int, is_selected: object, *, first_step: int = 0) -> Iterator[Batch]:
        first, stop = self.ranks.bounds(self.batch.rows.size)
        yield replace(self.batch.take(torch.arange(first, stop)), first_row=first)


def make_model(case: Case, ranks: Ranks) -> QIN:
    inputs = QINInputs(num_buckets=NUM_BUCKETS, num_fields=2, sequence_vocabulary=(1,), target_fields=(1,))
    fitted = FittedInputs(normalizer=NumericNormalizer(torch.zeros(1), torch.ones(1)))
    tables = partial(ShardedEmbedding, ranks=ranks) if case.is_divided and ranks.world > 1 else FusedEmbedding
    generator = torch.Generator().manual_seed(0)
    return QIN(inputs=inputs, sizes=case.sizes, fitted=fitted, generator=generator, tables=tables)


def make_batch(case: Case) -> Batch:
    generator = torch.Generator().manual_seed(1)
    categorical = torch.stack([torch.randint(1, n, (case.num_rows,), generator=generator) for n in NUM_BUCKETS], dim=1)
    sequence = torch.randint(0, NUM_BUCKETS[1], (case.num_rows, 5), generator=generator)
    categorical[: case.num_empty], sequence[: case.num_empty] = 0, 0
    label = (torch.rand(case.num_rows, generator=generator) < 0.1).float()
    numeric = torch.randn(case.num_rows, 1, generator=generator)
    return Batch(np.arange(case.num_rows), categorical, numeric, (sequence,), label)


def step(ranks: Ranks, case: Case) -> dict[str, Any]:
    """The loss and all gradients of one step, at a rate of zero."""
    model, batch = make_model(case, ranks), make_batch(case)
    assert batch.label is not None
    is_train, label = np.ones(case.num_rows, np.bool_), batch.label.numpy().astype(np.uint8)
    prior = TrainingPrior(base_rate=0.1, pos_weight=3.0, neg_ratio=0.5)
    with TemporaryDirectory() as folder:
        loop = TrainingLoop(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            rows=TrainingRows(Slice(batch, ranks), is_train, label, prior, 0, ranks),
            params=plain_params(self_ensemble=case.self_ensemble, gradient_clip=1e9),
            hard_negatives=case.mining,
            stop=Budget(num_steps=1),
            checkpoints=CheckpointStore(Path(folder), "step"),
            watch=SILENT,
        )
        loop.run()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    dense = {
        name: (grad.to_dense() if grad.is_sparse else grad).numpy().copy()
        for name, grad in grads.items()
        if grad is not None
    }
    for name, table in divided_tables(model).items():
        part = torch.from_numpy(dense[f"{name}.embedding_table"])
        dense[f"{name}.embedding_table"] = gathered(part, 0, table.num_rows, ranks).numpy()
    state, norm = loop._state, loop._step.grad_norm
    assert norm is not None
    return {"loss": state.loss_sum, "weight": state.weight_sum, "grads": dense, "norm": norm.item()}


def steps(ranks: Ranks) -> dict[str, dict[str, Any]]:
    return {name: step(ranks, case) for name, case in CASES.items()}


@pytest.fixture(scope="module", params=[2, 3, 4])
def found(request: pytest.FixtureRequest) -> list[dict[str, dict[str, Any]]]:
    """Of each process."""
    return together(request.param, steps)


@pytest.mark.parametrize("name", CASES)
def test_processes_compute_what_one_computes(found: list[dict[str, dict[str, Any]]], name: str) -> None:
    expected, ours = step(ONE, CASES[name]), found[0][name]
    assert ours["loss"] / 400 == pytest.approx(expected["loss"] / 400, rel=1e-6, abs=1e-6)
    assert ours["weight"] == expected["weight"] > 0
    assert ours["norm"] == pytest.approx(expected["norm"], rel=1e-6)
    assert ours["grads"].keys() == expected["grads"].keys()
    flat, reference = (np.concatenate([grad.ravel() for grad in one["grads"].values()]) for one in (ours, expected))
    assert np.linalg.norm(reference) > 1e-3, "zeros would be compared"
    assert np.linalg.norm(flat - reference) <= 1e-6 * np.linalg.norm(reference)


@pytest.mark.parametrize("name", CASES)
def test_all_processes_have_the_same_bytes(found: list[dict[str, dict[str, Any]]], name: str) -> None:
    assert len({digest(one[name]) for one in found}) == 1


def digest(one: dict[str, Any]) -> str:
    parts = [grad.tobytes() for grad in one["grads"].values()]
    return hashlib.sha256(b"".join([*parts, repr((one["loss"], one["weight"])).encode()])).hexdigest()


def absent(ranks: Ranks) -> list[bool]:
    """Which parameters have a gradient where the second reaches none in any process, the third in the last alone."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(size)) for size in (2, 3, 4)])
    loss = model[0].sum() + (model[2].sum() if ranks.rank == ranks.world - 1 else 0.0)
    loss.backward()
    GradientSum(model, ranks)(loss.reshape(1))
    return [parameter.grad is not None for parameter in model]


def test_a_parameter_without_gradient_anywhere_has_none() -> None:
    """As in one process, or an optimizer would decay it."""
    assert together(2, absent) == [[True, False, True]] * 2
