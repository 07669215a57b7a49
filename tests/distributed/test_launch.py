"""Why a group of processes ended, and what the launcher makes of it; tests/stages/test_processes.py has the rest."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.distributed.launch import explained, launch, loopback_interface
from qin.runtime.errors import PeerEndedError
from qin.runtime.host import LOOPBACK

PEER = PeerEndedError.exit_status


@pytest.mark.parametrize(
    ("statuses", "rank", "was_killed"),
    [
        ({0: PEER, 1: -9, 2: PEER}, 1, True),
        ({0: -15, 1: 143, 2: -9}, 2, True),
        ({0: PEER, 1: PEER}, 0, True),
        ({0: -9, 1: 1, 2: PEER}, 1, False),
        ({0: -6}, 0, True),
        ({0: 143}, 0, True),
        ({0: 2, 1: 1}, 0, False),
    ],
)
def test_the_end_that_explains_the_others(statuses: dict[int, int], rank: int, was_killed: bool) -> None:
    ended = explained(statuses)
    assert (ended.rank, ended.was_killed) == (rank, was_killed)


def test_statuses_are_those_of_a_shell() -> None:
    assert (explained({0: -9}).exit_status, str(explained({0: -9}))) == (137, "SIGKILL")
    assert (explained({0: 3}).exit_status, str(explained({0: 3}))) == (3, "exit status 3")


def test_the_loopback_is_found() -> None:
    assert loopback_interface().startswith("lo"), LOOPBACK


@pytest.fixture
def signals() -> Iterator[None]:
    """Whoever sets handlers of signals finds them put back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Each process writes who it is; the second ends as it is told, the first time alone or every time.
CHILD = """
import os, signal, sys, time
import signal
from collections.abc import Iterator
from pathlib import Path
rank, folder, how = os.environ["RANK"], Path(sys.argv[1]), sys.argv[2]
number = len(list(folder.glob(f"{rank}.*")))
(folder / f"{rank}.{number}").write_text(os.environ["WORLD_SIZE"])
while not (folder / f"0.{number}").exists():
    time.sleep(0.01)
if rank == "1" and how == "killed once" and number == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if rank == "1" and how == "bad input":
    sys.exit(1)
if rank == "1" and how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("how", "status", "starts"), [("well", 0, 1), ("killed once", 0, 2), ("bad input", 1, 1), ("killed", 137, 2)]
)
@pytest.mark.usefixtures("signals")
def test_what_was_killed_is_started_again_and_what_gave_up_is_not(
    tmp_path: Path, how: str, status: int, starts: int, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["-c", CHILD, str(tmp_path), how]
    try:
        launch(words, num_processes=2, max_restarts=1)
        found = 0
    except SystemExit as ended:
        found = int(str(ended.code))
    assert found == status
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"{rank}.{number}" for rank in range(2) for number in range(starts)]
    assert ("process 1 of 2 was ended by SIGKILL" in caplog.text) == (status == 137 or how == "killed once")
