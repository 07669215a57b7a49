"""The generated log: shape, published facts, determinism, all-or-nothing files, and an honest truth."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import qin.sample.blocks
import qin.sample.writer
from qin.runtime.errors import ArtifactError, ConfigError
from qin.sample import SAMPLE_FILES, sample_size, write_sample
from qin.sample.blocks import Block, make_block
from qin.sample.columns import JOINT_NULL_COLUMNS
from qin.sample.histories import RECENT_TOKENS
from qin.sample.streams import Split
from qin.sample.world import MATCH_CAP_TOKENS, MATCH_GAIN, hidden_world

TRAIN_ROWS = 60_000
TEST_ROWS = 3_000


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    write_sample(out, seed=7, size=sample_size(TRAIN_ROWS, test_rows=TEST_ROWS))
    return out


@pytest.fixture(scope="module")
def train(sample: Path) -> pa.Table:
    return pq.read_table(sample / "train.parquet")


@pytest.fixture(scope="module")
def held_out(sample: Path) -> pa.Table:
    return pq.read_table(sample / "test.parquet")


@pytest.fixture(scope="module")
def truth(sample: Path) -> pd.DataFrame:
    return pd.read_parquet(sample / "truth" / "train.parquet")


def _column(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = table[name].to_numpy()
    return values


def _published_columns() -> list[str]:
    """The order of the reference description, spelled out independently of the package."""
    names = ["gender", "age_group", "inventory_id", "day_of_week", "hour", "seq"]
    counts = {"l_feat": 27, "feat_e": 10, "feat_d": 6, "feat_c": 8, "feat_b": 6, "feat_a": 18}
    counts |= {"history_a": 7, "history_b": 30}
    return names + [f"{prefix}_{number}" for prefix, count in counts.items() for number in range(1, count + 1)]


def _digests(out: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256((out / file).read_bytes()).hexdigest() for file in SAMPLE_FILES}


def test_columns_and_types(train: pa.Table, held_out: pa.Table) -> None:
    features = _published_columns()
    assert train.column_names == [*features, "clicked"]
    assert held_out.column_names == ["ID", *features]
    assert train.num_columns == held_out.num_columns == 119
    types = [str(field.type) for field in train.schema]
    assert types == ["string"] * 6 + ["float"] * 112 + ["int32"]
    assert held_out.schema.types == [pa.string(), *train.schema.types[:-1]]


def test_row_ids_match_the_submission(sample: Path, held_out: pa.Table) -> None:
    expected = [f"TEST_{row:07d}" for row in range(TEST_ROWS)]
    assert held_out["ID"].to_pylist() == expected
    submission = pd.read_csv(sample / "sample_submission.csv")
    assert submission.columns.tolist() == ["ID", "clicked"]
    assert submission["ID"].tolist() == expected


def test_train_is_one_row_group(sample: Path) -> None:
    metadata = pq.read_metadata(sample / "train.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (TRAIN_ROWS, 1)
    assert metadata.row_group(0).column(5).compression == "ZSTD"


def test_days_are_contiguous_runs(train: pa.Table, held_out: pa.Table) -> None:
    days = _column(train, "day_of_week")
    run_starts = 1 + np.flatnonzero(days[1:] != days[:-1])
    assert sorted(days[[0, *run_starts]]) == ["1", "2", "3", "4", "5", "6", "7"]
    assert set(held_out["day_of_week"].to_pylist()) == {"7"}


def test_string_vocabularies(train: pa.Table) -> None:
    inventory = (2, 8, 11, 19, 21, 29, 31, 36, 37, 39, 41, 42, 43, 46, 88, 91, 92, 95)
    assert set(train["inventory_id"].to_pylist()) == set(map(str, inventory))
    assert set(train["hour"].to_pylist()) == {f"{hour:02d}" for hour in range(24)}
    assert set(train["gender"].drop_null().to_pylist()) == {"1.0", "2.0"}
    assert set(train["age_group"].drop_null().to_pylist()) == {f"{age}.0" for age in range(1, 9)}


@pytest.mark.parametrize(
    ("names", "num_values"),
    [
        (("l_feat_1", "l_feat_13", "l_feat_16"), 2),
        (("l_feat_3",), 3),
        (("l_feat_27",), 5),
        (("l_feat_26",), 18),
        (("l_feat_4",), 26),
        (("l_feat_20", "l_feat_23"), 1),
    ],
)
def test_low_cardinality_columns_show_all_values(train: pa.Table, names: tuple[str, ...], num_values: int) -> None:
    assert {name: pc.count_distinct(train[name]).as_py() for name in names} == dict.fromkeys(names, num_values)


@pytest.mark.parametrize(
    ("name", "num_values"),
    [
        *(("l_feat_10", 262), ("l_feat_7", 313), ("l_feat_9", 476), ("l_feat_6", 900), ("l_feat_5", 1_076)),
        *(("l_feat_11", 1_524), ("l_feat_25", 1_788), ("l_feat_15", 2_582), ("l_feat_14", 3_237)),
        ("l_feat_12", 5_050),
    ],
)
def test_high_cardinality_columns_stay_within_their_values(train: pa.Table, name: str, num_values: int) -> None:
    values = _column(train, name)
    assert values.min() >= 1
    assert 0.9 * num_values < values.max() <= num_values


def test_ads_are_nested(train: pa.Table) -> None:
    frame = train.select(["l_feat_12", "l_feat_14", "l_feat_11", "l_feat_10", "l_feat_26"]).to_pandas()
    for child, parent in zip(frame.columns[:-1], frame.columns[1:], strict=True):
        assert frame.groupby(child)[parent].nunique().max() == 1, (child, parent)
    assert train["l_feat_9"].equals(train["l_feat_17"])


def test_world_has_every_published_level() -> None:
    world = hidden_world()
    sizes = [np.unique(codes).size for codes in (world.ad_set, world.campaign, world.advertiser, world.category)]
    assert sizes == [3_237, 1_524, 262, 18]
    assert {name: np.unique(codes).size for name, codes in world.attributes.items()} == {
        "l_feat_5": 1_076,
        "l_feat_15": 2_582,
        "l_feat_25": 1_788,
    }


def test_nulls(train: pa.Table) -> None:
    is_null = {name: pc.is_null(train[name]).to_numpy() for name in train.column_names}
    joint = is_null["gender"]
    assert 0 < joint.mean() < 0.004
    for name in JOINT_NULL_COLUMNS:
        np.testing.assert_array_equal(is_null[name], joint, err_msg=name)
    feat_a = is_null["feat_a_1"]
    assert all(np.array_equal(is_null[f"feat_a_{number}"], feat_a) for number in range(1, 19))
    assert feat_a[joint].all()
    assert 0.09 < is_null["feat_e_3"].mean() < 0.11
    allowed = {*JOINT_NULL_COLUMNS, "feat_e_3", *(f"feat_a_{number}" for number in range(1, 19))}
    assert not any(mask.any() for name, mask in is_null.items() if name not in allowed)


def test_null_columns_are_the_published_ones() -> None:
    named = {"gender", "age_group", "l_feat_2", "l_feat_8", *(f"l_feat_{number}" for number in range(18, 25))}
    families = re.compile(r"(feat_[bcde]|history_[ab])_\d+")
    numeric = {name for name in _published_columns() if families.fullmatch(name)} - {"feat_e_3"}
    assert named | numeric == JOINT_NULL_COLUMNS


def test_heavy_tails(train: pa.Table) -> None:
    distinct = [pc.count_distinct(train[name]).as_py() for name in ("feat_c_2", "feat_e_2", "feat_b_6", "feat_d_4")]
    assert distinct[0] > 50_000 > distinct[1] > 20_000 > distinct[2] > 3_000
    for name in ("feat_c_2", "feat_e_2", "feat_b_6", "feat_d_4"):
        values = _column(train, name)
        assert np.nanmean(values) > 3 * np.nanmedian(values), name


def test_history_b_is_nearly_collinear(train: pa.Table) -> None:
    names = [f"history_b_{number}" for number in range(3, 31)]
    values = np.stack([_column(train, name) for name in names])
    correlation = np.corrcoef(values[:, ~np.isnan(values[0])].astype(np.float64))
    assert correlation.min() > 0.995


def _tokens(table: pa.Table) -> pd.Series:
    return table["seq"].to_pandas().str.split(",")


def test_sequences_are_ids_of_the_vocabulary(held_out: pa.Table) -> None:
    tokens = np.concatenate(_tokens(held_out).to_numpy()).astype(np.int64)
    assert tokens.min() >= 1
    assert tokens.max() <= 594
    assert np.unique(tokens).size == 594


def test_sequence_lengths(train: pa.Table) -> None:
    lengths = 1 + pc.count_substring(train["seq"], ",").to_numpy()
    assert lengths.max() == 14_441
    np.testing.assert_allclose(np.quantile(lengths, [0.25, 0.5, 0.75]), [195, 460, 807], rtol=0.03)
    assert abs(lengths.mean() / 530 - 1) < 0.03
    assert abs((lengths > 100).mean() - 0.86) < 0.01
    assert abs((lengths == 1).mean() - 0.0055) < 5 * np.sqrt(0.0055 / TRAIN_ROWS)


def test_one_exact_duplicate(train: pa.Table) -> None:
    duplicates = train.drop_columns(["seq"]).to_pandas().duplicated()
    assert np.flatnonzero(duplicates).tolist() == [1]
    assert train["seq"][0] == train["seq"][1]


def test_sequence_effect_counts_recent_tokens_of_the_target_topic(sample: Path, held_out: pa.Table) -> None:
    world = hidden_world()
    targets = world.topic[_column(held_out, "l_feat_12").astype(np.int64) - 1]
    recent = [np.array(tokens[-RECENT_TOKENS:], dtype=np.int64) for tokens in _tokens(held_out)]
    pairs = zip(recent, targets, strict=True)
    matches = np.array([(world.tokens.topics[tokens] == target).sum() for tokens, target in pairs])
    expected = MATCH_GAIN * np.minimum(matches, MATCH_CAP_TOKENS) / MATCH_CAP_TOKENS
    truth = pd.read_parquet(sample / "truth" / "test.parquet")
    np.testing.assert_allclose(truth["sequence"], expected, rtol=1e-6)


def test_probability_is_the_logistic_function_of_the_parts(truth: pd.DataFrame) -> None:
    logit = truth[["main", "interaction", "sequence"]].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(truth["probability"], 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_labels_are_drawn_from_the_probability(sample: Path, train: pa.Table, truth: pd.DataFrame) -> None:
    probability = truth["probability"].to_numpy()
    error = _column(train, "clicked") - probability
    standard_error = np.sqrt((probability * (1 - probability)).sum()) / len(probability)
    assert abs(error.mean()) < 4 * standard_error
    assert abs(probability.mean() - 0.019075) < 4 * probability.std() / np.sqrt(len(probability))
    test_truth = pd.read_parquet(sample / "truth" / "test.parquet")
    assert set(test_truth["clicked"]) == {0, 1}


def _expected_auc(probability: pd.Series, score: pd.Series) -> float:
    """AUC with every row counted as a click and as none, by its probability: no noise from drawn labels."""
    label = np.repeat([1, 0], len(score))
    auc: float = roc_auc_score(label, np.tile(score, 2), sample_weight=np.concatenate([probability, 1 - probability]))
    return auc


def test_truth_ranks_clicks_better_than_its_parts(train: pa.Table, truth: pd.DataFrame) -> None:
    assert 0.77 <= roc_auc_score(_column(train, "clicked"), truth["probability"]) <= 0.83
    probability = truth["probability"]
    full = _expected_auc(probability, probability)
    without_sequence = _expected_auc(probability, truth["main"] + truth["interaction"])
    main = _expected_auc(probability, truth["main"])
    assert 0.79 <= full <= 0.81
    assert 0.69 <= main <= 0.71
    assert main + 0.003 < without_sequence < full - 0.08


def test_click_rates_by_level(train: pa.Table, truth: pd.DataFrame) -> None:
    frame = train.select(["age_group", "inventory_id", "day_of_week"]).to_pandas()
    frame["rate"] = truth["probability"]
    for column, level, rate in (
        ("age_group", "1.0", 0.067),
        ("inventory_id", "8", 0.007),
        ("inventory_id", "92", 0.059),
        ("day_of_week", "1", 0.0167),
        ("day_of_week", "2", 0.0209),
    ):
        group = frame.loc[frame[column] == level, "rate"]
        assert abs(group.mean() - rate) < 4 * group.std() / np.sqrt(len(group)), (column, level)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    size = sample_size(1_500, test_rows=200)
    for folder, seed in (("first", 3), ("second", 3), ("other", 4)):
        write_sample(tmp_path / folder, seed=seed, size=size)
    assert _digests(tmp_path / "first") == _digests(tmp_path / "second")
    first, other = _digests(tmp_path / "first"), _digests(tmp_path / "other")
    assert [file for file in first if first[file] == other[file]] == ["sample_submission.csv"]


def test_row_groups_do_not_change_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qin.sample.blocks, "BLOCK_ROWS", 400)
    write_sample(tmp_path / "one", seed=3, size=sample_size(1_500, test_rows=500))
    write_sample(tmp_path / "many", seed=3, size=sample_size(1_500, test_rows=500, row_group_rows=350))
    metadata = pq.read_metadata(tmp_path / "many" / "train.parquet")
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [350, 350, 350, 350, 100]
    for file in SAMPLE_FILES:
        if file.suffix == ".parquet":
            assert pq.read_table(tmp_path / "one" / file).equals(pq.read_table(tmp_path / "many" / file)), file


def test_rows_of_a_longer_file_differ_in_day_and_label_only(tmp_path: Path) -> None:
    write_sample(tmp_path / "short", seed=3, size=sample_size(1_000, test_rows=100))
    write_sample(tmp_path / "long", seed=3, size=sample_size(1_400, test_rows=150))
    short, long = (pq.read_table(tmp_path / name / "train.parquet") for name in ("short", "long"))
    depends_on_length = ["day_of_week", "clicked"]
    assert long.slice(0, 1_000).drop_columns(depends_on_length).equals(short.drop_columns(depends_on_length))
    test_rows = [pq.read_table(tmp_path / name / "test.parquet") for name in ("short", "long")]
    assert test_rows[1].slice(0, 100).equals(test_rows[0])


def test_default_test_rows_keep_the_reference_proportion() -> None:
    assert sample_size(10_704_179).test_rows == 1_527_298
    assert sample_size(100_000).test_rows == 14_268
    assert sample_size(1).test_rows == 1


@pytest.mark.parametrize("train_rows", [1, 2, 9])
def test_tiny_samples(tmp_path: Path, train_rows: int) -> None:
    write_sample(tmp_path, seed=0, size=sample_size(train_rows))
    assert pq.read_metadata(tmp_path / "train.parquet").num_rows == train_rows


@pytest.mark.parametrize("file", [str(file) for file in SAMPLE_FILES])
def test_refuses_to_overwrite_any_file(tmp_path: Path, file: str) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / file).write_bytes(b"precious")
    with pytest.raises(ArtifactError, match=re.escape(file)):
        write_sample(tmp_path, seed=0, size=sample_size(10))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file]
    assert (tmp_path / file).read_bytes() == b"precious"
    write_sample(tmp_path, seed=0, size=sample_size(10), overwrite=True)
    assert (tmp_path / file).read_bytes() != b"precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def fail(block: int, *, seed: int, split: Split, num_rows: int) -> Block:
        if block == 1:
            raise error
        return make_block(block, seed=seed, split=split, num_rows=num_rows)

    monkeypatch.setattr(qin.sample.blocks, "BLOCK_ROWS", 400)
    monkeypatch.setattr(qin.sample.writer, "make_block", fail)
    with pytest.raises(error):
        write_sample(tmp_path, seed=0, size=sample_size(1_000))
    assert list(tmp_path.iterdir()) == []


def test_size_rules() -> None:
    with pytest.raises(ConfigError, match="--rows must be at least 1, got 0"):
        sample_size(0)
    with pytest.raises(ConfigError, match="--row-group-rows must be at least 1, got -5"):
        sample_size(10, row_group_rows=-5)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "qin.sample", *arguments], capture_output=True, text=True, check=False)


def test_command_line(tmp_path: Path) -> None:
    arguments = ("--rows", "200", "--test-rows", "50", "--out", str(tmp_path))
    first = _run(*arguments)
    assert first.returncode == 0, first.stderr
    assert pq.read_metadata(tmp_path / "test.parquet").num_rows == 50
    second = _run(*arguments)
    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1
    assert str(tmp_path / "train.parquet") in second.stderr


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for arguments in (("--rows", "0"), ("--seed", "-1"), ("--rows", "5", "--out", str(tmp_path / "file" / "data"))):
        result = _run(*arguments)
        assert result.returncode == 1, arguments
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1, result.stderr
