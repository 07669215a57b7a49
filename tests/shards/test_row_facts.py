"""Facts of rows come back as they were written; what is not theirs is refused."""

from pathlib import Path

import numpy as np
import pytest

from qin.runtime.errors import ArtifactError
from qin.runtime.files import write_exact_json
from qin.shards.row_facts import FACTS, MANIFEST, RowFacts

FILE = "time.npy"

UNIT = np.array([2**64 - 1, 0, 5], np.uint64)


def write(folder: Path, facts: RowFacts) -> None:
    write_exact_json(folder / MANIFEST, {FACTS: facts.write(folder)})


@pytest.mark.parametrize("time", [None, np.array([-(2**62), 2**53 + 1, 0]), np.array([0.5, -1.0, 1e300])])
@pytest.mark.parametrize("has_impressions", [False, True])
def test_they_come_back(tmp_path: Path, time: np.ndarray | None, has_impressions: bool) -> None:
    shown = time if has_impressions else None
    write(tmp_path, RowFacts(UNIT, time, shown))
    read = RowFacts.read(tmp_path, num_rows=3)
    for wanted, found in ((UNIT, read.unit), (time, read.time), (shown, read.shown)):
        if wanted is None or found is None:
            assert wanted is found
        else:
            assert np.array_equal(found, wanted)
            assert found.dtype == wanted.dtype


def test_equal_facts_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, RowFacts(UNIT, np.arange(3), None))
    for file in (FILE, MANIFEST):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_those_of_another_log_are_refused(tmp_path: Path) -> None:
    write(tmp_path, RowFacts(UNIT, None, None))
    with pytest.raises(ArtifactError, match=r"unit\.npy"):
        RowFacts.read(tmp_path, num_rows=4)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path, RowFacts(UNIT, np.arange(3), None))
    data = (tmp_path / FILE).read_bytes()
    for position in range(len(data)):
        (tmp_path / FILE).write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(ArtifactError, match=FILE):
            RowFacts.read(tmp_path, num_rows=3)
