"""Nine million rows in one row group: bad input is named, memory is bounded, a killed or full run leaves nothing."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin.runtime.stage import STAGES
from tests.project import ROOT, copy_project, set_params

pytestmark = pytest.mark.slow

NUM_ROWS, BLOCK_ROWS, BAD_ROW = 9_500_000, 500_000, 9_000_000

# A stage's own libraries take most of this; the file's columns as one table would take another gigabyte.
MEMORY_BYTES = 900 << 20
# While statistics are fitted, 60 to 80 bytes of each row are held: numbers of rows, what is known so far, a statistic.
# Trees hold the bins and gradients of each.
MORE_BYTES = {"train": 500 << 20, "trees": 200 << 20}

SETTINGS = {
    "features.categorical": ["item"],
    "features.numeric": ["price"],
    "features.sequences.0": {"name": "seq", "max_len": 5, "num_buckets": 1024},
    "features.target": ["item"],
    "data.drop": [],
    "split.row_key": ["item", "price", "seq"],
    "train.epochs": 1,
    "train.batch_size": 65536,
    "train.eval_batch_size": 65536,
    "predict.batch_size": 65536,
}


def make_block() -> pa.Table:
    generator = np.random.default_rng(0)
    texts = [",".join(map(str, row)) for row in generator.integers(1, 600, (1000, 20)).tolist()]
    return pa.table(
        {
            "item": pa.array(generator.integers(0, 100, BLOCK_ROWS), pa.int32()),
            "price": pa.array(generator.random(BLOCK_ROWS), pa.float32()),
            "seq": pa.array(texts).take(pa.array(generator.integers(0, 1000, BLOCK_ROWS))),
            "clicked": pa.array((generator.random(BLOCK_ROWS) < 0.1).astype(np.int32)),
        }
    )


def write(path: Path, blocks: Sequence[pa.Table]) -> None:
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.concat_tables(blocks), path, row_group_size=NUM_ROWS, **options)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    block = make_block()
    write(folder / "train.parquet", [block] * (NUM_ROWS // BLOCK_ROWS))
    assert pq.read_metadata(folder / "train.parquet").num_row_groups == 1
    test = block.slice(0, 1000).drop_columns("clicked")
    ids = [f"TEST_{row}" for row in range(test.num_rows)]
    pq.write_table(test.append_column("ID", pa.array(ids)), folder / "test.parquet")
    (folder / "sample_submission.csv").write_text("ID,clicked\n" + "".join(f"{name},0\n" for name in ids))
    return folder


@pytest.fixture
def project(tmp_path: Path, log: Path, small_log: Path) -> Path:
    """A project that reads the large log where it is."""
    folder = copy_project(tmp_path / "project", log=small_log)
    use(folder, log)
    return folder


def use(project: Path, log: Path) -> None:
    names = {"train": "train.parquet", "test": "test.parquet", "sample_submission": "sample_submission.csv"}
    set_params(project / "params.yaml", {**SETTINGS, **{f"data.{key}": str(log / name) for key, name in names.items()}})


def command(stage: str) -> list[str]:
    return [sys.executable, "-m", "stages", stage]


def run(stage: str, project: Path, *, memory_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))

    return subprocess.run(
        command(stage),
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def error_of(stage: str, project: Path) -> str:
    """The one error line of a stage that must fail and leave its outputs as they were."""
    before = digests(project)
    done = run(stage, project)
    assert done.returncode == 1, done.stderr
    assert digests(project) == before
    assert not list((project / "data").glob(".*.tmp"))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line


def digests(project: Path) -> dict[str, str]:
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "metrics")
        for path in (project / folder).rglob("*")
        if path.is_file() and ".tmp" not in str(path)
    }


def test_memory_is_bounded_in_every_stage(project: Path, log: Path) -> None:
    for stage in STAGES:
        done = run(stage, project, memory_bytes=MEMORY_BYTES + MORE_BYTES.get(stage, 0))
        assert done.returncode == 0, done.stderr
    whole_file = "import sys, pyarrow.parquet as pq; pq.read_table(sys.argv[1], use_threads=False)"
    naive = subprocess.run(
        [sys.executable, "-c", whole_file, str(log / "train.parquet")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES)),
        capture_output=True,
        check=False,
    )
    assert naive.returncode != 0  # the limit means something


def test_a_bad_token_far_into_the_file_is_named(project: Path, tmp_path: Path, log: Path) -> None:
    block = make_block()
    texts = block.column("seq").to_pylist()
    texts[BAD_ROW % BLOCK_ROWS] = "1,2,x,4"
    bad = block.set_column(block.schema.get_field_index("seq"), "seq", pa.array(texts))
    blocks = [block] * (NUM_ROWS // BLOCK_ROWS)
    blocks[BAD_ROW // BLOCK_ROWS] = bad
    file = tmp_path / "bad.parquet"
    write(file, blocks)
    set_params(project / "params.yaml", {"data.train": str(file)})
    line = error_of("prepare", project)
    assert line.startswith(f"error: {file}: column seq, row {BAD_ROW}: a token is not an integer: 'x'; expected ")


@pytest.mark.parametrize("damage", ["flip", "zero", "truncate"])
def test_a_damaged_file_is_named(project: Path, tmp_path: Path, log: Path, damage: str) -> None:
    file = tmp_path / "damaged.parquet"
    data = bytearray((log / "train.parquet").read_bytes())
    column = pq.read_metadata(log / "train.parquet").row_group(0).column(2)
    place = column.data_page_offset + column.total_compressed_size * 9 // 10
    if damage == "flip":
        data[place] ^= 1
    elif damage == "zero":
        data[place : place + 65536] = bytes(65536)
    else:
        del data[place:]
    file.write_bytes(data)
    set_params(project / "params.yaml", {"data.train": str(file)})
    line = error_of("prepare", project)
    rule = "not a readable Parquet file" if damage == "truncate" else "cannot be read from here on"
    assert line.startswith(f"error: {file}: ")
    assert rule in line
    if damage != "truncate":
        row = int(line.split(": row ")[1].split(":")[0])
        assert 0.8 * NUM_ROWS < row < NUM_ROWS


def test_a_run_killed_while_it_writes_leaves_the_earlier_output(project: Path) -> None:
    assert run("prepare", project).returncode == 0
    whole = digests(project)
    with subprocess.Popen(
        command("prepare"), cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    ) as process:
        wait_for((project / "data/.prepared.tmp/train/00010.bin").exists)
        process.send_signal(signal.SIGKILL)
    assert digests(project) == whole
    assert run("prepare", project).returncode == 0
    assert digests(project) == whole
    assert not (project / "data/.prepared.tmp").exists()


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """The project's data folder on a file system of 64 MiB."""
    folder = project / "data"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_a_rerun_succeeds(project: Path, small_disk: Path) -> None:
    line = error_of("prepare", project)
    assert line.startswith("error: stage prepare: data/prepared/train/")
    assert line.endswith(": No space left on device")
    assert not list(small_disk.iterdir())
    subprocess.run(["mount", "-o", "remount,size=1g", small_disk], check=True)
    assert run("prepare", project).returncode == 0
    assert run("split", project).returncode == 0


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
