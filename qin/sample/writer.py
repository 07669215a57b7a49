"""Write a sample's files: all of them or none."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from qin.runtime.errors import ArtifactError, ConfigError
from qin.runtime.progress import Progress
from qin.sample.blocks import feature_schema, make_block, num_blocks, truth_schema
from qin.sample.columns import LABEL, REFERENCE_TEST_ROWS, REFERENCE_TRAIN_ROWS, ROW_ID
from qin.sample.row_groups import RowGroupWriter
from qin.sample.streams import Split

MAX_ROW_GROUP_ROWS = 1_000_000
_FEATURES = {Split.TRAIN: Path("train.parquet"), Split.TEST: Path("test.parquet")}
_TRUTH = {Split.TRAIN: Path("truth/train.parquet"), Split.TEST: Path("truth/test.parquet")}
_SUBMISSION = Path("sample_submission.csv")
# The inputs last, train at the very end: where it is there, all else is.
SAMPLE_FILES = (*_TRUTH.values(), _SUBMISSION, *reversed(_FEATURES.values()))
"""Every file of a sample, relative to its folder, in the order in which they are put in place."""


class SampleSize(NamedTuple):
    """How many rows a sample has.

    Attributes:
        train_rows: Rows of `train.parquet`.
        test_rows: Rows of `test.parquet`.
        row_group_rows: Rows of a parquet row group.
    """

    train_rows: int
    test_rows: int
    row_group_rows: int = MAX_ROW_GROUP_ROWS


def sample_size(train_rows: int, *, test_rows: int | None = None, row_group_rows: int | None = None) -> SampleSize:
    """Fill in what is not given: a test file in the reference's proportion, row groups of at most a million rows.

    Raises:
        ConfigError: A number of rows is below 1.
    """
    if test_rows is None:
        test_rows = max(1, round(train_rows * REFERENCE_TEST_ROWS / REFERENCE_TRAIN_ROWS))
    if row_group_rows is None:
        row_group_rows = MAX_ROW_GROUP_ROWS
    given = {"--rows": train_rows, "--test-rows": test_rows, "--row-group-rows": row_group_rows}
    for option, value in given.items():
        if value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    return SampleSize(train_rows=train_rows, test_rows=test_rows, row_group_rows=row_group_rows)


def write_sample(out: Path, *, seed: int, size: SampleSize, overwrite: bool = False) -> None:
    """Write train, test, sample submission and truth; nothing is put in place before all are complete.

    Args:
        out: The sample's folder, created where it is missing.
        seed: Seed of every draw, at least 0.
        size: Numbers of rows.
        overwrite: Whether files that are already there may be replaced.

    Raises:
        ConfigError: The seed is negative.
        ArtifactError: A file is already there, or the folder cannot be written.
    """
    if seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {seed}")
    existing = [out / file for file in SAMPLE_FILES if (out / file).exists()]
    if existing and not overwrite:
        raise ArtifactError(f"will not replace {', '.join(map(str, existing))}; --overwrite does")
    try:
        with _staging_folder(out) as staging:
            _write_split(staging, split=Split.TRAIN, seed=seed, num_rows=size.train_rows, size=size)
            _write_split(staging, split=Split.TEST, seed=seed, num_rows=size.test_rows, size=size)
            (out / "truth").mkdir(exist_ok=True)
            for file in SAMPLE_FILES:
                (staging / file).replace(out / file)
    except OSError as error:
        raise ArtifactError(f"cannot write the sample into {out}: {error}") from error


@contextmanager
def _staging_folder(out: Path) -> Iterator[Path]:
    """A folder beside the targets, so that a rename is atomic; removed whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".sample-", dir=out))
    try:
        (staging / "truth").mkdir()
        yield staging
    finally:
        shutil.rmtree(staging)


def _write_split(staging: Path, *, split: Split, seed: int, num_rows: int, size: SampleSize) -> None:
    columns = RowGroupWriter(staging / _FEATURES[split], schema=feature_schema(split), group_rows=size.row_group_rows)
    truth = RowGroupWriter(staging / _TRUTH[split], schema=truth_schema(split), group_rows=size.row_group_rows)
    with columns, truth, Progress(num_rows, label=f"sample {split.name.lower()}") as progress:
        for block in range(num_blocks(num_rows)):
            made = make_block(block, seed=seed, split=split, num_rows=num_rows)
            columns.write(made.features)
            truth.write(made.truth)
            progress.advance(made.truth.num_rows)
            if split is Split.TEST:
                _append_submission(staging / _SUBMISSION, made.features[ROW_ID])


def _append_submission(path: Path, row_ids: pa.ChunkedArray) -> None:
    with path.open("a", encoding="ascii", newline="") as file:
        if file.tell() == 0:
            file.write(f"{ROW_ID},{LABEL}\n")
        file.writelines(f"{row_id},0\n" for row_id in row_ids.to_pylist())
