"""Two pipelines that have run: on the sample log, and on a log with all that a row may be compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qin.config.strict_yaml import read_yaml
from qin.features.artifact import Statistics
from tests.logs import make_log, write_log
from tests.project import copy_project, set_params
from tests.stages.run import run_all

STAGES = ("prepare", "split", "train", "trees", "calibrate", "predict")
QUICK: dict[str, Any] = {"train.epochs": 1, "trees.max_rounds": 8, "trees.learning_rate": 0.3}

# Every kind of feature: matches in a history, impressions, pairs, cosines, moments, decimals, and shifts by a segment.
RICH: dict[str, Any] = {
    "data.drop": [],
    "data.ignore": ["request", "place", "noise_*"],
    "features.categorical": ["shop", "item", "user", "day", "cost"],
    "features.numeric": ["price", "views", "second"],  # seconds since 1970, which differ in late digits
    "features.sequences": [
        {"name": "seq", "max_len": 4, "num_buckets": 500},
        {"name": "recent", "max_len": 3, "vocabulary_of": "item"},
    ],
    "features.target": ["item"],
    "features.impression": {"key": ["request"], "columns": ["price", "place"]},
    "features.statistics.pairs": [["user", "shop"], ["recent", "item"]],
    "features.statistics.drift_psi": None,
    "split.time_col": "day",
    "split.row_key": None,
    "split.group_key": "user",
    "calibration.by": "place",
}


def run_pipeline(folder: Path, log: Path, changes: dict[str, Any]) -> Path:
    project = copy_project(folder / "project", log=log)
    tree = read_yaml(project / "params.yaml")
    plain = {key: value for key, value in changes.items() if key.split(".")[1] in tree[key.split(".")[0]]}
    assert plain == changes
    set_params(project / "params.yaml", changes)
    run_all(project, STAGES)
    return project


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Path:
    """A project that ran on the sample log."""
    return run_pipeline(tmp_path_factory.mktemp("sampled"), small_log, QUICK)


def rich_columns(num_rows: int, *, seed: int) -> dict[str, pa.Array]:
    """Columns of `make_log`, and a user, a request of a few rows, a place as text, a moment, a decimal."""
    generator = np.random.default_rng(seed)
    columns = make_log(num_rows, seed=seed)
    second = generator.integers(0, 5 * 86400, num_rows) * 1_000_000
    cents = generator.integers(0, 9, num_rows)
    columns |= {
        "user": pa.array([f"u{number}" for number in generator.integers(0, 40, num_rows)]).dictionary_encode(),
        "request": pa.array(np.sort(generator.integers(0, num_rows // 4, num_rows))),
        "place": pa.array([str(number) for number in generator.integers(1, 6, num_rows)]),
        "day": pa.array(second, pa.timestamp("us")),
        "second": pa.array(1_650_844_800 + second // 1_000_000),
        "cost": pa.array([f"{number}.50" for number in cents]).cast(pa.decimal128(9, 2)),
    }
    rate = 0.15 + 0.5 * (cents > 5) + 0.2 * (np.array(columns["views"]) > 500)
    columns["clicked"] = pa.array((generator.random(num_rows) < rate).astype(np.int8))
    return columns


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that ran on a log with everything that a model may read."""
    log = tmp_path_factory.mktemp("rich_log")
    write_log(log / "train.parquet", rich_columns(3000, seed=3))
    test = rich_columns(300, seed=4)
    del test["clicked"]
    write_log(log / "test.parquet", test)
    lines = ["ID,clicked", *(f"{row},0" for row in test["ID"].to_pylist())]
    (log / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    learns: dict[str, Any] = {"train.epochs": 8, "train.lr": 0.01, "train.batch_size": 128, "trees.max_rounds": 4}
    changes = {"features.num_buckets_of": {}, "features.num_buckets": 256, **RICH, **QUICK, **learns}
    project = run_pipeline(tmp_path_factory.mktemp("rich"), log, changes)
    assert "stat.recent:item.cosine_sum" in Statistics(project / "artifacts/statistics").names
    return project
