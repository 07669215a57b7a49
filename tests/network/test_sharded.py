"""A table divided among processes is read, updated and saved as a whole one, to 1e-6, and its bytes are fixed."""

from typing import Any

import numpy as np
import pytest
import torch

from qin.distributed.ranks import ONE, Ranks
from qin.network.embedding import FusedEmbedding
from qin.network.sharded import ShardedEmbedding, chunks, gathered, keep_own, own_rows
from qin.train.optimizers import RowWiseAdam
from tests.together import together

NUM_BUCKETS, DIM, NUM_ROWS, NUM_STEPS = (7, 50, 40), 5, 33, 3


def make_batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fields, a sequence with padding, and weights that make gradients differ; the first rows are all padding."""
    generator = torch.Generator().manual_seed(step)
    fields = torch.stack([torch.randint(0, n, (NUM_ROWS,), generator=generator) for n in NUM_BUCKETS[:2]], dim=1)
    sequence = torch.randint(0, NUM_BUCKETS[2], (NUM_ROWS, 6), generator=generator)
    fields[:12], sequence[:12] = 0, 0
    return fields, sequence, torch.randn(NUM_ROWS, 8, DIM, generator=generator)


def trained(embedding: FusedEmbedding, ranks: Ranks) -> dict[str, Any]:
    """What steps on this process's part of each batch read, and the gradients of the first."""
    optimizer = RowWiseAdam([embedding.embedding_table], lr=0.1, weight_decay=0.01)
    read, grads = [], None
    for step in range(NUM_STEPS):
        fields, sequence, weight = (tensor[slice(*ranks.bounds(NUM_ROWS))] for tensor in make_batch(step))
        of_fields, of_sequence = embedding.read(fields, [sequence], vocabularies=[2])
        values = torch.cat((of_fields, of_sequence), dim=1)
        read.append(values.detach())
        optimizer.zero_grad()
        (values * weight + values.square()).sum().backward()  # type: ignore[no-untyped-call]
        assert embedding.embedding_table.grad is not None
        grads = embedding.embedding_table.grad.to_dense() if grads is None else grads
        optimizer.step()
    return {"read": torch.stack(read).numpy(), "grad": None if grads is None else grads.numpy()}


def sharded(ranks: Ranks) -> dict[str, Any]:
    embedding = ShardedEmbedding(NUM_BUCKETS, dim=DIM, ranks=ranks)
    embedding.draw(torch.Generator().manual_seed(0), std=0.5)
    drawn = gathered(embedding.embedding_table, 0, embedding.num_rows, ranks).numpy()
    found = trained(embedding, ranks)
    table = gathered(embedding.embedding_table, 0, embedding.num_rows, ranks)
    again = ShardedEmbedding(NUM_BUCKETS, dim=DIM, ranks=ranks)
    keep_own(again.embedding_table, 0, table[:31], ranks)
    keep_own(again.embedding_table, 31, table[31:], ranks)
    assert torch.equal(again.embedding_table, embedding.embedding_table)
    assert torch.equal(gathered(embedding.embedding_table, 13, 29, ranks), table[13:29])
    return {**found, "drawn": drawn, "table": table.numpy(), "held": len(embedding.embedding_table)}


def whole() -> dict[str, Any]:
    embedding = FusedEmbedding(NUM_BUCKETS, dim=DIM, sparse=True)
    embedding.draw(torch.Generator().manual_seed(0), std=0.5)
    drawn = embedding.embedding_table.detach().numpy().copy()
    return {**trained(embedding, ONE), "drawn": drawn, "table": embedding.embedding_table.detach().numpy()}


@pytest.mark.parametrize("world", [2, 3])
def test_a_divided_table_is_a_whole_one(world: int) -> None:
    expected, found = whole(), together(world, sharded)
    assert sum(part["held"] for part in found) == sum(NUM_BUCKETS)
    assert max(part["held"] for part in found) - min(part["held"] for part in found) <= 1
    np.testing.assert_allclose(np.concatenate([part["read"] for part in found], axis=1), expected["read"], atol=1e-6)
    grad = np.empty_like(expected["grad"])
    for rank, part in enumerate(found):
        grad[rank::world] = part["grad"]
    assert np.linalg.norm(grad - expected["grad"]) <= 1e-6 * np.linalg.norm(expected["grad"])
    for part in found:
        np.testing.assert_array_equal(part["drawn"], expected["drawn"])
        np.testing.assert_allclose(part["table"], expected["table"], rtol=1e-6, atol=1e-6)
        assert part["table"].tobytes() == found[0]["table"].tobytes()
    assert np.linalg.norm(expected["table"] - expected["drawn"]) > 0.1, "nothing was learned"


def test_its_bytes_are_fixed_and_one_process_holds_all() -> None:
    first, second = (together(2, sharded)[0]["table"].tobytes() for _ in range(2))
    assert first == second
    alone = sharded(ONE)
    np.testing.assert_allclose(alone["table"], whole()["table"], rtol=1e-6, atol=1e-6)
    assert alone["held"] == sum(NUM_BUCKETS)


@pytest.mark.parametrize("num_rows", [65536, 65537, 65540, 131073])
def test_a_table_drawn_in_parts_is_the_table_drawn_at_once(num_rows: int) -> None:
    """Also where a single row is left for the last part."""
    whole, parts = FusedEmbedding([9, num_rows - 9], dim=5), ShardedEmbedding([9, num_rows - 9], dim=5, ranks=ONE)
    for table in (whole, parts):
        table.draw(torch.Generator().manual_seed(1), std=0.5)
    assert torch.equal(whole.embedding_table, parts.embedding_table)
    assert not whole.embedding_table[[0, 9]].any()
    assert [start for start, _ in chunks(num_rows, 5)] == [0, *([65536] if num_rows > 65537 else [])]


def test_a_divided_table_has_a_sparse_gradient() -> None:
    with pytest.raises(ValueError, match="a divided table has a sparse gradient"):
        ShardedEmbedding([3], dim=2, ranks=ONE, sparse=False)


def test_rows_are_dealt_in_turn() -> None:
    assert [own_rows(7, Ranks(rank, 3)) for rank in range(3)] == [3, 2, 2]
    assert [own_rows(1, Ranks(rank, 3)) for rank in range(3)] == [1, 0, 0]
