"""Turn drawn rows into Arrow tables: the file's columns, and the truth beside them."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qin.sample.columns import (
    A_FEATURES,
    AGE_GROUPS,
    DAYS,
    GENDERS,
    HOURS,
    INVENTORY_IDS,
    JOINT_NULL_COLUMNS,
    LABEL,
    ROW_ID,
    test_schema,
    train_schema,
)
from qin.sample.rows import Rows, draw_rows
from qin.sample.streams import Split, Streams
from qin.sample.truth import Logit, click_logit
from qin.sample.world import hidden_world

BLOCK_ROWS = 50_000  # part of the sample: another number draws other rows
DAY_ORDER = (3, 6, 1, 4, 0, 5, 2)
"""Zero-based days in file order: each is one contiguous run, and the file is not time-ordered."""
_TEST_DAY = 6
_DUPLICATE_EVERY_BLOCKS = 20
_VALUES = {
    "gender": GENDERS,
    "age_group": AGE_GROUPS,
    "inventory_id": INVENTORY_IDS,
    "day_of_week": DAYS,
    "hour": HOURS,
}


class Block(NamedTuple):
    """A run of rows, ready to write.

    Attributes:
        features: The columns of `train.parquet` or `test.parquet`.
        truth: Click probability, the parts of its logit and, for test, the label.
    """

    features: pa.Table
    truth: pa.Table


def truth_schema(split: Split) -> pa.Schema:
    """Arrow schema of `truth/<split>.parquet`."""
    parts = [(name, pa.float32()) for name in Logit._fields]
    label = [(LABEL, pa.int32())] if split is Split.TEST else []
    return pa.schema([("probability", pa.float64()), *parts, *label])


def feature_schema(split: Split) -> pa.Schema:
    """Arrow schema of `<split>.parquet`."""
    return train_schema() if split is Split.TRAIN else test_schema()


def make_block(block: int, *, seed: int, split: Split, num_rows: int) -> Block:
    """Draw one block of a file.

    Args:
        block: Number of the block; it starts at row `block * BLOCK_ROWS`.
        seed: The sample's seed.
        split: The file.
        num_rows: Rows of the whole file.

    Returns:
        The block's rows. The same row of a longer file differs in its day, and so in its probability and
        label, and in nothing else.
    """
    start = block * BLOCK_ROWS
    stop = min(start + BLOCK_ROWS, num_rows)
    days = _days(start, stop, num_rows=num_rows, split=split)
    streams = Streams(seed=seed, split=split, block=block)
    rows = draw_rows(days, streams=streams)
    logit = click_logit(rows, world=hidden_world())
    probability = logit.probability
    # A stream of its own, so that another effect in the logit leaves all columns as they are.
    clicked = (streams.generator(LABEL).random(len(days)) < probability).astype(np.int32)

    columns = _feature_columns(rows)
    parts = zip(Logit._fields, logit, strict=True)
    truth = {name: pa.array(part.astype(np.float32)) for name, part in parts}
    truth["probability"] = pa.array(probability)
    if split is Split.TRAIN:
        columns[LABEL] = pa.array(clicked)
    else:
        columns[ROW_ID] = _row_ids(start, stop)
        truth[LABEL] = pa.array(clicked)
    made = Block(
        features=_table(columns, schema=feature_schema(split)),
        truth=_table(truth, schema=truth_schema(split)),
    )
    # Of one day, or the copy would stand in the run of another day.
    if split is Split.TRAIN and block % _DUPLICATE_EVERY_BLOCKS == 0 and len(days) > 1 and days[0] == days[1]:
        return Block(*(_repeat_first_row(table) for table in made))
    return made


def num_blocks(num_rows: int) -> int:
    """Blocks of a file of `num_rows` rows."""
    return -(-num_rows // BLOCK_ROWS)


def _days(start: int, stop: int, *, num_rows: int, split: Split) -> NDArray[np.int64]:
    """Zero-based day of each row: seven runs of equal size in train, the last day in test."""
    if split is Split.TEST:
        return np.full(stop - start, _TEST_DAY, dtype=np.int64)
    run = np.arange(start, stop, dtype=np.int64) * len(DAY_ORDER) // num_rows
    return np.array(DAY_ORDER, dtype=np.int64)[run]


def _feature_columns(rows: Rows) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {"seq": rows.sequences}
    for name, codes in rows.codes.items():
        mask = rows.is_joint_null if name in JOINT_NULL_COLUMNS else None
        if name in _VALUES:
            columns[name] = pa.array(_VALUES[name]).take(pa.array(codes, mask=mask))
        else:
            columns[name] = pa.array((codes + 1).astype(np.float32), mask=mask)
    for name, values in rows.numerics.items():
        columns[name] = pa.array(values, mask=_null_mask(name, rows))
    return columns


def _null_mask(name: str, rows: Rows) -> NDArray[np.bool_] | None:
    if name in A_FEATURES:
        return rows.is_feat_a_null
    if name == "feat_e_3":
        return rows.is_feat_e_3_null
    return rows.is_joint_null if name in JOINT_NULL_COLUMNS else None


def _row_ids(start: int, stop: int) -> pa.StringArray:
    digits = pc.utf8_lpad(pa.array(np.arange(start, stop)).cast(pa.string()), width=7, padding="0")
    return pc.binary_join_element_wise("TEST_", digits, "")


def _table(columns: dict[str, pa.Array], *, schema: pa.Schema) -> pa.Table:
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _repeat_first_row(table: pa.Table) -> pa.Table:
    """The table with its second row replaced by a copy of its first: one exact duplicate."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)])
