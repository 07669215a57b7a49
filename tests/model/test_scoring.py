"""Scoring in threads: the same bytes whatever their number, in order, with PyTorch's settings left alone."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from qin.model.scoring import score, score_all
from qin.network.heights import TILE_ROWS
from qin.shards.loader import Batch
from tests.network.test_frozen import make_rows, make_trained


def batches(num_rows: int, *, batch_size: int) -> Iterator[Batch]:
    categorical, numeric, sequences = make_rows(num_rows)
    for start in range(0, num_rows, batch_size):
        rows = np.arange(start, min(start + batch_size, num_rows))
        parts = tuple(part[rows] for part in sequences)
        yield Batch(rows, categorical[rows], numeric[rows], parts, None)


def test_logits_depend_neither_on_threads_nor_on_batches(num_threads: None) -> None:
    model, num_rows = make_trained(norm="batch"), 2 * TILE_ROWS + 33
    model.use_bf16 = True
    with torch.inference_mode():
        own = model(*make_rows(num_rows)).numpy()
    found = []
    for threads, batch_size in ((1, num_rows), (2, num_rows), (3, 100), (2, TILE_ROWS + 1)):
        torch.set_num_threads(threads)
        found.append(score_all(model.train(), batches(num_rows, batch_size=batch_size), num_rows=num_rows))
        assert torch.get_num_threads() == threads
    assert len({logit.tobytes() for logit in found}) == 1
    np.testing.assert_allclose(found[0], own, rtol=0.01, atol=0.02)


def test_a_bad_bucket_ends_the_scoring() -> None:
    good, bad = batches(200, batch_size=100)
    bad.categorical[7, 1] = 9
    scored = score(make_trained(), iter([good, bad]))
    with pytest.raises(ValueError, match="got 9 at row 7, column 1"):
        list(scored)
