"""What later stages will ask of the raw files, looked up before anything is trained."""

import pyarrow as pa

from qin.columns.counted import COSINES, MEASURES, counted_fields, counted_problems, statistic_names
from qin.columns.patterns import expanded
from qin.columns.resolve import are_alike
from qin.columns.types import is_groupable, value_type
from qin.config import DataParams, Params
from qin.runtime.errors import SchemaError, did_you_mean


def check_later_columns(params: Params, *, train: pa.Schema, test: pa.Schema | None) -> None:
    """Check the columns that train counts by, and that calibrate, evaluate and predict read of the raw files.

    Args:
        params: Sections calibration, data, evaluate and features.
        train: The train file's Arrow schema.
        test: The test file's; None without one.

    Raises:
        SchemaError: Naming each column that is missing, or whose values cannot be told apart.
    """
    data, by = params.data, params.calibration.by
    named = [("evaluate.slices", name, data.train_name, train) for name in params.evaluate.slices]
    if by is not None:
        named.append(("calibration.by", by, data.train_name, train))
    if by is not None and test is not None:
        named.append(("calibration.by", by, data.test_name, test))
    problems = []
    for key, name, file, columns in named:
        if name not in columns.names:
            problems.append(f"{file}: {key}: no column {name}{did_you_mean(name, columns.names)}")
        elif not is_groupable(columns.field(name).type):
            problems.append(f"{file}: {key}: column {name}: type {columns.field(name).type} cannot group rows")
    if by is not None and test is not None and by in train.names and by in test.names:
        problems += _segments_apart(params.data, by, train=train.field(by), test=test.field(by))
    problems += [f"params.yaml: {problem}" for problem in _statistics_problems(params, train.names)]
    problems = problems or _taken_names(params, train)
    if problems:
        raise SchemaError(*problems)


def _segments_apart(data: DataParams, by: str, *, train: pa.Field, test: pa.Field) -> list[str]:
    """A line where the shift of a segment might not find its rows to predict."""
    if not (is_groupable(train.type) and is_groupable(test.type)) or are_alike(test, train):
        return []
    return [
        f"{data.test_name}: calibration.by: column {by}: type {value_type(test.type)}, but {value_type(train.type)} in "
        "the train file; equal values would be two segments, so store both as one type"
    ]


def _taken_names(params: Params, train: pa.Schema) -> list[str]:
    """A line for each column that is called as a statistic will be."""
    if not params.features.statistics.enable:
        return []
    features, knobs, known = params.features, params.features.statistics, dict.fromkeys(train.names)
    counted = counted_fields(
        knobs.fields,
        knobs.listed_pairs,
        categorical=list(dict.fromkeys(name for _, name in expanded(features.categorical, known))),
        sequences=[sequence.name for sequence in features.sequences],
        target=features.target,
        user=params.split.group_key,
    )
    names = {name for fields in counted for name in statistic_names(fields, (*MEASURES, *COSINES))}
    taken = names & {name for _, name in expanded(features.numeric, known)}
    return [
        f"{params.data.train_name}: column {name}: this is the name of a statistic; rename it, or set "
        "features.statistics.enable: false"
        for name in sorted(taken)
    ]


def _statistics_problems(params: Params, names: list[str]) -> list[str]:
    features, knobs, labels = params.features, params.features.statistics, params.data.labels
    if not knobs.enable:
        return []
    return counted_problems(
        knobs.fields,
        knobs.listed_pairs,
        categorical=[name for _, name in expanded(features.categorical, dict.fromkeys(names)) if name not in labels],
        sequences=[sequence.name for sequence in features.sequences],
    )
