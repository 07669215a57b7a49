"""Invariants of the four splits on random labels, hashes and times."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin.config import SplitParams
from qin.runtime.errors import DataError
from qin.shards.folds import EXCLUDED, TRAIN, VALIDATION, Assignment
from qin.split.audit import audit, audits_by_label, check
from qin.split.columns import SplitColumns
from qin.split.methods import METHODS, Method, assign_folds, grouped, stratified
from qin.split.timed import by_time

Hashes = npt.NDArray[np.uint64]
SETTINGS = settings(max_examples=100, deadline=None)
RATIOS = st.floats(0.01, 0.99)


def random_hashes(num: int, *, seed: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, num, dtype=np.uint64)


def random_groups(sizes: list[int], *, seed: int) -> Hashes:
    """The group hash of each row, rows shuffled."""
    hashes = np.repeat(random_hashes(len(sizes), seed=seed), sizes)
    return np.random.default_rng(seed + 1).permutation(hashes)


def time_split(
    time: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    *,
    val_ratio: float = 0.2,
    start: float | None = None,
    embargo: float = 0.0,
    session_hash: Hashes | None = None,
    drop_crossing: bool = False,
) -> Assignment:
    return by_time(
        time,
        val_ratio=val_ratio,
        start=start,
        embargo=embargo,
        session_hash=session_hash,
        drop_crossing=drop_crossing,
    )


@SETTINGS
@given(st.integers(1, 400), st.floats(0, 1), RATIOS, st.integers(0, 99))
def test_stratified_is_exact_in_each_class(num_rows: int, base_rate: float, val_ratio: float, seed: int) -> None:
    label = (np.random.default_rng(seed).random(num_rows) < base_rate).astype(np.uint8)
    assignment = stratified(label, random_hashes(num_rows, seed=seed), val_ratio=val_ratio, thresholds=None)
    for value in (0, 1):
        fold = assignment.fold[label == value]
        wanted = round(val_ratio * fold.size)
        assert (fold == VALIDATION).sum() == (wanted if fold.size < 2 else min(max(wanted, 1), fold.size - 1))
    assert set(assignment.thresholds) == {"label_0", "label_1"}


@SETTINGS
@given(st.integers(2, 300), RATIOS, st.integers(0, 99))
def test_stratified_does_not_depend_on_the_order_of_rows(num_rows: int, val_ratio: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label, row_hash = generator.integers(0, 2, num_rows).astype(np.uint8), random_hashes(num_rows, seed=seed)
    row_hash[: num_rows // 3] = row_hash[-(num_rows // 3) or num_rows :]  # some rows occur twice
    order = generator.permutation(num_rows)
    first = stratified(label, row_hash, val_ratio=val_ratio, thresholds=None)
    second = stratified(label[order], row_hash[order], val_ratio=val_ratio, thresholds=None)
    assert second.fold.tolist() == first.fold[order].tolist()
    assert second.thresholds == first.thresholds


def test_equal_rows_of_a_class_stay_together() -> None:
    row_hash = np.repeat(random_hashes(200, seed=3), 5)
    fold = stratified(np.zeros(1000, np.uint8), row_hash, val_ratio=0.3, thresholds=None).fold.reshape(200, 5)
    assert (fold == fold[:, :1]).all()
    assert abs(fold.mean() - 0.3) <= 5 / 1000


@SETTINGS
@given(st.integers(10, 300), RATIOS, st.integers(0, 99))
def test_frozen_thresholds_keep_old_rows_when_a_tenth_is_appended(num_rows: int, val_ratio: float, seed: int) -> None:
    total = num_rows + num_rows // 10
    label = np.random.default_rng(seed).integers(0, 2, total).astype(np.uint8)
    row_hash = random_hashes(total, seed=seed)
    old = stratified(label[:num_rows], row_hash[:num_rows], val_ratio=val_ratio, thresholds=None)
    stored = json.loads(json.dumps(old.thresholds))
    new = stratified(label, row_hash, val_ratio=val_ratio, thresholds=stored)
    assert new.fold[:num_rows].tolist() == old.fold.tolist()
    assert new.thresholds == old.thresholds
    assert all(float(value).is_integer() and 0 <= value <= 2**53 for value in old.thresholds.values())


def test_a_frozen_threshold_that_is_missing_is_named() -> None:
    label, row_hash = np.array([0, 1], np.uint8), random_hashes(2, seed=0)
    with pytest.raises(ValueError, match=r"^split\.thresholds has no label_1; it has label_0$"):
        stratified(label, row_hash, val_ratio=0.5, thresholds={"label_0": 3})
    with pytest.raises(ValueError, match=r"^split\.thresholds has no group; it has nothing$"):
        grouped(row_hash, val_ratio=0.5, thresholds={})


@SETTINGS
@given(st.lists(st.integers(1, 20), min_size=1, max_size=80), RATIOS, st.integers(0, 99))
def test_groups_are_never_divided_and_order_does_not_matter(sizes: list[int], val_ratio: float, seed: int) -> None:
    group_hash = random_groups(sizes, seed=seed)
    assignment = grouped(group_hash, val_ratio=val_ratio, thresholds=None)
    folds = {group: set(assignment.fold[group_hash == group].tolist()) for group in group_hash}
    assert all(len(fold) == 1 for fold in folds.values())
    assert assignment.details == {
        "num_groups": len(sizes),
        "num_groups_val": sum(fold == {VALIDATION} for fold in folds.values()),
        "largest_group": max(sizes),
    }
    order = np.random.default_rng(seed).permutation(group_hash.size)
    again = grouped(group_hash[order], val_ratio=val_ratio, thresholds=None)
    assert again.fold.tolist() == assignment.fold[order].tolist()
    assert again.thresholds == assignment.thresholds


@SETTINGS
@given(st.lists(st.integers(1, 20), min_size=5, max_size=80), RATIOS, st.integers(0, 99))
def test_frozen_groups_stay_when_rows_and_groups_are_appended(sizes: list[int], val_ratio: float, seed: int) -> None:
    group_hash = random_groups(sizes, seed=seed)
    old = grouped(group_hash, val_ratio=val_ratio, thresholds=None)
    num_new = -(-group_hash.size // 10)
    appended = np.concatenate([group_hash, group_hash[:num_new], random_hashes(num_new, seed=seed + 1000)])
    new = grouped(appended, val_ratio=val_ratio, thresholds=json.loads(json.dumps(old.thresholds)))
    assert new.fold[: group_hash.size].tolist() == old.fold.tolist()
    assert new.fold[group_hash.size :][:num_new].tolist() == old.fold[:num_new].tolist()


@pytest.mark.parametrize("val_ratio", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("largest", [0, 9000])
def test_the_share_is_within_half_a_point(val_ratio: float, largest: int) -> None:
    """Small groups, without and with one that has 30% of the rows."""
    for seed in range(10):
        sizes = np.random.default_rng(seed).geometric(0.1, 2100).tolist()
        group_hash = random_groups([*sizes, largest] if largest else sizes, seed=seed)
        if largest:
            assert 0.28 < largest / group_hash.size < 0.32
        share = (grouped(group_hash, val_ratio=val_ratio, thresholds=None).fold == VALIDATION).mean()
        assert abs(share - val_ratio) < 0.005


def test_a_group_that_is_too_large_for_validation_trains() -> None:
    sizes = [3000] + [10] * 700
    hashes = random_hashes(701, seed=4)
    group_hash = np.repeat(hashes, sizes)
    fold = grouped(group_hash, val_ratio=0.2, thresholds=None).fold
    assert (fold[group_hash == hashes[0]] == TRAIN).all()
    assert (fold == VALIDATION).sum() == 2000


@pytest.mark.parametrize("val_ratio", [0.1, 0.4])
def test_appended_groups_are_drawn_where_every_group_was_large(val_ratio: float) -> None:
    old = grouped(random_groups([20] * 30, seed=6), val_ratio=val_ratio, thresholds=None)
    assert sum(name.startswith("large_") for name in old.thresholds) == 30
    share = grouped(random_hashes(20_000, seed=7), val_ratio=val_ratio, thresholds=old.thresholds).fold.mean()
    assert abs(share - val_ratio) < 0.02


@SETTINGS
@given(st.lists(st.integers(1, 20), max_size=40), st.integers(1, 200), RATIOS, st.integers(0, 99))
def test_rows_without_a_group_are_drawn_one_by_one(
    sizes: list[int], num_missing: int, val_ratio: float, seed: int
) -> None:
    """However large the groups: in a small log all are, and are placed first."""
    alone = random_hashes(num_missing, seed=seed + 500)
    group_hash = np.concatenate([random_groups(sizes, seed=seed), alone]) if sizes else alone
    is_missing = np.arange(group_hash.size) >= group_hash.size - num_missing
    found = grouped(group_hash, val_ratio=val_ratio, thresholds=None, is_missing=is_missing)
    assert found.fold[is_missing].sum() == round(val_ratio * num_missing)
    if sizes:
        with_group = grouped(group_hash[~is_missing], val_ratio=val_ratio, thresholds=None)
        assert found.fold[~is_missing].tolist() == with_group.fold.tolist()
        assert found.details == with_group.details
    more = random_hashes(30, seed=seed + 900)
    longer = grouped(
        np.concatenate([group_hash, more]),
        val_ratio=val_ratio,
        thresholds=json.loads(json.dumps(found.thresholds)),
        is_missing=np.concatenate([is_missing, np.ones(30, np.bool_)]),
    )
    assert longer.fold[: group_hash.size].tolist() == found.fold.tolist()


def test_a_frozen_split_without_a_threshold_for_missing_keys_says_so() -> None:
    group_hash = random_hashes(9, seed=1)
    with pytest.raises(ValueError, match=r"^split\.thresholds has no missing; it has group$"):
        grouped(group_hash, val_ratio=0.5, thresholds={"group": 7}, is_missing=np.arange(9) == 3)


TIMES = st.lists(st.integers(-20, 20), min_size=2, max_size=60).filter(lambda times: len(set(times)) > 1)


@SETTINGS
@given(TIMES, RATIOS)
def test_time_takes_the_latest_rows_and_the_nearest_share(times: list[int], val_ratio: float) -> None:
    time = np.array(times)
    assignment = time_split(time, val_ratio=val_ratio)
    is_val = assignment.fold == VALIDATION
    assert not (assignment.fold == EXCLUDED).any()
    assert time[~is_val].max() < time[is_val].min()
    assert assignment.details == {"boundary": time[is_val].min()}
    shares = [(time >= boundary).mean() for boundary in sorted(set(times))[1:]]
    assert abs(is_val.mean() - val_ratio) == min(abs(share - val_ratio) for share in shares)
    assert assignment.thresholds == {}
    for other in (time.astype(np.float64), time * 10**15):
        assert time_split(other, val_ratio=val_ratio).fold.tolist() == assignment.fold.tolist()


def test_time_does_not_depend_on_the_order_of_rows() -> None:
    generator = np.random.default_rng(0)
    time = generator.integers(0, 50, 300)
    order = generator.permutation(300)
    assert time_split(time[order]).fold.tolist() == time_split(time).fold[order].tolist()


@SETTINGS
@given(TIMES, st.integers(-19, 20), st.integers(0, 50))
def test_an_explicit_start_with_an_embargo(times: list[int], start: int, embargo: int) -> None:
    time = np.array(times)
    is_train, is_val = time <= start - max(embargo, 1), time >= start
    if not (is_train.any() and is_val.any()):
        with pytest.raises(ValueError, match=rf"^the boundary {start} leaves no row on one side of it$"):
            time_split(time, start=start, embargo=embargo)
        return
    assignment = time_split(time, start=start, embargo=embargo)
    expected = np.where(is_val, VALIDATION, np.where(is_train, TRAIN, EXCLUDED))
    assert assignment.fold.tolist() == expected.tolist()
    assert assignment.details["boundary"] == start


def test_an_explicit_start_is_exact_beyond_53_bits() -> None:
    time = 1_651_622_400_000_000_000 + np.arange(4)
    start = int(time[2])
    assert time_split(time, start=start).fold.tolist() == [TRAIN, TRAIN, VALIDATION, VALIDATION]


def test_crossing_sessions_are_counted_and_dropped() -> None:
    time = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    session = np.array([1, 2, 1, 3, 1, 2, 4, 2], np.uint64)
    kept = time_split(time, start=5, session_hash=session)
    assert kept.fold.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert kept.details == {"boundary": 5, "num_crossing_sessions": 2}
    dropped = time_split(time, start=5, session_hash=session, drop_crossing=True)
    assert dropped.fold.tolist() == [0, 0, 0, 0, EXCLUDED, EXCLUDED, 1, EXCLUDED]
    assert dropped.details == kept.details


def test_a_session_whose_early_rows_are_under_embargo_does_not_cross() -> None:
    time, session = np.array([1, 4, 5, 6]), np.array([1, 2, 2, 3], np.uint64)
    assignment = time_split(time, start=5, embargo=2, session_hash=session, drop_crossing=True)
    assert assignment.fold.tolist() == [TRAIN, EXCLUDED, VALIDATION, VALIDATION]
    assert assignment.details["num_crossing_sessions"] == 0


def test_dropping_every_validation_row_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no row on one side"):
        time_split(np.array([1, 2]), start=2, session_hash=np.array([7, 7], np.uint64), drop_crossing=True)


def test_one_time_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^all rows have the same time 7$"):
        time_split(np.full(5, 7))


def test_the_settings_name_every_method_of_the_table_and_no_other() -> None:
    assert set(get_args(SplitParams.model_fields["method"].annotation)) == set(METHODS)


def test_one_entry_in_the_table_is_a_new_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the docs show: nothing else knows the methods, and the audit holds it to its promise."""

    def halves(columns: SplitColumns, split: SplitParams) -> Assignment:
        return Assignment(np.repeat([TRAIN, VALIDATION], columns.label.size // 2).astype(np.uint8), {}, {})

    columns = SplitColumns(
        label=np.array([0, 1, 0, 1], np.uint8),
        row_hash=random_hashes(4, seed=0),
        time=None,
        time_column=None,
        keys={"target": random_hashes(4, seed=1), "group": np.array([1, 2, 3, 1], np.uint64)},
    )
    split: Any = SimpleNamespace(method="halves")  # settings refuse a name that they do not list
    with pytest.raises(KeyError, match="halves"):
        assign_folds(columns, split, file="f")
    for keeps_whole in (None, "group"):
        monkeypatch.setattr("qin.split.methods.METHODS", {"halves": Method(halves, keeps_whole=keeps_whole)})
        monkeypatch.setattr("qin.split.audit.METHODS", {"halves": Method(halves, keeps_whole=keeps_whole)})
        figures = audit(columns, assign_folds(columns, split, file="f"), method="halves")
        assert figures["overlap"] == {"group": 1}
        if keeps_whole is None:
            check(figures, file="f")
        else:
            with pytest.raises(DataError, match=r"f: split.method halves: 1 groups are in both folds"):
                check(figures, file="f")


@pytest.mark.parametrize("embargo", [0, 3, 0.5])
@pytest.mark.parametrize("near", [2**62, -(2**62), 0])
def test_integer_times_are_compared_as_integers(near: int, embargo: float) -> None:
    """Beyond 2^53 neighbours are one 64-bit float."""
    time = near + np.arange(-10, 10)
    fold = time_split(time, start=near, embargo=embargo).fold.tolist()
    early = [EXCLUDED if value > -embargo else TRAIN for value in range(-10, 0)]
    assert fold == early + [VALIDATION] * 10


def test_a_start_between_integers_and_beyond_them() -> None:
    time = np.arange(10)
    assert time_split(time, start=3.5).fold.tolist() == [TRAIN] * 4 + [VALIDATION] * 6
    with pytest.raises(ValueError, match="leaves no row on one side"):
        time_split(time, start=1e30)


def test_open_ends_are_the_last_times() -> None:
    time = np.array([5, 2**63 - 1, 7, 2**63 - 1, 1, 2])
    assert time_split(time, val_ratio=1 / 3, embargo=2).fold.tolist() == [0, 1, 0, 1, 0, 0]


def of_labels(num_rows: int, *, seed: int) -> SplitColumns:
    """Rows with three labels, of which the rarest is one in a hundred and depends on the first."""
    generator, empty = np.random.default_rng(seed), np.zeros(num_rows, np.uint8)
    first, second = (generator.random((2, num_rows)) < 0.1).astype(np.uint8)
    third = first & (generator.random(num_rows) < 0.1)
    others = {"liked": second, "shared": third.astype(np.uint8)}
    return SplitColumns(first, random_hashes(num_rows, seed=seed), None, None, {"target": empty.astype(np.uint64)},
                        other_labels=others, label_name="clicked")  # fmt: skip


def test_several_labels_are_stratified_by_what_they_are_together() -> None:
    columns = of_labels(5000, seed=1)
    split = SplitParams(method="stratified", seed=0, val_ratio=0.2, time_val_ratio=0.2)
    assignment = assign_folds(columns, split, file="log")
    joint = columns.joint_class
    assert sorted(np.unique(joint)) == [0, 1, 2, 3, 5, 7]  # nothing is shared that was not clicked
    for value in np.unique(joint):
        share = (assignment.fold[joint == value] == VALIDATION).sum()
        assert share in {round(0.2 * (joint == value).sum()), 1}
    for name, label in columns.labels.items():
        assert abs((assignment.fold[label == 1] == VALIDATION).sum() - 0.2 * label.sum()) <= 4, name
    assert set(assignment.thresholds) == {f"label_{a}_{b}_{c}" for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    kept = split.model_copy(update={"thresholds": json.loads(json.dumps(assignment.thresholds))})
    assert np.array_equal(assign_folds(columns, kept, file="log").fold, assignment.fold)
    by_label = audits_by_label([audit(columns, assignment, method="stratified")], columns, [assignment])
    for name, label in columns.labels.items():
        [figures] = by_label[name]
        assert figures["base_rate"]["val"] == label[assignment.fold == VALIDATION].mean()
        assert figures["rows"] == by_label["clicked"][0]["rows"]


def test_one_label_is_divided_as_ever() -> None:
    columns = of_labels(3000, seed=2)
    alone = SplitColumns(columns.label, columns.row_hash, None, None)
    assert np.array_equal(alone.joint_class, alone.label)
    assert alone.labels.keys() == {"label"}


def test_a_fold_without_both_classes_of_a_label_names_it() -> None:
    columns = of_labels(400, seed=3)
    liked = np.zeros(400, np.uint8)
    liked[0] = 1
    split = SplitParams(method="stratified", seed=0, val_ratio=0.2, time_val_ratio=0.2)
    with pytest.raises(DataError, match=r"^log: split\.method stratified: label liked: the .* fold has \d+ rows of"):
        assign_folds(replace(columns, other_labels={"liked": liked}), split, file="log")
