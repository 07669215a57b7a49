"""A walk forward: a day is scored by a model that has not seen it, warm from the day before; a killed one goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.config import Params, load_params
from qin.experiments import backtest
from qin.experiments.backtest import Walk, open_walk, table, walk_forward
from qin.experiments.backtest_page import chart, points, write_page
from qin.experiments.trial import Trial
from qin.runtime.errors import ConfigError
from tests.logs import make_log
from tests.project import ROOT, SMALL, set_params

NUM_ROWS, NUM_DAYS = 4000, 5
DAYS = [f"2022-04-{25 + number}" for number in range(NUM_DAYS)]
METRICS = ("ap", "auc", "log_loss", "ne", "wll", "wll_balanced", "calibration_ratio")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of five days in which cheap rows are clicked, and settings that walk over it."""
    generator = np.random.default_rng(0)
    columns = make_log(NUM_ROWS, seed=0)
    second = np.sort(generator.integers(0, NUM_DAYS * 86400, NUM_ROWS))
    columns["time"] = pa.array(1_650_844_800_000_000 + second * 1_000_000, pa.timestamp("us"))
    price = np.array([0.0 if value is None else value for value in columns["price"].to_pylist()])
    columns["clicked"] = pa.array((generator.random(NUM_ROWS) < 1 / (1 + np.exp(1 + 2 * price))).astype(np.int8))
    del columns["ID"]
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    changes: dict[str, Any] = {
        **{key: value for key, value in SMALL.items() if not key.startswith("features.sequences")},
        "data.train": "train.parquet",
        "data.drop": [],
        "data.ignore": ["time", "recent"],
        "features.categorical": ["shop", "item"],
        "features.numeric": ["price", "views"],
        "features.sequences": [{"name": "seq", "max_len": 4, "num_buckets": 500}],
        "features.target": ["item"],
        "split.row_key": None,
        "split.time_col": "time",
        "train.epochs": 1,
        "model.members": ["network"],
    }
    set_params(file, changes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params_of(project: Path) -> Params:
    return load_params(project / "params.yaml")


def test_what_cannot_be_walked_is_refused(project: Path) -> None:
    set_params(project / "params.yaml", {"split.time_col": None})
    with pytest.raises(ConfigError, match=r"^params\.yaml: split\.time_col: null; a backtest needs"):
        open_walk(params_of(project), num_days=None, variants=["fresh"])
    set_params(project / "params.yaml", {"split.time_col": "time", "train.init_from": "kept"})
    with pytest.raises(ConfigError, match=r"a backtest starts from models of its own"):
        open_walk(params_of(project), num_days=None, variants=["fresh"])
    set_params(project / "params.yaml", {"train.init_from": None})
    with pytest.raises(ConfigError, match=r"data\.label: no label seen; there are clicked"):
        open_walk(params_of(project), num_days=None, variants=["fresh"], label="seen")
    with pytest.raises(
        ConfigError, match=r"^the log has 5 days; 3 of them can be scored, not the 4 that were asked for"
    ):
        open_walk(params_of(project), num_days=4, variants=["fresh"])
    walk = open_walk(params_of(project), num_days=None, variants=["fresh"])
    assert [day.name for day in walk.scored] == DAYS[2:]


def test_a_day_is_trained_on_the_days_before_it_alone(project: Path) -> None:
    walk = open_walk(params_of(project), num_days=1, variants=["fresh"])
    found = backtest._settings(walk.days[:4], Path("rows"), Path("sample"))
    assert [Path(name).stem for name in found["data.train"]] == DAYS[:4]
    assert found["split.time_val_start"].startswith(DAYS[3])


def test_of_several_labels_one_is_walked(project: Path) -> None:
    """Its clicks are counted, the other label enters no feature, and figures are those of a log without the other."""
    table = pq.read_table("train.parquet")
    liked = pa.array(np.random.default_rng(1).integers(0, 2, NUM_ROWS), pa.int8())
    table = table.append_column("liked", liked)
    found = []
    for label, log in ((["clicked", "liked"], table), ("liked", table.drop_columns(["clicked"]))):
        pq.write_table(log, "train.parquet")
        set_params(project / "params.yaml", {"data.label": label})
        walk = open_walk(params_of(project), num_days=1, variants=["fresh"], label="liked")
        found += walk_forward(walk, lambda _: None)["days"]
    day = [time.date().isoformat() == DAYS[-1] for time in table.column("time").to_pylist()]
    assert found[0]["clicks"] == int(np.count_nonzero(liked.to_numpy()[day]))
    assert found[0] == found[1]


def test_a_probability_that_was_rounded_to_an_end_has_a_logit(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/submission.csv").write_text("ID,probability\n0,0\n1,0.5\n2,0.99999994\n3,1\n")
    logit = backtest._logits(Trial(tmp_path, ()))
    assert np.isfinite(logit).all()
    assert logit[1] == 0.0
    assert (np.diff(logit) > 0).all()


def figures(value: float) -> dict[str, Any]:
    errors = {f"{name}_se": 0.1 for name in METRICS}
    return {**dict.fromkeys(METRICS, value), **errors, "best_step": 7, "num_steps": 9}


def scored(walk: Walk, position: int) -> dict[str, Any]:
    change = {"difference": 0.1, "standard_error": 0.03}
    return {
        "day": walk.days[position].name,
        "rows": 10,
        "clicks": 5,
        "train_rows": 20,
        "warm_minus_fresh": {"auc": change},
        "fresh": figures(0.5 + position),
        "warm": figures(0.6 + position),
    }


def test_a_walk_that_was_ended_goes_on_where_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def once(walk: Walk, position: int) -> dict[str, Any]:
        asked.append(position)
        if asked == [2, 3]:
            raise KeyboardInterrupt
        return scored(walk, position)

    monkeypatch.setattr(backtest, "_score_day", once)
    walk = open_walk(params_of(project), num_days=None, variants=["fresh", "warm"])
    with pytest.raises(KeyboardInterrupt):
        walk_forward(walk, lambda _: None)
    lines: list[str] = []
    again = open_walk(params_of(project), num_days=None, variants=["fresh", "warm"])
    report = walk_forward(again, lines.append)
    assert asked == [2, 3, 3, 4]
    assert [day["day"] for day in report["days"]] == DAYS[2:]
    assert lines[0] == "2022-04-27: 10 rows; fresh AP 2.5000, AUC 2.5000; warm AP 2.6000, AUC 2.6000"
    assert report["mean"]["days"] == 2, "the first warm day has no earlier model"
    assert report["mean"]["fresh"]["auc"] == {"value": pytest.approx(4.0), "se": pytest.approx(0.1 / 2**0.5, rel=1e-4)}
    assert report["mean"]["warm_minus_fresh"]["auc"]["se"] == pytest.approx(0.03 / 2**0.5, rel=1e-4)
    set_params(project / "params.yaml", {"train.lr": 0.5})
    assert open_walk(params_of(project), num_days=None, variants=["fresh"]).root != walk.root


def test_a_walk_is_a_table_and_a_page(project: Path) -> None:
    walk = open_walk(params_of(project), num_days=None, variants=["fresh", "warm"])
    days = [scored(walk, position) for position in (2, 3, 4)]
    report = {"days": days, "variants": ["fresh", "warm"], "mean": backtest._mean(days)}
    lines = table(report)
    assert lines[0].split()[:5] == ["day", "model", "rows", "AP", "AUC"]
    assert len(lines) == 1 + 6 + 2 + 1
    assert lines[-1] == "warm - fresh, auc: +0.10000 (95% +0.05842 to +0.14158)"
    rows = points(report)
    assert len(rows) == 3 * 2 * 5
    assert rows[0]["upper"] - rows[0]["value"] == pytest.approx(0.196, abs=1e-4)
    assert chart(report)["data"]["values"] == rows
    for name in ("one.html", "two.html"):
        write_page(report, project / name)
    assert (project / "one.html").read_bytes() == (project / "two.html").read_bytes()


@pytest.mark.slow
def test_the_command_walks_over_a_log(project: Path) -> None:
    """The figures are those of the predictions, the later day starts from the earlier one's model, little is left."""
    learns = {"train.epochs": 4, "train.lr": 0.02, "train.batch_size": 64, "model.members": ["network", "trees"]}
    set_params(project / "params.yaml", learns)
    done = CliRunner().invoke(app, ["backtest", "--days", "2"])
    assert done.exit_code == 0, done.output
    report = json.loads((project / "outputs/backtest.json").read_text())
    first, second = report["days"]
    assert [first["day"], second["day"]] == DAYS[3:]
    assert first["fresh"] == first["warm"]
    assert first["warm_minus_fresh"]["auc"]["difference"] == 0.0
    assert second["fresh"] != second["warm"]
    assert all(day[variant]["auc"] > 0.75 for day in (first, second) for variant in ("fresh", "warm"))
    [root] = (project / ".qin/backtest").glob("*")
    assert not (root / "trials").exists()
    assert [folder.name for folder in (root / "kept").glob("*/*")] == [DAYS[4]]
    assert (project / "outputs/backtest.html").stat().st_size > 1000
    again = CliRunner().invoke(app, ["backtest", "--days", "2"])
    assert again.output.splitlines()[-1] == done.output.splitlines()[-1]
