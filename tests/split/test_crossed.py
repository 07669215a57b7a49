"""Folds of cross-validation: every row is judged once, what a method keeps whole stays whole, time walks forward."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.config import SplitParams
from qin.raw.times import TimeColumn, TimeForm
from qin.runtime.errors import ConfigError, DataError
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, Assignment
from qin.split.audit import audit, check
from qin.split.columns import SplitColumns
from qin.split.crossed import DIVISIONS, check_cover, divide, grouped_folds, stratified_folds
from tests.split.test_methods import random_groups, random_hashes

SETTINGS = settings(max_examples=60, deadline=None)
FOLDS = st.integers(2, 6)


def split_of(method: Any, num_folds: int, **changes: Any) -> SplitParams:
    values = {"group_key": "user", "session_key": "session", "time_col": "day", "time_val_ratio": 0.2, **changes}
    return SplitParams(method=method, num_folds=num_folds, seed=0, val_ratio=0.3, **values)


def columns_of(num_rows: int, *, seed: int) -> SplitColumns:
    generator = np.random.default_rng(seed)
    user = random_hashes(60, seed=seed + 1)[generator.integers(0, 60, num_rows)]
    is_missing = generator.random(num_rows) < 0.1
    user[is_missing] = random_hashes(num_rows, seed=seed + 4)[is_missing]  # each is one of its own
    return SplitColumns(
        label=(generator.random(num_rows) < 0.3).astype(np.uint8),
        row_hash=random_hashes(num_rows, seed=seed + 2),
        time=generator.integers(0, 40, num_rows),
        time_column=TimeColumn("f", "day", TimeForm.NUMBER),
        keys={"target": random_hashes(num_rows, seed=seed + 3), "group": user, "session": user ^ np.uint64(1)},
        missing={"group": is_missing, "session": is_missing},
    )


def test_every_method_of_the_settings_divides() -> None:
    assert set(get_args(SplitParams.model_fields["method"].annotation)) == set(DIVISIONS)


@SETTINGS
@given(st.integers(1, 400), st.floats(0, 1), FOLDS, st.integers(0, 99))
def test_stratified_folds_are_exact_in_each_class(num_rows: int, base_rate: float, num_folds: int, seed: int) -> None:
    label = (np.random.default_rng(seed).random(num_rows) < base_rate).astype(np.uint8)
    number = stratified_folds(label, random_hashes(num_rows, seed=seed), num_folds=num_folds)
    for value in (0, 1):
        sizes = np.bincount(number[label == value], minlength=num_folds)
        assert sizes.size == num_folds
        assert np.ptp(sizes) <= 1


@SETTINGS
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), FOLDS, st.integers(0, 99))
def test_groups_are_never_divided_and_order_does_not_matter(sizes: list[int], num_folds: int, seed: int) -> None:
    group_hash = random_groups(sizes, seed=seed)
    number = grouped_folds(group_hash, num_folds=num_folds).number
    for group in np.unique(group_hash):
        assert np.unique(number[group_hash == group]).size == 1
    order = np.random.default_rng(seed).permutation(group_hash.size)
    assert grouped_folds(group_hash[order], num_folds=num_folds).number.tolist() == number[order].tolist()


@pytest.mark.parametrize("sizes", [[1] * 3000, [7] * 900, [2000, 900, 900, *[3] * 700], [4000, *[1] * 4000]])
def test_folds_of_groups_have_about_the_same_number_of_rows(sizes: list[int]) -> None:
    number = grouped_folds(random_groups(sizes, seed=4), num_folds=4).number
    wanted = max(sum(sizes) / 4, sizes[0])  # a group that is larger than a fold fills one alone
    assert np.bincount(number, minlength=4).max() <= wanted + max(0.003 * sum(sizes), 7)


def test_rows_without_a_group_are_divided_evenly_by_themselves() -> None:
    group_hash, is_missing = random_hashes(400, seed=5), np.arange(400) < 200
    group_hash[~is_missing] = group_hash[-1]  # all the others are one user
    number = grouped_folds(group_hash, num_folds=4, is_missing=is_missing).number
    assert np.bincount(number[is_missing]).tolist() == [50] * 4
    assert np.unique(number[~is_missing]).size == 1


@pytest.mark.parametrize("method", [name for name in DIVISIONS if name != "time"])
def test_drawn_folds_judge_every_row_once_and_pass_the_audit(method: str) -> None:
    columns = columns_of(3000, seed=1)
    assignments = divide(columns, split_of(method, 4), file="f")
    judged = sum((assignment.fold == VALIDATION).astype(int) for assignment in assignments)
    assert judged.tolist() == [1] * 3000
    for assignment in assignments:
        assert set(assignment.fold.tolist()) == {TRAIN, VALIDATION}
        check(audit(columns, assignment, method=method), file="f")
    check_cover(assignments, method=method, file="f")


@pytest.mark.parametrize(("method", "key"), [("group_user", "group"), ("group_session", "session")])
def test_groups_are_counted_in_all_and_in_each_fold(method: str, key: str) -> None:
    columns = columns_of(3000, seed=1)
    is_grouped = ~columns.missing[key]
    groups, counts = np.unique(columns.keys[key][is_grouped], return_counts=True)
    for assignment in divide(columns, split_of(method, 4), file="f"):
        assert assignment.details == {
            "num_groups": groups.size,
            "num_groups_val": np.unique(columns.keys[key][is_grouped & (assignment.fold == VALIDATION)]).size,
            "largest_group": counts.max(),
        }


def test_one_fold_is_the_split_as_ever() -> None:
    columns, split = columns_of(500, seed=2), split_of("stratified", 1)
    [assignment] = divide(columns, split, file="f")
    assert abs((assignment.fold == VALIDATION).mean() - split.val_ratio) < 0.01
    assert set(assignment.thresholds) == {"label_0", "label_1"}


def test_time_walks_forward() -> None:
    """Each model sees all that is before its own stretch, and nothing after it; the last is the split of one fold."""
    columns = columns_of(2000, seed=3)
    assert columns.time is not None
    assignments = divide(columns, split_of("time", 3), file="f")
    [alone] = divide(columns, split_of("time", 1), file="f")
    assert assignments[-1].fold.tolist() == alone.fold.tolist()
    assert assignments[-1].details["boundary"] == alone.details["boundary"]
    for assignment, later in zip(assignments, [*assignments[1:], None], strict=True):
        is_train, is_val = assignment.fold == TRAIN, assignment.fold == VALIDATION
        assert columns.time[is_train].max() < columns.time[is_val].min()
        assert abs(is_val.mean() - 0.2) < 0.03
        check(audit(columns, assignment, method="time"), file="f")
        if later is not None:
            assert ((later.fold == TRAIN) == (is_train | is_val)).all()
            assert (assignment.fold[later.fold == VALIDATION] == EXCLUDED).all()
    check_cover(assignments, method="time", file="f")


def test_an_embargo_holds_before_each_stretch() -> None:
    columns = columns_of(2000, seed=3)
    assert columns.time is not None
    for assignment in divide(columns, split_of("time", 3, time_embargo=2.0), file="f"):
        first = columns.time[assignment.fold == VALIDATION].min()
        assert columns.time[assignment.fold == TRAIN].max() == first - 2
        assert (assignment.fold[(columns.time > first - 2) & (columns.time < first)] == EXCLUDED).all()


def test_too_few_times_for_so_many_folds() -> None:
    columns = columns_of(200, seed=4)
    assert columns.time is not None
    columns.time[:] = columns.time > 30
    with pytest.raises(ConfigError, match=r"^params\.yaml: split: num_folds 3 with time_val_ratio 0\.2: rows of one "):
        divide(columns, split_of("time", 3), file="f")


def test_a_fold_without_clicks_is_named() -> None:
    columns = columns_of(300, seed=5)
    columns.label[:] = np.arange(300) < 2
    with pytest.raises(DataError, match=r"^f: split\.method stratified: fold \d of 3: the \w+ fold has \d+ rows"):
        divide(columns, split_of("stratified", 3), file="f")


def test_a_row_that_two_models_judge_ends_the_stage() -> None:
    fold = np.array([VALIDATION, TRAIN, TRAIN], np.uint8)
    with pytest.raises(DataError, match=r"1 rows are in the validation folds of several models, 2 in none; must be 0$"):
        check_cover([Assignment(fold, {}, {}), Assignment(fold, {}, {})], method="stratified", file="f")


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("stratified", {"thresholds": {"label_0": 1}}, "thresholds must be null"),
        ("time", {"time_val_start": 5}, "time_val_start must be null"),
        ("time", {"time_val_ratio": 0.4}, "num_folds 3 of time_val_ratio 0.4 leave no rows to train on"),
    ],
)
def test_settings_that_do_not_go_with_folds(method: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split_of(method, 3, **changes)
