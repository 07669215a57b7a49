"""A tiny project in which stages run in this process, and the verdict on how one ended."""

import contextlib
import copy
import hashlib
import io
import re
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.project import ROOT
from tests.stages.run import run_in_process

ROWS, TEST_ROWS = 400, 60

# A stage of this project takes a tenth of a second; a machine that others use may take a hundred times as long.
LIMIT_SECONDS = 120.0

# The first run also compiles the kernels.
FIRST_SECONDS = 1800.0

# What an `error:` line must name one of: a file, a setting, or the stage whose output has no place.
_NAMES_INPUT = re.compile(
    r"params\.yaml|data/|artifacts/|metrics/|plots/|outputs/|features|split|stage |file not found"
)
_LONGEST_LINE = 1000

SETTINGS: dict[str, Any] = {
    "data": {
        "train": "data/train.parquet",
        "test": "data/test.parquet",
        "sample_submission": "data/sample_submission.csv",
        "label": "clicked",
        "id": "ID",
        "drop": ["unused"],
        "ignore": ["extra_*"],
    },
    "features": {
        "categorical": ["item", "cat", "user"],
        "numeric": ["price", "ts"],
        "sequences": [
            {"name": "seq", "max_len": 6, "vocabulary_of": "item"},
            {"name": "recent", "max_len": 4, "num_buckets": 64},
        ],
        "target": ["item"],
        "num_buckets": 64,
        "num_buckets_of": {"user": 128},
        "hash_seed": 0,
    },
    "split": {"val_ratio": 0.3, "row_key": ["user", "item", "ts"], "time_val_ratio": 0.3},
    "prepare": {"shard_rows": 150, "batch_rows": 64, "num_threads": 1},
    "model": {"embedding_dim": 4, "attention_dim": 4, "num_layers": 1, "num_rows": 1},
    "train": {
        "device": "cpu",
        "precision": "fp32",
        "num_threads": 1,
        "batch_size": 128,
        "warmup_steps": 1,
        "epochs": 1,
        "checks_per_epoch": 1,
    },
    "trees": {"max_rounds": 4, "patience": 2},
    "evaluate": {"num_bins": 5, "num_curve_points": 20, "importance_rows": 100},
}


class OverTime(BaseException):
    """A stage ran longer than it may; no handler of the pipeline's may take it for its own."""


@dataclass
class Ended:
    """How a stage ended: its status, the lines it printed, the traceback of what it let through."""

    stage: str
    status: int | None
    lines: list[str]
    escaped: str | None = None


@dataclass
class Sandbox:
    """A project whose stages have run; `put_back` undoes all that a mutation and its stages did.

    Attributes:
        folder: The project, which is the current folder.
        whole: Content of each file after the intact run, by path.
    """

    folder: Path
    whole: dict[str, bytes] = field(default_factory=dict)

    def remember(self) -> None:
        """Take the present files for the intact ones."""
        self.whole = self.files()

    def files(self) -> dict[str, bytes]:
        """Content of all files but the scratch folder's."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".qin" not in path.parts
        }

    def put_back(self) -> None:
        """Restore every file and remove those that were not there."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or (path.is_file() and name not in self.whole):
                path.unlink()
            elif path.is_dir() and not any(known.startswith(f"{name}/") for known in self.whole):
                shutil.rmtree(path)
        for name, content in self.whole.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    def run(self, stages: Sequence[str], *, seconds: float = LIMIT_SECONDS) -> list[Ended]:
        """Run stages until one does not succeed.

        Args:
            stages: In order.
            seconds: How long each may take.
        """
        ended = []
        for stage in stages:
            ended.append(_run(stage, seconds=seconds))
            if ended[-1].status != 0:
                break
        return ended


def verdict(ended: Ended, before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """What is wrong with how a stage ended, whatever it was given."""
    faults = []
    if ended.escaped is not None:
        faults.append(f"{ended.stage}: {ended.escaped}")
    elif ended.status not in (0, 1):
        faults.append(f"{ended.stage}: status {ended.status}")
    said = [line for line in ended.lines if line.startswith("error: ")]
    if ended.status == 1:
        if not said:
            faults.append(f"{ended.stage}: ends with 1 and says nothing")
        faults += [f"{ended.stage}: names nothing of the input: {line[:300]!r}" for line in said if not _helps(line)]
    if ended.status != 0:
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        faults.extend([f"{ended.stage}: failed and changed {', '.join(changed)}"] if changed else [])
    return faults


def _helps(line: str) -> bool:
    return _NAMES_INPUT.search(line) is not None and len(line) <= _LONGEST_LINE


def digest(files: dict[str, bytes]) -> dict[str, str]:
    """Short names of contents, for a readable difference."""
    return {name: hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()}


def columns(rows: int, *, seed: int) -> dict[str, pa.Array]:
    """The columns of a tiny log: text, whole and real numbers with gaps, a text and a list history, a time."""
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, 30, count).tolist() for count in generator.integers(0, 9, rows)]
    gaps = generator.random(rows) < 0.1
    price = generator.normal(size=rows)
    return {
        "user": pa.array([f"u{number}" for number in generator.integers(0, 60, rows)]),
        "item": pa.array(generator.integers(1, 30, rows)),
        "cat": pa.array([None if gap else "abc"[row % 3] for row, gap in enumerate(gaps)]),
        "price": pa.array(price, mask=gaps),
        "seq": pa.array([",".join(map(str, tokens)) for tokens in lists]),
        "recent": pa.array([tokens[:5] for tokens in lists]),
        "ts": pa.array(1_650_000_000 + np.sort(generator.integers(0, 864_000, rows))),
        "unused": pa.array(np.zeros(rows, np.int8)),
    }


def write_project(folder: Path) -> Sandbox:
    """Write params.yaml and raw files; the stages have not run yet."""
    (folder / "data").mkdir(parents=True)
    train, test = columns(ROWS, seed=0), columns(TEST_ROWS, seed=1)
    price = np.nan_to_num(np.array(train["price"].to_pylist(), float))
    clicked = np.random.default_rng(2).random(ROWS) < 1 / (1 + np.exp(1.0 - price))
    ids = [f"T{row}" for row in range(TEST_ROWS)]
    pq.write_table(pa.table({**train, "clicked": pa.array(clicked.astype(np.int8))}), folder / "data/train.parquet")
    pq.write_table(pa.table({"ID": pa.array(ids), **test}), folder / "data/test.parquet")
    text = "ID,clicked\n" + "".join(f"{name},0\n" for name in ids)
    (folder / "data/sample_submission.csv").write_text(text, encoding="utf-8", newline="")
    write_settings(folder, settings())
    return Sandbox(folder)


def settings() -> dict[str, Any]:
    """The project's own params.yaml with the tiny sizes, as plain values."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in SETTINGS.items():
        tree[section].update(copy.deepcopy(values))
    return tree


def write_settings(folder: Path, tree: Any) -> None:
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def _run(stage: str, *, seconds: float) -> Ended:
    said = io.StringIO()
    status: int | None = 0
    escaped: str | None = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            with _limit(seconds):
                run_in_process(stage)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else None
        except (Exception, OverTime):
            status, escaped = None, traceback.format_exc(limit=-4)
    return Ended(stage, status, said.getvalue().splitlines(), escaped)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise OverTime in this thread after some seconds of wall clock."""
    started = time.monotonic()

    def end(_: int, __: FrameType | None) -> NoReturn:
        raise OverTime(f"still running after {time.monotonic() - started:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
