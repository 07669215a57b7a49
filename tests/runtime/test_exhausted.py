"""What there is no more of, by the errors that libraries really have for it."""

import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from qin.runtime.exhausted import exhausted
from tests.project import ROOT

_TOO_MUCH = 1 << 60


def raised_by(call: object) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- whatever it is
        call()  # type: ignore[operator]
    return caught.value


def test_libraries_that_get_no_memory_are_understood() -> None:
    for call in (
        lambda: np.empty(_TOO_MUCH >> 4, np.uint8),
        lambda: torch.empty(_TOO_MUCH >> 8),
        lambda: pa.allocate_buffer(_TOO_MUCH),
        lambda: bytearray(_TOO_MUCH),
    ):
        error = raised_by(call)
        assert (exhausted(error) or "").startswith("out of memory"), repr(error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory"),
        (BlockingIOError(errno.EAGAIN, "fork"), "no more processes or threads can be started"),
        (RuntimeError("can't start new thread"), "no more threads can be started"),
        (Exception("std::bad_alloc"), "out of memory (std::bad_alloc)"),
        (ImportError("a.so: failed to map segment"), "a library cannot be loaded (a.so: failed to map segment)"),
        (ImportError("cannot import name 'x'"), None),
        (OSError(errno.ENOENT, "no such file"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("label must be 0 or 1"), None),
    ],
)
def test_what_there_is_no_more_of(error: BaseException, message: str | None) -> None:
    assert exhausted(error) == message


def test_a_command_without_memory_ends_with_a_line() -> None:
    code = (
        "from qin.cli import one_line_errors\n"
        "import torch\n"
        "with one_line_errors():\n"
        f"    torch.empty({_TOO_MUCH >> 8})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "out of memory" in done.stderr


def test_letters_that_a_process_cannot_write_are_named() -> None:
    """`LANG=C`, which Python takes for UTF-8 unless it is told not to."""
    code = (
        "from pathlib import Path\n"
        "import pyarrow as pa\n"
        "from qin.cli import one_line_errors\n"
        "with one_line_errors():\n"
        "    pa.OSFile(str(Path('s\\udcc3\\udca4')), 'wb')\n"
    )
    few = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **few}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a name has letters that this process cannot write in ascii: " in done.stderr
    assert done.stderr.rstrip().endswith("; set PYTHONUTF8=1")
