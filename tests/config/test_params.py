"""Messages of params.yaml's checks, letter by letter, on the shipped file with single keys changed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from qin.config import DROPOUTS, load_params
from qin.config.problems import RETIRED
from qin.config.strict_yaml import read_yaml
from qin.runtime.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "examples").glob("*/*.yaml"))]
MISSING = object()


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """The shipped params.yaml with values at dotted paths replaced, or removed where MISSING."""
    tree = read_yaml(ROOT / "params.yaml")
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = tree
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if value is MISSING:
            del node[last]
        else:
            node[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def problems(folder: Path, changes: dict[str, Any]) -> list[str]:
    """The lines of the error, without the file name that begins each."""
    path = write_params(folder, changes)
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def text_params(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_loads() -> None:
    params = load_params(ROOT / "params.yaml")  # the examples are overlays: tests/experiments/test_overlay.py
    assert params.data.label == "clicked"
    assert params.calibration.temperature_scaling


def test_an_example_is_shipped() -> None:
    assert len(SHIPPED) > 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("hnm.topneg_frac", 0.1, "hnm.topneg_frac: unknown key, did you mean hnm.top_neg_frac? (got 0.1)"),
        ("hmn", 3, "hmn: unknown key, did you mean hnm? (got 3)"),
        ("train.zzz", 3, "train.zzz: unknown key (got 3)"),
        (
            "split.method",
            "grup_user",
            "split.method: Input should be 'stratified', 'group_user', 'group_session' or 'time', did you mean "
            'group_user? (got "grup_user")',
        ),
        (
            "features.sequences.0.maxlen",
            3,
            "features.sequences.0.maxlen: unknown key, did you mean features.sequences.0.max_len? (got 3)",
        ),
        (
            "features.sequences.0.max_len",
            0,
            "features.sequences.0.max_len: Input should be greater than or equal to 1 (got 0)",
        ),
        ("features.sequences", [3], "features.sequences.0: Input should be an object (got 3)"),
        ("features.categorical", ["a", 3], "features.categorical.1: Input should be a valid string (got 3)"),
        (
            "features.num_buckets_of.l_feat_12",
            2,
            "features.num_buckets_of.l_feat_12: Input should be greater than or equal to 3 (got 2)",
        ),
        ("features.target", [], "features.target: List should have at least 1 item after validation, not 0 (got [])"),
        ("data.label", None, "data.label: Input should be a valid string or Input should be a valid array (got null)"),
        ("data.id", ["ID"], 'data.id: Input should be a valid string (got ["ID"])'),
        ("data.label", MISSING, "data.label: missing"),
        ("model", MISSING, "model: missing"),
        ("evaluate", 3, "evaluate: Input should be an object (got 3)"),
        ("train.lr", "fast", 'train.lr: Input should be a valid number (got "fast")'),
        ("train.lr", float("nan"), "train.lr: Input should be a finite number (got NaN)"),
        ("train.epochs", 3.0, "train.epochs: Input should be a valid integer (got 3.0)"),
        ("train.epochs", True, "train.epochs: Input should be a valid integer (got true)"),
        ("hnm.enable", 1, "hnm.enable: Input should be a valid boolean (got 1)"),
        (
            "split.method",
            "user",
            "split.method: Input should be 'stratified', 'group_user', 'group_session' or 'time' (got \"user\")",
        ),
        (
            "split.row_key",
            [],
            "split.row_key: List should have at least 1 item after validation, not 0 (got [])",
        ),
        (
            "split.thresholds",
            {"label_0": -1},
            "split.thresholds.label_0: Input should be greater than or equal to 0 (got -1)",
        ),
        (
            "split.thresholds",
            {"group": 5, "large_0123456789abcd": 300},
            "split: thresholds.large_0123456789abcd: must be 0 (train) or 1 (validation), got 300",
        ),
        (
            "split.thresholds",
            {"group": 5, "large_xyz": 1},
            "split: thresholds.large_xyz: the group must be 14 hexadecimal digits, as in manifest.json",
        ),
        (
            "train.num_threads",
            2147483648,
            "train.num_threads: Input should be less than or equal to 1024 (got 2147483648)",
        ),
        (
            "prepare.num_threads",
            1025,
            "prepare.num_threads: Input should be less than or equal to 1024 (got 1025)",
        ),
        (
            "model.embedding_dim",
            10**9,
            "model.embedding_dim: Input should be less than or equal to 65536 (got 1000000000)",
        ),
        (
            "model.num_layers",
            10**6,
            "model.num_layers: Input should be less than or equal to 1024 (got 1000000)",
        ),
        (
            "train.buffer_rows",
            2**31,
            "train.buffer_rows: Input should be less than 2147483648 (got 2147483648)",
        ),
        (
            "train.epochs",
            2**63,
            "train.epochs: Input should be less than 9223372036854775808 (got 9223372036854775808)",
        ),
        (
            "predict.prior",
            2,
            "predict.prior: Input should be 'natural' or 'balanced' or Input should be less than 1 (got 2)",
        ),
        (
            "imbalance.pos_weight",
            "x",
            "imbalance.pos_weight: Input should be a valid number or Input should be 'auto' (got \"x\")",
        ),
        ("split.method", "group_user", "split: method group_user needs group_key, which is null"),
        ("split.method", "group_session", "split: method group_session needs session_key, which is null"),
        ("split.method", "time", "split: method time needs time_col, which is null"),
        (
            "calibration.objective",
            "wll",
            "calibration: objective wll with temperature scaling diverges on natural-prior logits (a temperature "
            "cannot shift the prior); use log_loss here and predict.prior: balanced for the output",
        ),
        (
            "calibration.method",
            "isotonic",
            "calibration.method: Input should be 'temperature', 'platt' or 'beta' (got \"isotonic\")",
        ),
        ("calibration.by", "clicked", "calibration.by: clicked is the label, it cannot divide rows into segments"),
        (
            "features.sequences.0.vocabulary_of",
            "inventory_id",
            "features.sequences.0: give either vocabulary_of (a categorical column) or num_buckets, not both",
        ),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, key: str, value: Any, line: str) -> None:
    assert problems(tmp_path, {key: value}) == [line]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    lines = problems(tmp_path, {"train.lr": "fast", "hnm.topneg_frac": 0.1, "data.label": MISSING, "split.seed": -1})
    assert lines == [
        "data.label: missing",
        "split.seed: Input should be greater than or equal to 0 (got -1)",
        "hnm.topneg_frac: unknown key, did you mean hnm.top_neg_frac? (got 0.1)",
        'train.lr: Input should be a valid number (got "fast")',
    ]


def test_frozen_thresholds_do_not_go_with_time(tmp_path: Path) -> None:
    changes = {"split.method": "time", "split.time_col": "hour", "split.thresholds": {"group": 5}}
    assert problems(tmp_path, changes) == [
        "split: thresholds belong to the hashed methods; freeze a time split with time_val_start"
    ]


def test_a_self_ensemble_needs_dropout(tmp_path: Path) -> None:
    without = {"model.alternatives": [], **{f"model.{name}": 0.0 for name in DROPOUTS}}
    assert problems(tmp_path, {"train.self_ensemble": 1.0, **without}) == [
        "train.self_ensemble: both passes are the same without dropout, raise one of model.dropout, "
        "model.row_dropout, model.embedding_dropout, model.field_dropout"
    ]
    for enough in ({"model.field_dropout": 0.1}, {"model.preset": "published"}, {"train.self_ensemble": 0.0}):
        load_params(write_params(tmp_path, {"train.self_ensemble": 1.0, **without, **enough}))


def test_a_self_ensemble_needs_dropout_in_every_form(tmp_path: Path) -> None:
    changes = {"train.self_ensemble": 1.0, "model.dropout": 0.1, "model.alternatives": [{"dropout": 0.0}]}
    assert problems(tmp_path, changes) == [
        "train.self_ensemble: both passes are the same without dropout, raise one of model.dropout, "
        "model.row_dropout, model.embedding_dropout, model.field_dropout (in model.alternatives, too)"
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"imbalance.neg_downsample_ratio": 1e-300},
            "imbalance.neg_downsample_ratio: Input should be greater than or ",
        ),
        ({"imbalance.pos_weight": 1e30}, "imbalance.pos_weight: Input should be less than or equal to 1000000"),
        ({"imbalance.pos_weight": 1e-30}, "imbalance.pos_weight: Input should be greater than or equal to 0.000001"),
        (
            {"features.statistics.prior_weight": 1e-300},
            "features.statistics.prior_weight: Input should be greater than",
        ),
        ({"hnm.enable": True, "hnm.rest_frac": 0.0}, "hnm: rest_frac must be at least 1e-06 with mode goss"),
        ({"hnm.enable": True, "hnm.mode": "pps", "hnm.rest_frac": 1e-17}, "hnm: rest_frac must be at least 1e-06 with"),
        ({"hnm.enable": False, "hnm.rest_frac": 0.0}, None),
        ({"hnm.enable": True, "hnm.mode": "ohem", "hnm.rest_frac": 0.0}, None),
    ],
)
def test_a_number_that_training_could_not_use_is_refused_before_it(
    tmp_path: Path, changes: dict[str, Any], line: str | None
) -> None:
    path = write_params(tmp_path, changes)
    if line is None:
        load_params(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    ("alternatives", "line"),
    [
        ([{}], "model: alternatives.0: changes nothing"),
        (
            [{"dropout": 0.2}, {"attention_bais": "constant"}],
            "model: alternatives.1.attention_bais: unknown key, did you mean alternatives.1.attention_bias?",
        ),
        ([{"preset": "published"}], "model: alternatives.0.preset: unknown key"),
        ([{"dropout": 1.0}], "model: alternatives.0.dropout: Input should be less than 1"),
        ([{"num_layers": "3"}], "model: alternatives.0.num_layers: Input should be a valid integer"),
        ([{"num_heads": 3}], "model: alternatives.0: num_heads must divide attention_dim 32, got 3"),
        (
            [{"attention_score": "mlp", "num_heads": 2}],
            "model: alternatives.0: num_heads must be 1 with attention_score: mlp, got 2",
        ),
        ([{"attention_score": "din"}], "model: alternatives.0.attention_score: Input should be 'product' or 'mlp'"),
    ],
)
def test_an_alternative_is_a_network(tmp_path: Path, alternatives: list[Any], line: str) -> None:
    assert problems(tmp_path, {"model.alternatives": alternatives}) == [line]


@pytest.mark.parametrize(("key", "instead"), RETIRED.items())
def test_a_key_of_an_earlier_version_is_left_out_with_a_warning(
    tmp_path: Path, key: str, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_params(tmp_path, {key: 7})
    assert load_params(path) == load_params(ROOT / "params.yaml")
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {path}: {key} is not read any more ({instead}); remove it"
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("key", RETIRED)
def test_no_key_that_is_read_is_retired(key: str) -> None:
    section, name = key.split(".")
    assert not hasattr(getattr(load_params(ROOT / "params.yaml"), section), name)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "train: shard_tables: true needs num_processes of 2 or more, or auto, got 1"),
        (
            {"train.num_processes": 2, "train.ema_decay": 0.9},
            "train: shard_tables: true needs ema_decay: null, which reads whole tables",
        ),
        (
            {"train.num_processes": "auto", "train.init_from": "earlier/model"},
            "train: shard_tables: true needs init_from: null, which reads whole tables",
        ),
        (
            {"train.num_processes": 2, "train.keep_optimizer": True},
            "train: shard_tables: true needs keep_optimizer: false, which would keep whole tables' moments",
        ),
    ],
)
def test_divided_tables_are_refused_where_whole_ones_are_read(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    assert problems(tmp_path, {"train.shard_tables": True, **changes}) == [line]


def test_a_retired_key_in_another_place_stays_unknown(tmp_path: Path) -> None:
    assert problems(tmp_path, {"train.baseline_rows": 0, "calibration.seed": 0}) == [
        "train.baseline_rows: unknown key (got 0)"  # nothing is near
    ]


def test_settings_that_know_no_members_are_of_the_network_alone(tmp_path: Path) -> None:
    assert load_params(write_params(tmp_path, {"model.members": MISSING})).model.members == ["network"]


@pytest.mark.parametrize(
    ("key", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m"), ("k" * 5000, f"hnm.{'k' * 122}...{'k' * 125}:")],
)
def test_a_key_of_several_lines_or_very_long_is_one_line(tmp_path: Path, key: str, shown: str) -> None:
    (line,) = problems(tmp_path, {f"hnm.{key}": "x\ny"})
    assert shown in line
    assert line.endswith('(got "x\\ny")')
    assert len(line) < 600


def test_a_value_is_shown_in_its_own_script(tmp_path: Path) -> None:
    assert problems(tmp_path, {"train.lr": "빠름"}) == ['train.lr: Input should be a valid number (got "빠름")']


def test_long_values_are_cut(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, {"train.lr": "x" * 500})
    assert line == f'train.lr: Input should be a valid number (got "{"x" * 59}...)'


def test_a_float_as_dvc_writes_it_is_a_float(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.count("lr: 0.001\n") == 1
    assert load_params(text_params(tmp_path, text.replace("lr: 0.001\n", "lr: 1e-05\n"))).train.lr == 1e-5


@pytest.mark.parametrize(
    ("written", "read"),
    [("2022-05-04", "2022-05-04"), ("2022-05-04 12:00:00", "2022-05-04 12:00:00"), ("17", 17), ("1.5", 1.5)],
)
def test_a_start_of_validation_may_be_unquoted(tmp_path: Path, written: str, read: Any) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.count("time_val_start: null\n") == 1
    path = text_params(tmp_path, text.replace("time_val_start: null\n", f"time_val_start: {written}\n"))
    assert load_params(path).split.time_val_start == read


@pytest.mark.parametrize(("value", "read"), [("auto", "auto"), (None, None), (3, 3.0), (2.5, 2.5)])
def test_pos_weight_takes_a_number_a_word_or_null(tmp_path: Path, value: Any, read: Any) -> None:
    assert load_params(write_params(tmp_path, {"imbalance.pos_weight": value})).imbalance.pos_weight == read


def test_wll_is_allowed_without_a_temperature(tmp_path: Path) -> None:
    changes = {"calibration.objective": "wll", "calibration.temperature_scaling": False}
    assert load_params(write_params(tmp_path, changes)).calibration.objective == "wll"


@pytest.mark.parametrize("method", ["platt", "beta"])
def test_wll_is_allowed_where_an_intercept_is_fitted(tmp_path: Path, method: str) -> None:
    params = load_params(write_params(tmp_path, {"calibration.objective": "wll", "calibration.method": method}))
    assert (params.calibration.objective, params.calibration.method) == ("wll", method)


def test_segments_need_a_calibrator(tmp_path: Path) -> None:
    assert problems(tmp_path, {"calibration.by": "hour", "calibration.temperature_scaling": False}) == [
        "calibration: by: hour needs temperature_scaling: true; false calibrates nothing"
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_params(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path}/no.yaml: file not found"


@pytest.mark.parametrize("text", ["data: [", "a: 1\na: 2\n", "a: b: c\n"])
def test_text_that_is_not_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    path = text_params(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: not valid YAML: ")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"data: \xff\xfe")
    with pytest.raises(ConfigError, match=r"params\.yaml: not valid YAML: "):
        load_params(path)


@pytest.mark.parametrize(("text", "shown"), [("", "None"), ("- a\n", "['a']"), ("train\n", "'train'")])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str, shown: str) -> None:
    path = text_params(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert str(caught.value) == f"{path}: expected sections such as `data:` and `train:`, got {shown}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_files_hold_no_bare_dates(path: Path) -> None:
    """DVC refuses a params file with one."""
    kinds = {type(value) for event in yaml.parse(path.read_bytes()) for value in [_as_yaml_1_1(event)]}
    assert kinds <= {str, int, float, bool, type(None)}


def _as_yaml_1_1(event: Any) -> Any:
    return yaml.safe_load(event.value) if isinstance(event, yaml.ScalarEvent) and event.implicit[0] else None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("features.target", ["item", "item"], "item is listed twice"),
        ("features.impression", {"key": ["user", "user"], "columns": None}, "user is listed twice"),
        ("features.impression", {"key": ["user"], "columns": ["price", "ts", "price"]}, "price is listed twice"),
        ("features.statistics.fields", ["", ""], " is listed twice"),
        (
            "features.statistics.pairs",
            [["a", "b"], ["b", "a"], ["a", "b"]],
            "[a, b] is listed twice or Input should be 'auto'",
        ),
        ("split.row_key", ["item", "item"], "item is listed twice"),
        ("evaluate.slices", ["hour", "hour"], "hour is listed twice"),
    ],
)
def test_a_column_has_one_place_in_a_list(tmp_path: Path, key: str, value: Any, message: str) -> None:
    """Two features of one name would be taken for one another."""
    [line] = problems(tmp_path, {key: value})
    assert line.startswith(key)
    assert f": {message}" in line
