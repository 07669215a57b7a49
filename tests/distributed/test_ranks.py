"""What processes tell each other arrives in their order and as the same bytes, and none waits for one that is gone."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qin.distributed.ranks import ONE, Ranks, joined
from qin.runtime.errors import ConfigError, PeerEndedError
from tests.together import together

STATE = {
    "step": 7,
    "tensors": [torch.arange(3), (torch.tensor(2.5, dtype=torch.float64), None)],
    "empty": torch.ones(0),
}


def exchanged(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Every exchange there is."""
    rows = torch.arange(ranks.rank * 2, dtype=torch.float32).view(-1, 2) + 10 * ranks.rank  # none in the first
    total = torch.tensor([ranks.rank, 1.0])
    ranks.sum_(total)
    state = ranks.from_first(lambda: STATE if ranks.rank == 0 else pytest.fail("only the first makes it"))
    with ranks.first_alone():
        if ranks.rank == 0:
            time.sleep(0.3)
            (folder / "first").touch()
        found = (folder / "first").exists()
    counts = [to + 1 for to in range(ranks.world)]  # to + 1 rows to each
    sent = torch.tensor([100 * ranks.rank + to for to, count in enumerate(counts) for _ in range(count)])
    received = ranks.exchange(sent, counts, [ranks.rank + 1] * ranks.world)
    nothing = ranks.exchange(torch.empty(0, 2), [0] * ranks.world, [0] * ranks.world)
    return {
        "gathered": ranks.gather(rows).tolist(),
        "no rows": list(ranks.gather(torch.zeros(0, 4)).shape),
        "total": total.tolist(),
        "state": repr(state),
        "waited": found,
        "received": received.tolist(),
        "nothing": list(nothing.shape),
        "values": ranks.all_of({"rank": ranks.rank}),
        "number": ranks.total(ranks.rank),
        "place": (ranks.leader, ranks.leads, ranks.num_neighbours),
        "bounds": ranks.bounds(10),
    }


def test_three_processes_exchange(tmp_path: Path) -> None:
    results = together(3, exchanged, tmp_path)
    for rank, found in enumerate(results):
        assert found["gathered"] == [[10.0, 11.0], [20.0, 21.0], [22.0, 23.0]]
        assert found["no rows"] == [0, 4]
        assert found["total"] == [3.0, 3.0]
        assert found["state"] == repr(STATE)
        assert found["waited"]
        assert found["received"] == [100 * sender + rank for sender in range(3) for _ in range(rank + 1)]
        assert found["nothing"] == [0, 2]
        assert found["values"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert found["number"] == 3
        assert found["place"] == (0, rank == 0, 3)
    assert [found["bounds"] for found in results] == [(0, 3), (3, 6), (6, 10)]


def test_one_process_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.ones(3, 2)
    for environment in ({}, {"RANK": "0", "WORLD_SIZE": "1"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with joined() as ranks:
            assert ranks is ONE
    assert ONE.gather(rows) is rows
    assert ONE.from_first(lambda: rows) is rows
    assert ONE.exchange(rows, [3], [3]) is rows
    assert (ONE.all_of(4), ONE.total(4), ONE.bounds(7), ONE.leads, ONE.is_first_to_report()) == (
        [4],
        4,
        (0, 7),
        True,
        True,
    )
    assert not torch.distributed.is_initialized()


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match="RANK is set, but not MASTER_ADDR, MASTER_PORT"), joined():
        pass


def left_alone(ranks: Ranks, how: str) -> tuple[str, bool]:
    """One process ends without a word; what the others see, and whether they are the first to say so."""
    ranks.wait()
    if ranks.rank == 1:
        os._exit(9)
    exchange: Any = {
        "sum": lambda: ranks.sum_(torch.ones(1000)),
        "gather": lambda: ranks.gather(torch.ones(1, 2)),
        "broadcast": lambda: ranks.from_first(lambda: {"a": torch.ones(2)}),
    }[how]
    try:
        for _ in range(3):  # what is sent to one who is gone may not fail at once
            exchange()
    except PeerEndedError as error:
        return str(error), ranks.is_first_to_report()
    return "", False


@pytest.mark.parametrize("how", ["sum", "gather", "broadcast"])
def test_none_waits_for_a_process_that_has_ended(how: str) -> None:
    first, gone, last = together(3, left_alone, how)
    assert gone is None
    assert all(
        text.startswith("another process of this run has ended or cannot be reached (") for text, _ in (first, last)
    )
    assert sorted(reports for _, reports in (first, last)) == [False, True]
