"""Machine code on disk is that of the source, or none: after edits, in folders that cannot be written, when damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qin.runtime import jit, provenance

INNER = "from qin.runtime.jit import njit\n\n\n@njit(inline='always')\ndef step(x):\n    return x + {step}\n"
OUTER = (
    "from qin.inner import step\nfrom qin.runtime.jit import njit\n\n\n"
    "@njit()\ndef twice(x):\n    return step(step(x))\n"
)
CALL = (
    "import sys, logging; logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)\n"
    "from qin.outer import twice; print(twice(1), sum(twice.stats.cache_hits.values()))"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with the module of our cache and a kernel that inlines one of another file."""
    folder = tmp_path / "ein Ordner, 폴더" / "qin"
    for part in (folder, folder / "runtime"):
        part.mkdir(parents=True)
        (part / "__init__.py").touch()
    for module in (jit, provenance):
        shutil.copy(str(module.__file__), folder / "runtime")
    (folder / "inner.py").write_text(INNER.format(step=1))
    (folder / "outer.py").write_text(OUTER)
    return folder


def call(package: Path, **environment: str) -> str:
    """What the kernel gives, and how often its machine code came from disk; then what was logged."""
    nowhere = {"XDG_CACHE_HOME": str(package.parent / "cache"), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=package.parent,
        env={**os.environ, **nowhere, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def kept(package: Path) -> list[Path]:
    return sorted(package.parent.rglob("*.nbc"))


def test_an_edit_of_the_file_that_is_inlined_compiles_again(package: Path) -> None:
    assert [call(package), call(package)] == ["3 0", "3 1"]
    (package / "inner.py").write_text(INNER.format(step=5))
    assert [call(package), call(package)] == ["11 0", "11 1"]
    (package / "inner.py").write_text(INNER.format(step=1))  # as by `git checkout`
    assert call(package) == "3 0"
    assert len(kept(package)) == 1  # no other state of the source is kept


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_file_is_compiled_again(package: Path, damage: str) -> None:
    call(package)
    whole = {path: path.read_bytes() for path in kept(package)}
    for path, content in whole.items():
        flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        path.write_bytes({"truncated": content[:100], "empty": b"", "flipped": flipped}[damage])
    assert [call(package), call(package)] == ["3 0", "3 1"]
    assert sorted(whole) == kept(package)


def test_what_cannot_be_written_is_read_where_it_is(package: Path) -> None:
    call(package)
    (package / "__pycache__").rename(package.parent / "away")
    (package / "__pycache__").touch()  # a file in the place of the folder; permissions do not bind the superuser
    assert call(package) == "3 0"  # into the user's folder
    assert call(package) == "3 1"
    shutil.rmtree(package.parent / "cache")
    (package.parent / "cache").touch()
    line, result = call(package).splitlines()
    assert result == "3 0"
    assert line.startswith("kernels are compiled at every start: none of ")
    (package / "__pycache__").unlink()
    (package.parent / "away").rename(package / "__pycache__")
    assert call(package) == "3 1"


def test_an_edit_of_what_a_kernel_does_not_import_keeps_it(package: Path) -> None:
    call(package)
    (package / "other.py").write_text("X = 1\n")
    (package / "__init__.py").write_text('"""Changed."""\n')
    assert call(package) == "3 1"


def test_the_folder_that_numba_is_told_to_use_is_used(package: Path, tmp_path: Path) -> None:
    chosen = {"NUMBA_CACHE_DIR": str(tmp_path / "chosen")}
    assert [call(package, **chosen), call(package, **chosen)] == ["3 0", "3 1"]
    assert all(path.is_relative_to(tmp_path / "chosen") for path in kept(package) + list(tmp_path.rglob("*.nbc")))


def test_without_compilation_kernels_are_plain_functions(package: Path) -> None:
    call_plainly = CALL.replace("sum(twice.stats.cache_hits.values())", "type(twice).__name__")
    done = subprocess.run(
        [sys.executable, "-c", call_plainly],
        cwd=package.parent,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3 function"


def test_a_user_without_name_and_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 77)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")
    assert [folder.parent.name for folder in jit.cache_folders()] == ["__pycache__"]


def test_source_that_changed_since_the_import_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    @jit.njit()
    def plus_one(x: int) -> int:
        return x + 1

    monkeypatch.setattr(jit, "_source_fingerprint", lambda _: "another")
    monkeypatch.setattr(jit, "_write", lambda *_: pytest.fail("written"))
    assert plus_one(1) == 2
