"""`qin check`: what a run would stumble over, found in a second without running anything."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qin.columns.resolve import check_test_columns, resolve_schema, scalar_columns
from qin.columns.schema import Schema
from qin.config import Params, load_params
from qin.features.derived import check_impression_columns, with_derived
from qin.raw.log import open_log
from qin.raw.sample_ids import read_sample_ids
from qin.runtime.errors import DataError, QinError
from qin.shards.files import layout
from qin.split.columns import KeyColumns
from qin.split.early import check_later_columns

_GIB = 2**30
_CACHE_COPIES = 2  # the workspace's and DVC's; one where the file system can link

Found = TypeVar("Found")


def check_project(file: Path) -> list[str]:
    """Check settings, files, columns and disk space.

    Args:
        file: The settings.

    Returns:
        Lines that say what is there.

    Raises:
        QinError: With a line for each problem that was found.
    """
    params = load_params(file)
    problems: list[str] = []
    lines = [f"{file}: valid"]
    schema = _noted(problems, lambda: _schema(params))
    prepared = None if schema is None else _noted(problems, lambda: _with_derived(params, schema))
    if schema is not None:
        _noted(problems, lambda: _check_later(params))
    if prepared is not None:  # its problems are those of the split as well
        _noted(problems, lambda: _check_keys(params))
    _noted(problems, lambda: _check_ids(params))
    if params.train.init_from is not None:
        from qin.train.warm_start import read_earlier  # noqa: PLC0415 -- PyTorch takes seconds

        _noted(problems, lambda: read_earlier(params))
    data = params.data
    if schema is not None:
        # Opened once more, footers alone: only here are both files known to be in order.
        num_train = open_log(data.train).num_rows
        num_test = 0 if data.test is None else open_log(data.test).num_rows
        lines.append(f"{data.train_name}: {num_train:,} rows; {data.test_name}: {num_test:,} rows")
        lines.append(
            f"columns: {len(schema.categorical)} categorical, {len(schema.numeric)} numeric, "
            f"{len(schema.sequences)} sequences"
        )
        if prepared is not None:
            lines += _noted(problems, lambda: _space(prepared, num_rows=num_train + num_test)) or []
    if problems:
        raise DataError(*problems)
    return [*lines, "nothing is in the way of `dvc repro`"]


def _noted(problems: list[str], work: Callable[[], Found]) -> Found | None:
    """What a check finds, or None with its lines noted."""
    try:
        return work()
    except QinError as error:
        problems += error.args
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
    return None


def _schema(params: Params) -> Schema:
    """The columns of the train file that are inputs, which the rows to predict must have, too."""
    data, features = params.data, params.features
    train = open_log(data.train).schema
    schema = resolve_schema(train, data=data, features=features)
    if data.test is not None:
        test = open_log(data.test).schema
        check_test_columns(test, schema, data=data, features=features, train=train)
    return schema


def _with_derived(params: Params, schema: Schema) -> Schema:
    """The schema of the rows that prepare will write, with the numbers that it derives of both files."""
    data, features = params.data, params.features
    prepared = with_derived(schema, columns=open_log(data.train).schema, features=features, file=data.train_name)
    if data.test is not None:
        check_impression_columns(open_log(data.test).schema, features, file=data.test_name)
    return prepared


def _check_later(params: Params) -> None:
    """The columns that stages after the split read of the raw files."""
    train = open_log(params.data.train).schema
    test = None if params.data.test is None else open_log(params.data.test).schema
    check_later_columns(params, train=train, test=test)


def _check_keys(params: Params) -> None:
    """The columns that divide rows."""
    data, features, log = params.data, params.features, open_log(params.data.train)
    scalars, key = scalar_columns(log.schema.names, data=data, features=features), features.impression.key
    KeyColumns.of(log, data, params.split, target=features.target, features=scalars, impression=key)


def _check_ids(params: Params) -> None:
    """The sample submission has as many ids as there are rows to predict."""
    sample = params.data.sample_submission
    if params.data.test is None or sample is None:
        return
    num_ids, num_rows = len(read_sample_ids(sample)[1]), open_log(params.data.test).num_rows
    if num_ids != num_rows:
        raise DataError(f"{sample}: {num_ids:,} ids, {params.data.test_name} has {num_rows:,} rows")


def _space(schema: Schema, *, num_rows: int) -> list[str]:
    """Disk that the prepared rows take, and what is free."""
    row_bytes = sum(group.row_bytes for group in layout(schema, with_label=True))
    needed, free = _CACHE_COPIES * row_bytes * num_rows, shutil.disk_usage(".").free
    shown = f"disk: prepared rows take about {needed / _GIB:.2f} GiB with DVC's copy, {free / _GIB:.2f} GiB are free"
    if needed > free:
        raise DataError(shown)
    return [shown]
