"""The project that each module of the fuzzer starts from."""

from collections.abc import Iterator

import pytest

from qin.runtime.stage import STAGES
from tests.fuzz.sandbox import FIRST_SECONDS, Sandbox, write_project


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A tiny project in which all stages have run."""
    with pytest.MonkeyPatch.context() as patched:
        sandbox = write_project(tmp_path_factory.mktemp("fuzz") / "project")
        patched.chdir(sandbox.folder)
        for ended in sandbox.run(STAGES, seconds=FIRST_SECONDS):
            assert ended.status == 0, (ended.lines, ended.escaped)
        sandbox.remember()
        yield sandbox
