"""Search spaces: as options and as files, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from qin.config import Params, load_params
from qin.experiments.space import Choice, Range, parse_choices, read_space
from qin.runtime.errors import ConfigError
from tests.project import ROOT


@pytest.fixture(scope="module")
def base() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.dropout=0.0,0.1", ("model.dropout", ["0.0", "0.1"])),
        ("train.lr=1e-3", ("train.lr", ["1e-3"])),
        ("features.target=[a,b],[c]", ("features.target", ["[a,b]", "[c]"])),
        ("split.time_val_start='2022-05-04, noon',x", ("split.time_val_start", ["'2022-05-04, noon'", "x"])),
        ('a={b: 1, c: "}"},2', ("a", ['{b: 1, c: "}"}', "2"])),
        ("a=b=c", ("a", ["b=c"])),
    ],
)
def test_choices(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_choices(text) == expected


@pytest.mark.parametrize("text", ["model.dropout", "model.dropout=", "=1", "a=1,,2", "a=1,"])
def test_bad_choices_are_named(text: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^--set-param {text}: expected KEY=LOW..HIGH, KEY=VALUE,VALUE or KEY=VALUE$"
    ):
        parse_choices(text)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("train.lr=1e-4..1e-2:log", Range(1e-4, 1e-2, is_log=True)),
        ("model.num_layers=1..4", Range(1, 4, is_whole=True)),
        ("model.embedding_dim=8..64:step=8", Range(8, 64, step=8, is_whole=True)),
        ("trees.l2=1..10", Range(1, 10)),  # a number in the settings, whatever its ends look like
        ("train.ema_decay=.9..0.999", Range(0.9, 0.999)),  # null in the settings
        ("imbalance.pos_weight=1..20", Range(1, 20)),
        ("model.norm=none,rms", Choice(("none", "rms"))),
        ("model.members=[network],[network,trees]", Choice((["network"], ["network", "trees"]))),
        ("train.ema_decay=null,0.99", Choice((None, 0.99))),
    ],
)
def test_a_dimension(option: str, expected: Range | Choice, base: Params) -> None:
    space = read_space([option], None, base)
    assert list(space.dimensions.values()) == [expected]
    assert space.fixed == {}


def test_one_value_is_set_everywhere_and_others_are_checked_with_it(base: Params) -> None:
    space = read_space(["model.num_heads=2,3", "model.attention_dim=24", "train.epochs=2"], None, base)
    assert space.fixed == {"model.attention_dim": 24, "train.epochs": 2}
    assert space.dimensions == {"model.num_heads": Choice((2, 3))}


def test_a_file_has_the_sections_of_the_settings(base: Params, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "train:\n  lr: 1e-4..1e-2:log\n  epochs: 3\nfeatures:\n  statistics:\n    num_blocks: [5, 10]\n"
        "model:\n  members:\n    - [network]\n    - [network, trees]\n"
    )
    space = read_space(["trees.l2=1,5"], file, base)
    assert space.dimensions == {
        "train.lr": Range(1e-4, 1e-2, is_log=True),
        "features.statistics.num_blocks": Choice((5, 10)),
        "model.members": Choice((["network"], ["network", "trees"])),
        "trees.l2": Choice((1, 5)),
    }
    assert space.fixed == {"train.epochs": 3}
    file.write_text("features:\n  num_buckets_of: {}\n")
    assert read_space([], file, base).fixed == {"features.num_buckets_of": {}}  # an empty mapping is a value
    for text in ("[1]\n", "train: 1\n", "train: {}\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"space\.yaml: expected sections such as `train:`"):
            read_space([], file, base)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["train.lrr=1,2"], "train.lrr: unknown key, did you mean train.lr?"),
        (["nosec.a=1,2"], "nosec: unknown key"),
        (["train.lr.x=1..2"], "train.lr.x: unknown key, train.lr is no section"),
        (["train.lr=0..1"], "train.lr: Input should be greater than 0"),
        (["train.lr=1..0.1"], "the range ends before it begins: 1..0.1"),
        (["train.lr=0..1:log"], "a range on the logarithm begins above 0: 0..1:log"),
        (["train.lr=0.1..1:lg"], "lg: expected log or step=NUMBER behind a range"),
        (["train.lr=0.1..1:step=2"], "a step must be above 0 and fit into the range"),
        (["model.num_layers=1.5..3"], "model.num_layers: Input should be a valid integer"),
        (["model.norm=none,batchs"], "model.norm: Input should be 'none', 'batch' or 'rms', did you mean batch?"),
        (["model.norm=none,none"], "model.norm: a value is given twice"),
        (["model.norm=none,rms", "model.norm=batch,rms"], "model.norm: given twice"),
        (["model.num_heads=1..3"], "num_heads must divide attention_dim 32, got 3"),
        (["split.seed=1,2"], "split.seed: not searched: it changes which rows are judged"),
        (["features.impression.key=null,[hour]"], "not searched: it changes which rows decide"),
        (["train.seed=0..5"], "train.seed: not searched: use --seeds"),
        (["evaluate.num_bins=2,3"], "not searched: it changes the report, not the model"),
        ([], "nothing to search: give --set-param KEY=LOW..HIGH"),
        (["train.lr=[1"], "train.lr=[1: not valid YAML"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: list[str], problem: str, base: Params) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(options, None, base)
    assert problem in str(caught.value)
    assert len(caught.value.lines) == 1


def test_all_problems_are_told_at_once(base: Params) -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(["train.lr=0..1", "split.seed=1,2"], None, base)
    assert len(caught.value.lines) == 2


def test_a_grid_is_every_combination(base: Params) -> None:
    space = read_space(["model.norm=none,rms", "trees.l2=1,5"], None, base)
    expected: list[dict[str, Any]] = [
        {"model.norm": "none", "trees.l2": 1},
        {"model.norm": "none", "trees.l2": 5},
        {"model.norm": "rms", "trees.l2": 1},
        {"model.norm": "rms", "trees.l2": 5},
    ]
    assert space.points() == expected
    with pytest.raises(ConfigError, match=r"train\.lr: a grid needs a list of values"):
        read_space(["train.lr=0.1..1"], None, base).points()


def test_drawn_numbers_have_few_digits_and_stay_inside() -> None:
    assert Range(0.1, 1.0).value(0.123456789) == 0.1235
    assert Range(0.100049, 1.0).value(0.100049) == 0.100049
    assert Range(1, 9, is_whole=True).value(3) == 3
