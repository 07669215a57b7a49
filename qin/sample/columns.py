"""Column names, types and published vocabularies of the reference log, in file order."""

import pyarrow as pa

GENDERS = ("1.0", "2.0")
AGE_GROUPS = tuple(f"{age}.0" for age in range(1, 9))
INVENTORY_IDS = tuple(str(number) for number in (2, 8, 11, 19, 21, 29, 31, 36, 37, 39, 41, 42, 43, 46, 88, 91, 92, 95))
DAYS = tuple(str(day) for day in range(1, 8))
HOURS = tuple(f"{hour:02d}" for hour in range(24))

NUM_TOKENS = 594  # of the reference log, as the numbers below
MAX_SEQUENCE_LENGTH = 14_441

REFERENCE_TRAIN_ROWS = 10_704_179
REFERENCE_TEST_ROWS = 1_527_298


def _numbered(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}_{number}" for number in range(1, count + 1))


STRING_COLUMNS = ("gender", "age_group", "inventory_id", "day_of_week", "hour", "seq")
L_FEATURES = _numbered("l_feat", 27)
A_FEATURES = _numbered("feat_a", 18)
B_FEATURES = _numbered("feat_b", 6)
C_FEATURES = _numbered("feat_c", 8)
D_FEATURES = _numbered("feat_d", 6)
E_FEATURES = _numbered("feat_e", 10)
HISTORY_A = _numbered("history_a", 7)
HISTORY_B = _numbered("history_b", 30)
FLOAT_COLUMNS = (
    *L_FEATURES,
    *E_FEATURES,
    *D_FEATURES,
    *C_FEATURES,
    *B_FEATURES,
    *A_FEATURES,
    *HISTORY_A,
    *HISTORY_B,
)
LABEL = "clicked"
ROW_ID = "ID"

NUM_VALUES = {
    **dict.fromkeys(("l_feat_1", "l_feat_13", "l_feat_16"), 2),
    "l_feat_3": 3,
    "l_feat_27": 5,
    "l_feat_26": 18,
    "l_feat_4": 26,
    "l_feat_10": 262,
    "l_feat_7": 313,
    "l_feat_9": 476,
    "l_feat_17": 476,
    "l_feat_6": 900,
    "l_feat_5": 1_076,
    "l_feat_11": 1_524,
    "l_feat_25": 1_788,
    "l_feat_15": 2_582,
    "l_feat_14": 3_237,
    "l_feat_12": 5_050,
}
"""Published distinct values of the `l_feat_*` columns; the ones left out are not published."""

ASSUMED_NUM_VALUES = {
    "l_feat_2": 12,
    "l_feat_8": 40,
    "l_feat_18": 9,
    "l_feat_19": 60,
    "l_feat_20": 1,
    "l_feat_21": 4,
    "l_feat_22": 150,
    "l_feat_23": 1,
    "l_feat_24": 7,
}
"""Distinct values chosen here where nothing is published; 20 and 23 are constant or null."""

JOINT_NULL_RATE = 17_208 / REFERENCE_TRAIN_ROWS
FEAT_A_NULL_RATE = 18_598 / REFERENCE_TRAIN_ROWS
FEAT_E_3_NULL_RATE = 0.10
JOINT_NULL_COLUMNS = frozenset(
    (
        *("gender", "age_group"),
        *ASSUMED_NUM_VALUES,
        *B_FEATURES,
        *C_FEATURES,
        *D_FEATURES,
        *(name for name in E_FEATURES if name != "feat_e_3"),
        *HISTORY_A,
        *HISTORY_B,
    )
)
"""Columns that are null together, in the same rows."""


def train_schema() -> pa.Schema:
    """Arrow schema of `train.parquet`: 119 columns, the label last."""
    return pa.schema([*_feature_fields(), (LABEL, pa.int32())])


def test_schema() -> pa.Schema:
    """Arrow schema of `test.parquet`: 119 columns, the row ID first and no label."""
    return pa.schema([(ROW_ID, pa.string()), *_feature_fields()])


def _feature_fields() -> list[tuple[str, pa.DataType]]:
    strings = [(name, pa.string()) for name in STRING_COLUMNS]
    return strings + [(name, pa.float32()) for name in FLOAT_COLUMNS]
