"""Batches: every row once, in an order that depends on seed, epoch and selection alone, from any step on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qin.shards import loader as loader_module
from qin.shards.files import Arrays, ShardReader, ShardWriter, layout, read_labels
from qin.shards.loader import Batch, ShuffledLoader, iterate_in_order
from tests.logs import log_schema, make_log

NUM_ROWS, CHUNK_ROWS = 90, 8
SCHEMA = log_schema(make_log(4))
GROUPS = layout(SCHEMA, with_label=True)

Selection = npt.NDArray[np.bool_]


def make_arrays(num_rows: int) -> Arrays:
    generator = np.random.default_rng(num_rows)
    arrays = {group.name: generator.integers(0, 12, (num_rows, group.width)).astype(group.dtype) for group in GROUPS}
    arrays["label"] %= 2
    arrays["numeric"][generator.random(arrays["numeric"].shape) < 0.2] = np.nan
    return arrays


def write(folder: Path, *, num_rows: int = NUM_ROWS, shard_rows: int = 25, with_label: bool = True) -> ShardReader:
    folder.mkdir()
    groups = GROUPS if with_label else GROUPS[:-1]
    writer = ShardWriter(folder, groups, num_rows=num_rows, shard_rows=shard_rows)
    writer.append({group.name: make_arrays(num_rows)[group.name] for group in groups})
    writer.close(schema=SCHEMA)
    return ShardReader(folder)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "CHUNK_ROWS", CHUNK_ROWS)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return write(tmp_path_factory.mktemp("loader") / "log")


def select(share: float, *, num_rows: int = NUM_ROWS) -> Selection:
    return np.asarray(np.random.default_rng(1).random(num_rows) < share)


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def assert_holds_its_rows(batch: Batch, arrays: Arrays) -> None:
    """The tensors equal the raw arrays of the batch's rows."""
    rows = batch.rows
    assert batch.label is not None
    assert (batch.label.dtype, batch.numeric.dtype) == (torch.float32, torch.float32)
    np.testing.assert_array_equal(batch.categorical.numpy(), arrays["categorical"][rows])
    np.testing.assert_array_equal(batch.numeric.numpy(), arrays["numeric"][rows])
    np.testing.assert_array_equal(batch.label.numpy(), arrays["label"][rows, 0])
    assert len(batch.sequences) == 2
    for tensor, name in zip(batch.sequences, ("sequence.seq", "sequence.recent"), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), arrays[name][rows])


SELECTIONS = st.lists(st.booleans(), min_size=NUM_ROWS, max_size=NUM_ROWS) | st.floats(0, 1).map(
    lambda share: select(share).tolist()
)
ONE_READER = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_READER
@given(SELECTIONS, st.integers(1, NUM_ROWS + 5), st.integers(1, NUM_ROWS + 5), st.integers(0, 3))
def test_an_epoch_is_a_permutation_up_to_its_tail(
    reader: ShardReader, selected: list[bool], batch_size: int, buffer_rows: int, epoch: int
) -> None:
    is_selected = np.array(selected)
    loader = ShuffledLoader(reader, batch_size=batch_size, buffer_rows=buffer_rows, seed=5)
    batches = list(loader.epoch(epoch, is_selected))
    num_rows = int(is_selected.sum())
    sizes = [batch.rows.size for batch in batches]
    if 0 < num_rows < batch_size:
        assert sizes == [num_rows]
    else:
        assert sizes == [batch_size] * (num_rows // batch_size)
    assert len(batches) == loader.num_batches(is_selected)
    seen = [row for rows in rows_of(batches) for row in rows]
    assert len(set(seen)) == len(seen)
    assert is_selected[seen].all()
    for batch in batches:
        assert_holds_its_rows(batch, make_arrays(NUM_ROWS))


@ONE_READER
@given(SELECTIONS, st.integers(1, 40), st.integers(1, NUM_ROWS + 5), st.data())
def test_resuming_at_any_step_equals_the_rest_of_the_epoch(
    reader: ShardReader, selected: list[bool], batch_size: int, buffer_rows: int, data: st.DataObject
) -> None:
    is_selected = np.array(selected)
    loader = ShuffledLoader(reader, batch_size=batch_size, buffer_rows=buffer_rows, seed=5)
    whole = rows_of(list(loader.epoch(2, is_selected)))
    first_step = data.draw(st.integers(0, len(whole)))
    resumed = list(loader.epoch(2, is_selected, first_step=first_step))
    assert rows_of(resumed) == whole[first_step:]
    for batch in resumed:
        assert_holds_its_rows(batch, make_arrays(NUM_ROWS))


def test_what_lies_before_the_first_step_is_not_read(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ShuffledLoader(reader, batch_size=10, buffer_rows=16, seed=5)
    is_selected = np.ones(NUM_ROWS, np.bool_)
    ranges: list[tuple[int, int]] = []
    read_into = ShardReader.read_into

    def recorded(self: ShardReader, group: str, start: int, out: npt.NDArray[np.generic]) -> None:
        ranges.append((start, start + len(out)))
        read_into(self, group, start, out)

    monkeypatch.setattr(ShardReader, "read_into", recorded)
    num_ranges = []
    for first_step in (0, 5, 8):
        ranges.clear()
        assert len(list(loader.epoch(0, is_selected, first_step=first_step))) == 9 - first_step
        num_ranges.append(len(set(ranges)))
    assert num_ranges[0] == -(-NUM_ROWS // CHUNK_ROWS)
    assert num_ranges[0] > num_ranges[1] > num_ranges[2] > 0


def test_row_numbers_alone_are_those_of_the_batches_and_read_nothing(
    reader: ShardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = ShuffledLoader(reader, batch_size=10, buffer_rows=16, seed=5)
    for share, first_step in [(1.0, 0), (0.6, 2), (0.05, 0), (0.0, 0)]:
        selection = select(share)
        expected = rows_of(list(loader.epoch(1, selection, first_step=first_step)))
        with monkeypatch.context() as patch:
            patch.delattr(ShardReader, "read_into")
            found = [rows.tolist() for rows in loader.rows(1, selection, first_step=first_step)]
        assert found == expected


def test_shard_sizes_do_not_show(tmp_path: Path) -> None:
    orders = []
    for shard_rows in (1, 7, 25, 1000):
        reader = write(tmp_path / str(shard_rows), shard_rows=shard_rows)
        loader = ShuffledLoader(reader, batch_size=16, buffer_rows=30, seed=3)
        batches = list(loader.epoch(1, select(0.7)))
        for batch in batches:
            assert_holds_its_rows(batch, make_arrays(NUM_ROWS))
        orders.append(rows_of(batches))
    assert all(order == orders[0] for order in orders[1:])


def test_epochs_and_seeds_differ_and_repeat(reader: ShardReader) -> None:
    is_selected = np.ones(NUM_ROWS, np.bool_)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        loader = ShuffledLoader(reader, batch_size=10, buffer_rows=40, seed=seed)
        return tuple(row for rows in rows_of(list(loader.epoch(epoch, is_selected))) for row in rows)

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1, 2**62) for epoch in range(4)}
    assert len(set(orders.values())) == len(orders)
    assert all(order(*key) == value for key, value in orders.items())
    assert all(value != tuple(sorted(value)) for value in orders.values())


def test_epochs_take_the_chunks_in_different_orders(reader: ShardReader) -> None:
    loader = ShuffledLoader(reader, batch_size=CHUNK_ROWS, buffer_rows=1, seed=0)
    is_selected = np.ones(NUM_ROWS - NUM_ROWS % CHUNK_ROWS, np.bool_)
    is_selected = np.concatenate([is_selected, np.zeros(NUM_ROWS % CHUNK_ROWS, np.bool_)])
    orders = set()
    for epoch in range(5):
        batches = list(loader.epoch(epoch, is_selected))
        assert all(np.ptp(batch.rows) == CHUNK_ROWS - 1 for batch in batches)  # a buffer of one chunk mixes no two
        orders.add(tuple(int(batch.rows.min()) for batch in batches))
    assert len(orders) == 5


def test_the_rows_left_out_differ_by_epoch(reader: ShardReader) -> None:
    loader = ShuffledLoader(reader, batch_size=40, buffer_rows=NUM_ROWS, seed=0)
    is_selected = np.ones(NUM_ROWS, np.bool_)
    seen = [{row for batch in loader.epoch(epoch, is_selected) for row in batch.rows.tolist()} for epoch in range(6)]
    assert all(len(rows) == 80 for rows in seen)
    assert set.union(*seen) == set(range(NUM_ROWS))


def test_a_buffer_of_the_whole_log_shuffles_uniformly(reader: ShardReader) -> None:
    loader = ShuffledLoader(reader, batch_size=NUM_ROWS, buffer_rows=NUM_ROWS, seed=0)
    is_selected = np.ones(NUM_ROWS, np.bool_)
    positions = np.array([np.argsort(next(loader.epoch(epoch, is_selected)).rows) for epoch in range(400)])
    # The mean of 400 uniform positions has a standard deviation of 26 / 20; 90 rows are looked at.
    assert abs(positions.mean(axis=0) - (NUM_ROWS - 1) / 2).max() < 4.5 * 26 / 20
    assert abs(np.corrcoef(positions[:, 0], positions[:, 1])[0, 1]) < 0.25


def test_an_empty_selection_gives_no_batch(reader: ShardReader) -> None:
    nothing = np.zeros(NUM_ROWS, np.bool_)
    loader = ShuffledLoader(reader, batch_size=10, buffer_rows=40, seed=0)
    assert list(loader.epoch(0, nothing)) == []
    assert loader.num_batches(nothing) == 0
    assert list(iterate_in_order(reader, is_selected=nothing, batch_size=10)) == []


@ONE_READER
@given(SELECTIONS | st.none(), st.integers(1, NUM_ROWS + 5))
def test_in_order_gives_the_selected_rows_in_row_order(
    reader: ShardReader, selected: list[bool] | None, batch_size: int
) -> None:
    is_selected = None if selected is None else np.array(selected)
    expected = list(range(NUM_ROWS)) if is_selected is None else np.flatnonzero(is_selected).tolist()
    batches = list(iterate_in_order(reader, is_selected=is_selected, batch_size=batch_size))
    assert rows_of(batches) == [expected[k : k + batch_size] for k in range(0, len(expected), batch_size)]
    for batch in batches:
        assert_holds_its_rows(batch, make_arrays(NUM_ROWS))


@pytest.mark.parametrize("num_rows", [1, 2, CHUNK_ROWS, CHUNK_ROWS + 1])
def test_tiny_logs(tmp_path: Path, num_rows: int) -> None:
    reader = write(tmp_path / "log", num_rows=num_rows)
    loader = ShuffledLoader(reader, batch_size=64, buffer_rows=64, seed=0)
    is_selected = np.ones(num_rows, np.bool_)
    (batch,) = loader.epoch(0, is_selected)
    assert sorted(batch.rows.tolist()) == list(range(num_rows))
    assert_holds_its_rows(batch, make_arrays(num_rows))
    assert list(loader.epoch(0, is_selected, first_step=1)) == []
    (ordered,) = iterate_in_order(reader, is_selected=None, batch_size=64)
    assert ordered.rows.tolist() == list(range(num_rows))


def test_labels_of_the_whole_log_and_of_none(tmp_path: Path, reader: ShardReader) -> None:
    assert read_labels(reader).tolist() == make_arrays(NUM_ROWS)["label"][:, 0].tolist()
    unlabelled = write(tmp_path / "log", with_label=False)
    (batch,) = iterate_in_order(unlabelled, is_selected=None, batch_size=NUM_ROWS)
    assert batch.label is None
    assert batch.categorical.shape == (NUM_ROWS, 2)


def test_rows_of_a_batch_are_taken_with_all_their_tensors(reader: ShardReader) -> None:
    (batch,) = iterate_in_order(reader, is_selected=select(0.5), batch_size=NUM_ROWS)
    position = torch.tensor([5, 0, 3])
    part = batch.take(position)
    assert part.rows.tolist() == batch.rows[[5, 0, 3]].tolist()
    assert_holds_its_rows(part, make_arrays(NUM_ROWS))


@ONE_READER
@given(SELECTIONS, st.integers(1, 40), st.integers(1, NUM_ROWS + 5), st.integers(2, 5), st.data())
def test_several_processes_take_every_batch_apart(
    reader: ShardReader, selected: list[bool], batch_size: int, buffer_rows: int, world: int, data: st.DataObject
) -> None:
    """In order, whatever their number, from any step on, and where there are fewer rows than processes."""
    is_selected = np.array(selected)
    one = ShuffledLoader(reader, batch_size=batch_size, buffer_rows=buffer_rows, seed=5)
    first_step = data.draw(st.integers(0, one.num_batches(is_selected)))
    whole = list(one.epoch(2, is_selected, first_step=first_step))
    parts = [
        list(replace(one, rank=rank, world=world).epoch(2, is_selected, first_step=first_step)) for rank in range(world)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for batch, *slices in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.rows for part in slices]), batch.rows)
        sizes = [part.rows.size for part in slices]
        assert max(sizes) - min(sizes) <= 1
        assert [part.first_row for part in slices] == [sum(sizes[:rank]) for rank in range(world)]
        for part in slices:
            assert_holds_its_rows(part, make_arrays(NUM_ROWS))
