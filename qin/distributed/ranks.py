"""The processes that train one model: which rows are whose, and what they tell each other.

Whoever starts them (this project's launcher, torchrun, a cluster's scheduler) says in the environment who each is:
RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as PyTorch has it. One process alone is `ONE`, which meets no one and
exchanges nothing.

Every sum runs over the processes in one order, so equal inputs give equal bytes for a fixed number of processes, and
the same bytes in each of them.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed.rendezvous import rendezvous

from qin.runtime.errors import ConfigError, PeerEndedError

# A process that has ended is noticed at once, by its connections or by what started it; one that is slow, while it
# reads a large log or waits for the lock of a run, is waited for.
_TIMEOUT = timedelta(hours=24)
_START_TIMEOUT = timedelta(minutes=30)  # machines of a queue come one by one

# NCCL would choose how it adds up by size and by what connects the GPUs, and each way has an order of its own.
_ONE_ORDER = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes:
        rank: Its number; 0 writes all outputs.
        world: How many there are.
        leader: The lowest number on the same machine, which does once what its neighbours can share.
        num_neighbours: Processes on the same machine, this one included.
        store: Where they count what has been reported.
    """

    rank: int = 0
    world: int = 1
    leader: int = 0
    num_neighbours: int = 1
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process does what its neighbours share."""
        return self.rank == self.leader

    def bounds(self, num_items: int) -> tuple[int, int]:
        """First and last (exclusive) of the items that are this process's: nearly equal parts, in order."""
        return self.rank * num_items // self.world, (self.rank + 1) * num_items // self.world

    def sum_(self, values: torch.Tensor) -> None:
        """Replace values by their sums over all processes."""
        if self.world > 1:
            with _peers():
                torch.distributed.all_reduce(values)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `(n, ...)` of all processes, in their order; each may have another number of them, also none."""
        if self.world == 1:
            return rows
        # A collective takes parts of one shape: sizes go first, and all are as long as the longest.
        sizes = torch.zeros(self.world, dtype=torch.int64, device=rows.device)
        sizes[self.rank] = len(rows)
        self.sum_(sizes)
        counts = sizes.tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        if padded.numel():
            with _peers():
                torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def exchange(self, rows: torch.Tensor, counts: list[int], received: list[int]) -> torch.Tensor:
        """Send consecutive parts of rows `(n, ...)` to all processes; returns what all have sent here, in their order.

        Args:
            rows: Contiguous.
            counts: Rows for each process.
            received: Rows from each process.
        """
        if self.world == 1:
            return rows
        out = rows.new_empty(sum(received), *rows.shape[1:])
        with _peers():
            torch.distributed.all_to_all_single(out, rows.contiguous(), received, counts)
        return out

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them: plain values and tensors, in dicts, lists and tuples."""
        if self.world == 1:
            return make()
        tensors = list[torch.Tensor]()
        # The form goes pickled, tensors after it as they are: pickled, a table would be in memory twice more.
        form = [_map_tree(make(), lambda tensor: _put_aside(tensor, tensors)) if self.rank == 0 else None]
        with _peers():
            torch.distributed.broadcast_object_list(form, src=0)
            if self.rank > 0:
                form = [_map_tree(form[0], lambda place: _made_room(place, tensors))]
            for tensor in tensors:
                if tensor.numel():
                    torch.distributed.broadcast(tensor, src=0)
        places = iter(tensors)
        filled: T = _map_tree(form[0], lambda _: next(places))
        return filled

    def all_of(self, value: T) -> list[T]:
        """A plain value of each process, in their order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _peers():
            torch.distributed.all_gather_object(values, value)
        return values

    def total(self, number: int) -> int:
        """The sum of a number over all processes."""
        return sum(self.all_of(number))

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sum_(torch.zeros(1))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes through the block before the others enter it."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def is_first_to_report(self) -> bool:
        """Whether none of the others has reported what ends them all; whoever asks first does."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add("reported", 1) == 1)
        except RuntimeError:  # whoever held the count is gone
            return True


ONE = Ranks()


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands in a tree that is sent without them."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def is_started_with_others() -> bool:
    """Whether a launcher has started this process as one of several, or could have."""
    return "RANK" in os.environ


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that the environment speaks of; without any, this is `ONE`.

    Raises:
        ConfigError: If the environment says only in part who they are.
    """
    ranks = _join() if is_started_with_others() and os.environ.get("WORLD_SIZE") != "1" else ONE
    yield ranks
    if ranks.world > 1:  # after an error the process ends, and others may not be there to part from
        torch.distributed.destroy_process_group()


def _join() -> Ranks:
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"environment: RANK is set, but not {', '.join(missing)}; unset it, or start with torchrun")
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        for name, value in _ONE_ORDER.items():
            os.environ.setdefault(name, value)
        # Modulo, because a scheduler may show each process its own GPU alone, as number 0.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _peers():
        store, rank, world = next(rendezvous("env://", timeout=_START_TIMEOUT))
        # Gloo as well, for what lies on the CPU: values, checkpoints, counts.
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT)
    # Containers may share a host's name; torchrun numbers its agents, of which each machine has one.
    node = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')}"
    nodes = Ranks(rank, world).all_of(node)
    return Ranks(rank, world, nodes.index(node), nodes.count(node), store)


@contextmanager
def _peers() -> Iterator[None]:
    """A collective fails where another process is gone."""
    try:
        yield
    # A RuntimeError as well, but this process's own.
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PeerEndedError(f"another process of this run has ended or cannot be reached ({reason})") from error


def _map_tree(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A tree with its tensors, or their places, changed."""
    if isinstance(tree, torch.Tensor | _Place):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _map_tree(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_map_tree(value, change) for value in tree])
    return tree


def _put_aside(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> _Place:
    tensors.append(tensor.detach().cpu().contiguous())
    return _Place(tuple(tensor.shape), tensor.dtype)


def _made_room(place: _Place, tensors: list[torch.Tensor]) -> _Place:
    tensors.append(torch.empty(place.shape, dtype=place.dtype))
    return place
