"""Several labels in the settings: what they may be called, and that they are nothing else."""

from pathlib import Path
from typing import Any

import pytest

from qin.config import load_params
from qin.config.labels import MOST_LABELS
from tests.config.test_params import problems, write_params

BOTH = ["clicked", "liked"]


def labels(folder: Path, changes: dict[str, Any]) -> tuple[str, ...]:
    return load_params(write_params(folder, changes)).data.labels


def test_a_list_of_one_label_is_that_label(tmp_path: Path) -> None:
    params = load_params(write_params(tmp_path, {"data.label": ["clicked"]}))
    assert params == load_params(write_params(tmp_path, {"data.label": "clicked"}))
    assert (params.data.label, params.data.labels, params.data.first_label) == ("clicked", ("clicked",), "clicked")
    assert labels(tmp_path, {"data.label": "a/b c"}) == ("a/b c",)  # one label names no folder


def test_several_labels_keep_their_order(tmp_path: Path) -> None:
    assert labels(tmp_path, {"data.label": ["liked", "clicked"]}) == ("liked", "clicked")
    assert labels(tmp_path, {"data.label": ["mag_ich", "größe-2.x"]}) == ("mag_ich", "größe-2.x")
    most = [f"label_{number}" for number in range(MOST_LABELS)]
    assert labels(tmp_path, {"data.label": most}) == tuple(most)
    [line] = problems(tmp_path, {"data.label": [*most, "one_more"]})
    assert f"at most {MOST_LABELS} items" in line


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "", "a\\b", "a:b"])
def test_labels_that_cannot_name_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, {"data.label": ["clicked", name]}) == [
        f"data.label: {name!r} names a folder, so it must be letters, digits, `_`, `-` and `.`, not `.` first"
    ]


def test_a_label_is_listed_once(tmp_path: Path) -> None:
    twice = "is listed twice (names may not differ in case alone)"
    assert problems(tmp_path, {"data.label": ["clicked", "clicked"]}) == [f"data.label: clicked {twice}"]
    assert problems(tmp_path, {"data.label": ["clicked", "Clicked"]}) == [f"data.label: Clicked {twice}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.id", "liked"),
        ("data.drop", ["liked"]),
        ("data.ignore", ["liked"]),
        ("features.categorical", ["gender", "liked"]),
        ("features.numeric", ["liked", "feat_*"]),
        ("features.target", ["liked"]),
        ("features.num_buckets_of", {"liked": 9}),
        ("features.sequences", [{"name": "liked", "max_len": 3, "num_buckets": 9}]),
        ("features.statistics.fields", ["liked"]),
        ("features.statistics.pairs", [["gender", "liked"]]),
        ("features.impression.key", ["liked", "hour"]),
        ("features.impression.columns", ["liked"]),
        ("split.row_key", ["hour", "liked"]),
        ("split.group_key", "liked"),
        ("split.session_key", "liked"),
        ("split.time_col", "liked"),
        ("evaluate.slices", ["liked"]),
    ],
)
def test_a_label_is_no_property_of_a_row(tmp_path: Path, key: str, value: Any) -> None:
    lines = problems(tmp_path, {"data.label": BOTH, key: value})
    assert lines == [f"{key}: liked is a label, which no row has before its outcome"]


def test_calibration_by_a_label_is_refused(tmp_path: Path) -> None:
    lines = problems(tmp_path, {"data.label": BOTH, "calibration.by": "liked"})
    assert lines == ["calibration.by: liked is the label, it cannot divide rows into segments"]


def test_one_label_is_not_compared_within_impressions(tmp_path: Path) -> None:
    """Without a test log nothing else would find it, and the model would read what it predicts."""
    lines = problems(tmp_path, {"features.impression.key": ["hour"], "features.impression.columns": ["clicked"]})
    assert lines == ["features.impression.columns: clicked is a label, which no row has before its outcome"]


def test_a_submission_is_of_one_of_the_labels(tmp_path: Path) -> None:
    params = load_params(write_params(tmp_path, {"data.label": BOTH, "predict.label": "liked"}))
    assert params.predict.label == "liked"
    assert problems(tmp_path, {"data.label": BOTH, "predict.label": "likd"}) == [
        "predict.label: likd is none of data.label (clicked, liked), did you mean liked?"
    ]
    assert problems(tmp_path, {"predict.label": "seen"}) == ["predict.label: seen is none of data.label (clicked)"]


def test_an_earlier_model_is_of_one_label(tmp_path: Path) -> None:
    [line] = problems(tmp_path, {"data.label": BOTH, "train.init_from": "earlier"})
    assert line.startswith("train.init_from with 2 labels in data.label: an earlier model is of one label")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"imbalance.use_neg_downsampling": True}, "imbalance.use_neg_downsampling: true"),
        ({"hnm.enable": True}, "hnm.enable: true"),
        ({"split.num_folds": 3}, "split.num_folds: 3"),
        ({"train.num_processes": 2}, "train.num_processes: 2"),
        ({"train.keep_optimizer": True}, "train.keep_optimizer: true"),
    ],
)
def test_what_is_of_one_label_does_not_go_with_a_shared_network(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    lines = problems(tmp_path, {"data.label": BOTH, "data.label_heads": "shared", **changes})
    assert lines == [
        f"data.label_heads: shared does not go with {named}, which is of one label; set label_heads: separate, or the "
        "other back"
    ]
    load_params(write_params(tmp_path, {"data.label": BOTH, **changes}))
    load_params(write_params(tmp_path, {"data.label_heads": "shared", **changes}))  # one label shares with nobody
