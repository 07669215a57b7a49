"""Batches on a device equal the loader's own. The resident copy runs on any device, copying ahead needs a GPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from qin.runtime.errors import ArtifactError
from qin.shards.device import PrefetchingLoader, ResidentLoader, fits, prefetched
from qin.shards.files import ShardReader
from qin.shards.loader import Batch, BatchSource, ShuffledLoader, iterate_in_order
from tests.shards.test_loader import select, write

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write(tmp_path_factory.mktemp("device") / "log")


def assert_same(found: Iterator[Batch], expected: Iterator[Batch]) -> None:
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(left.rows, right.rows)
        for ours, theirs in zip(left.tensors, right.tensors, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0, equal_nan=True)


def check_epochs(source: BatchSource, loader: ShuffledLoader) -> None:
    assert source.batch_size == loader.batch_size
    for share in (1.0, 0.5, 0.0):
        selection = select(share)
        num_batches = source.num_batches(selection)
        assert num_batches == loader.num_batches(selection)
        for epoch, first_step in ((0, 0), (1, 0), (1, num_batches // 2)):
            expected = loader.epoch(epoch, selection, first_step=first_step)
            assert_same(source.epoch(epoch, selection, first_step=first_step), expected)


def test_a_resident_log_gives_the_same_batches(reader: ShardReader) -> None:
    loader = ShuffledLoader(reader, batch_size=16, buffer_rows=32, seed=3)
    check_epochs(ResidentLoader(loader, CPU), loader)


def test_a_resident_log_is_read_once(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ResidentLoader(ShuffledLoader(reader, batch_size=16, buffer_rows=32, seed=3), CPU)
    monkeypatch.delattr(ShardReader, "read_into")
    assert len(list(source.epoch(0, select(1.0)))) == source.num_batches(select(1.0)) > 0


def test_on_the_cpu_batches_pass_through(reader: ShardReader) -> None:
    loader = ShuffledLoader(reader, batch_size=16, buffer_rows=32, seed=3)
    check_epochs(PrefetchingLoader(loader, CPU), loader)
    batches = list(iterate_in_order(reader, is_selected=None, batch_size=16))
    assert all(a is b for a, b in zip(prefetched(iter(batches), CPU), batches, strict=True))


def test_tensors_can_be_replaced(reader: ShardReader) -> None:
    (batch,) = iterate_in_order(reader, is_selected=None, batch_size=1000)
    for whole in (batch, Batch(batch.rows, batch.categorical, batch.numeric, batch.sequences, None)):
        copy = whole.with_tensors([tensor.clone() for tensor in whole.tensors])
        assert_same(iter([copy]), iter([whole]))
        assert (copy.label is None) == (whole.label is None)


@needs_gpu
def test_batches_on_a_gpu(reader: ShardReader) -> None:
    loader, gpu = ShuffledLoader(reader, batch_size=16, buffer_rows=32, seed=3), torch.device("cuda")
    assert fits(loader, gpu)
    check_epochs(ResidentLoader(loader, gpu), loader)
    check_epochs(PrefetchingLoader(loader, gpu), loader)


def test_an_unreadable_log_ends_the_epoch_with_its_error(tmp_path: Path) -> None:
    reader = write(tmp_path / "log")
    (tmp_path / "log/00001.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match="truncated"):
        ResidentLoader(ShuffledLoader(reader, batch_size=16, buffer_rows=32, seed=3), CPU)
