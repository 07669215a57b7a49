"""Shared fixtures: one thread for torch (two contend on tiny tensors), small logs, material outside the project."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Copies of the project share compiled kernels, which take most of a minute; Numba reads this when it is imported.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".qin" / "numba"))

import torch  # noqa: E402

from qin.sample import sample_size, write_sample  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def num_threads() -> Iterator[None]:
    """Whoever sets torch's number of threads finds it put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Fixtures and real data beside the checkout; tests that need them skip where they are absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a sample log of 8,000 rows, written once; copy what a test changes."""
    folder = tmp_path_factory.mktemp("log")
    write_sample(folder, size=sample_size(8000, test_rows=400), seed=1)
    return folder
