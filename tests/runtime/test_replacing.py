"""New content takes the place of old through links and on mount points; a kill at any step loses neither."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qin.runtime.errors import ArtifactError
from qin.runtime.files import atomic_directory, atomic_file

FOLDER = {"a.bin": "old a", "sub/b.bin": "old b", "gone.bin": "old"}
NEW = {"a.bin": "new a", "sub/b.bin": "new b"}

# Replaces a folder or a file and is killed at the n-th rename, copy or removal; prints how many there were.
KILLED = """
import os, shutil, sys
from pathlib import Path
from qin.runtime.files import atomic_directory, atomic_file
kind, path, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
done = 0
def counted(function):
    def call(*args, **kwargs):
        global done
        if done == last:
            os._exit(9)
        done += 1
        return function(*args, **kwargs)
    return call
for module, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (shutil, "copyfileobj")):
    setattr(module, name, counted(getattr(module, name)))
if kind == "folder":
    with atomic_directory(path) as folder:
        (folder / "a.bin").write_text("new a")
        (folder / "sub").mkdir()
        (folder / "sub/b.bin").write_text("new b")
else:
    with atomic_file(path) as staging:
        staging.write_text("new")
print(done)
"""


def fill(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(path: Path) -> None:
    with atomic_directory(path) as folder:
        fill(folder, NEW)


def run_killed(kind: str, path: Path, last: int) -> int:
    command = [sys.executable, "-c", KILLED, kind, str(path), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1])
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own at `tmp_path / "out"`."""
    folder = tmp_path / "out"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Path]:
    """Another folder of the same disk, mounted at `tmp_path / "out"`, which only a rename tells."""
    folder, other = tmp_path / "out", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    _mount("--bind", str(other), str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.mark.parametrize("place", ["mount", "bind"])
def test_the_content_of_a_mount_point_is_replaced_inside(place: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(place)
    device = path.stat().st_ino
    fill(path, FOLDER)
    replace(path)
    assert content(path) == NEW
    assert path.stat().st_ino == device
    with pytest.raises(KeyError), atomic_directory(path) as folder:  # noqa: PT012
        (folder / "half").write_text("half")
        raise KeyError
    assert content(path) == NEW
    assert sorted(entry.name for entry in path.iterdir()) == ["a.bin", "sub"]
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")] == []


def test_a_full_mount_point_keeps_its_content(mount: Path) -> None:
    fill(mount, FOLDER)
    with pytest.raises(OSError, match="No space left") as caught, atomic_directory(mount) as folder:  # noqa: PT012
        (folder / "sub").mkdir()
        (folder / "sub/large").write_bytes(b"x" * (2 << 20))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(mount))
    assert content(mount) == FOLDER


def test_a_mounted_file_is_overwritten(tmp_path: Path) -> None:
    path, other = tmp_path / "out.csv", tmp_path / "other.csv"
    path.write_text("")
    other.write_text("old and longer")
    _mount("--bind", str(other), str(path))
    try:
        with atomic_file(path) as staging:
            staging.write_text("new")
        assert other.read_text() == path.read_text() == "new"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.csv", "out.csv"]
        for last in range(8):
            other.write_text("old and longer")
            status = run_killed("file", path, last)
            left = {entry.read_text() for entry in tmp_path.iterdir()}
            assert left & {"old and longer", "new"}, (last, left)
            with atomic_file(path) as staging:
                assert path.read_text() in ("old and longer", "new")
                staging.write_text("newer")
            assert other.read_text() == "newer"
            if status == 0:
                return
        pytest.fail("the replacement never ended")
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("place", ["plain", "mount", "bind"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "out" if place == "plain" else request.getfixturevalue(place)
    for last in range(40):
        replaced = last == 0 and place == "plain"
        path.mkdir(exist_ok=True)
        if not replaced:
            with atomic_directory(path) as folder:
                fill(folder, FOLDER)
        else:
            fill(path, FOLDER)
        status = run_killed("folder", path, last)
        everything = {**content(tmp_path), **({} if place == "plain" else content(path))}
        assert {"old a", "new a"} & set(everything.values())
        with pytest.raises(KeyError), atomic_directory(path):  # the next run puts back what is whole, and clears away
            raise KeyError
        assert content(path) in (FOLDER, NEW), (last, content(path))
        assert [name for name in content(tmp_path) if name.split("/")[0] not in ("out", "other")] == []
        if status == 0:
            assert content(path) == NEW
            return
    pytest.fail("the replacement never ended")


def test_the_target_of_a_link_to_a_folder_is_replaced(tmp_path: Path) -> None:
    target, path = tmp_path / "disk/elsewhere", tmp_path / "out"
    fill(target, FOLDER)
    path.symlink_to(target)
    replace(path)
    assert path.is_symlink()
    assert content(target) == NEW
    assert [entry.name for entry in target.parent.iterdir()] == ["elsewhere"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "out"]


def test_the_target_of_a_link_to_a_file_is_replaced(tmp_path: Path) -> None:
    target, path = tmp_path / "elsewhere.csv", tmp_path / "out.csv"
    target.write_text("old")
    path.symlink_to(target.name)
    with atomic_file(path) as staging:
        staging.write_text("new")
    assert path.is_symlink()
    assert target.read_text() == "new"


def test_a_link_into_a_cache_is_replaced_itself(tmp_path: Path) -> None:
    """As DVC links with `cache.type: symlink`; its files are read-only, and other revisions share them."""
    cached, path = tmp_path / "cache/3f", tmp_path / "out.json"
    fill(tmp_path, {"cache/3f": "old"})
    cached.chmod(0o444)
    path.symlink_to(cached)
    with atomic_file(path) as staging:
        staging.write_text("new")
    assert not path.is_symlink()
    assert (path.read_text(), cached.read_text()) == ("new", "old")


@pytest.mark.parametrize("target", ["nowhere", "out"], ids=["dangling", "circular"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, target: str) -> None:
    path = tmp_path / "out"
    path.symlink_to(target)
    for atomic in (atomic_directory, atomic_file):
        with pytest.raises(ArtifactError) as caught, atomic(path):
            pytest.fail("nothing may be written")
        assert str(caught.value) == f"{path}: is a link to {tmp_path / target}, which does not exist"


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NotADirectoryError) as caught, atomic_directory(tmp_path / "out"):
        pytest.fail("nothing may be written")
    assert caught.value.filename == str(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "out") as folder:
            fill(folder, NEW)
            (folder / "a.bin").chmod(0o600)  # as safetensors does
        with atomic_file(tmp_path / "out.csv") as staging:
            staging.write_text("new")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "out": 0o777 & ~umask,
        "sub": 0o777 & ~umask,
        **dict.fromkeys(("a.bin", "b.bin", "out.csv"), 0o666 & ~umask),
    }
