"""Settings that `qin init` writes for logs of several shapes."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.config import load_params
from qin.runtime import paths
from qin.runtime.errors import ConfigError, DataError, SchemaError
from qin.runtime.stage import STAGES
from tests.project import SMALL, copy_project, git, set_params
from tests.setup.logs import NUM_ROWS, init, rng, shop, write
from tests.stages.run import run_in_process


def test_a_shop_gets_every_part(tmp_path: Path) -> None:
    params, plan, text = init(write(tmp_path, shop(), test_rows=100))
    assert (params.data.label, params.data.id) == ("clicked", "ID")
    assert params.features.target == ["item_id"]
    assert plan.attributes == ["brand"]
    assert params.features.numeric == ["price"]
    assert params.features.categorical == ["user_id", "item_id", "brand"]
    tags, history = params.features.sequences
    assert (tags.name, tags.separator, tags.vocabulary_of) == ("tags", "|", None)
    assert (history.name, history.separator, history.vocabulary_of) == ("history", " ", "item_id")
    assert (params.split.method, params.split.time_col, params.split.group_key) == ("time", "time", "user_id")
    assert params.data.ignore == ["time"]
    assert "# the user, " in text
    assert "CHECK: not there yet" not in text


def test_settings_that_no_log_decides_are_taken_over(tmp_path: Path) -> None:
    base = load_params(paths.PARAMS)
    params, _, text = init(write(tmp_path, shop(), test_rows=100))
    assert params.model == base.model
    assert params.train == base.train
    assert params.features.statistics == base.features.statistics
    assert "# Share of elements dropped from each layer's output." in text
    assert "reference log (the Toss" not in text


@pytest.mark.parametrize(("purpose", "prior"), [("probabilities", "natural"), ("score", "balanced")])
def test_what_the_output_is_for_decides_the_prior(tmp_path: Path, purpose: str, prior: str) -> None:
    params, _, text = init(write(tmp_path, shop(), test_rows=100), purpose=purpose)
    assert params.predict.prior == prior
    assert ("WLL" in text.split("\npredict:")[1]) == (purpose == "score")


def test_rows_at_random_where_there_is_neither_time_nor_user_nor_history_nor_measure(tmp_path: Path) -> None:
    log = shop()[["item_id", "brand", "clicked"]].assign(colour=rng().integers(0, 5, NUM_ROWS))
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert params.split.method == "stratified"
    assert params.split.row_key
    assert (params.features.numeric, params.features.sequences) == ([], [])
    assert params.features.target == ["item_id"]


@pytest.mark.parametrize("form", ["%Y%m%d", "%Y%m%d%H", "%y%m%d%H"])
def test_digits_of_a_day_or_an_hour_are_a_time(tmp_path: Path, form: str) -> None:
    log = shop()
    hour = [pd.Timestamp(one).strftime(form) for one in log.pop("time")]
    params, _, _ = init(write(tmp_path, log.assign(hour=pd.Series(hour).astype(int)), test_rows=100))
    assert (params.split.method, params.split.time_col) == ("time", "hour")


@pytest.mark.parametrize(("first", "last"), [(0, 23), (2_345_678, 61_999_999)])
def test_hours_of_a_day_and_durations_are_no_time(tmp_path: Path, first: int, last: int) -> None:
    log = shop().drop(columns="time").assign(hour=rng().integers(first, last, NUM_ROWS, endpoint=True))
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert params.split.time_col is None


def test_rows_by_user_where_there_is_no_time(tmp_path: Path) -> None:
    params, _, _ = init(write(tmp_path, shop().drop(columns="time"), test_rows=100))
    assert (params.split.method, params.split.group_key) == ("group_user", "user_id")


def test_measures_alone_still_have_a_target(tmp_path: Path) -> None:
    log = pd.DataFrame({name: rng(seed).normal(size=NUM_ROWS) for seed, name in enumerate(("a", "b"))})
    log["c"] = rng(3).integers(0, 900, NUM_ROWS) / 7
    log["clicked"] = rng(4).integers(0, 2, NUM_ROWS)
    params, plan, text = init(write(tmp_path, log, test_rows=100))
    assert params.features.target == ["c"]
    assert plan.roles["c"].is_guess
    assert "- c  # CHECK:" in text


def test_other_labels_and_what_test_lacks_are_dropped(tmp_path: Path) -> None:
    log = shop().assign(liked=lambda one: one["clicked"] * rng(1).integers(0, 2, NUM_ROWS), watched_seconds=1.5)
    outcomes = ("clicked", "liked", "watched_seconds")
    params, plan, _ = init(write(tmp_path, log, test_rows=100, without=outcomes))
    assert params.data.label == "clicked"
    assert params.data.drop == ["liked", "watched_seconds"]
    assert "another label" in plan.roles["liked"].reason
    swapped, _, _ = init(tmp_path / "train.parquet", label="liked")
    assert swapped.data.label == "liked"
    assert "clicked" in swapped.data.drop


def test_without_test_likely_outcomes_are_dropped_and_marked(tmp_path: Path) -> None:
    clicked = shop()["clicked"].to_numpy()
    log = shop().assign(
        liked=clicked & rng(1).integers(0, 2, NUM_ROWS), dwell=clicked * rng(2).exponential(size=NUM_ROWS)
    )
    params, plan, text = init(write(tmp_path, log))
    assert params.data.label == "clicked"
    assert set(params.data.drop) == {"liked", "dwell"}
    assert plan.roles["dwell"].is_guess
    assert text.count("CHECK: not there yet") == 2


def test_a_column_that_tells_the_label_is_dropped_though_test_has_it(tmp_path: Path) -> None:
    log = shop().assign(answer=lambda one: np.where(one["clicked"] == 1, "yes", "no"))
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert params.data.drop == ["answer"]


def test_one_of_several_labels_is_asked_for_or_marked(tmp_path: Path) -> None:
    log = shop().rename(columns={"clicked": "like"}).assign(share=rng(5).integers(0, 2, NUM_ROWS))
    train = write(tmp_path, log)
    params, plan, text = init(train)
    assert params.data.label == "like"
    assert not plan.label.is_sure
    assert "CHECK: To be predicted" in text
    asked: list[list[str]] = []

    def ask(question: str, choices: list[str]) -> str:
        asked.append(choices)
        return "share"

    params, plan, _ = init(train, ask=ask)
    assert (params.data.label, plan.label.is_sure, asked) == ("share", True, [["like", "share"]])


def test_constants_names_of_rows_and_free_text_are_no_inputs(tmp_path: Path) -> None:
    words = np.array(["a", "big", "red", "box", "of", "tea"])
    log = shop().assign(
        row=[f"r{row}" for row in range(NUM_ROWS)],
        one=1,
        none=None,
        title=[" ".join(rng(row).choice(words, 6)) for row in range(NUM_ROWS)],
        vector=[list(rng(row).normal(size=3)) for row in range(NUM_ROWS)],
    )
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert set(params.data.drop) == {"one", "none"}
    assert set(params.data.ignore) == {"time", "row", "title", "vector"}


def test_rows_shown_together_are_found_by_session_and_time(tmp_path: Path) -> None:
    log = shop(NUM_ROWS)
    shown = np.arange(NUM_ROWS) // 6
    log = log.assign(
        session_id=[f"s{number // 3}" for number in shown],
        time=pd.Timestamp("2026-01-01") + pd.to_timedelta(shown * 60, unit="s"),
        position=np.arange(NUM_ROWS) % 6 + 1,
        clicked=(np.arange(NUM_ROWS) % 6 == shown % 6).astype(int),
    )
    params, plan, text = init(write(tmp_path, log, test_rows=120))
    assert params.features.impression.key == ["session_id", "time"]
    assert params.features.impression.columns == ["price", "position"]
    assert plan.impression is not None
    assert plan.impression.mean_rows == 6
    assert "100% of the rows share session_id and time" in " ".join(text.replace("#", "").split())


def test_a_request_is_an_impression_and_no_input(tmp_path: Path) -> None:
    log = shop().assign(request_id=[f"q{row // 5}" for row in range(NUM_ROWS)])
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert params.features.impression.key == ["request_id"]
    assert "request_id" in params.data.ignore


def test_buckets_are_four_for_each_value(tmp_path: Path) -> None:
    log = shop().assign(item_id=lambda one: [f"i{row % 700}" for row in range(NUM_ROWS)])
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert params.features.num_buckets == 1024
    assert params.features.num_buckets_of == {"item_id": 4096}


def test_names_that_yaml_reads_otherwise_stay_names(tmp_path: Path) -> None:
    odd = ["on", "null", "1", "a: b", "# c", "price[usd]", "ünï", "two words", '"q"']
    log = shop().assign(**{name: rng(number).integers(0, 4, NUM_ROWS) for number, name in enumerate(odd)})
    params, _, _ = init(write(tmp_path, log, test_rows=100))
    assert set(odd) <= set(params.features.categorical)


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        (shop().drop(columns="clicked"), {}, "no column has the values 0 and 1"),
        (shop(), {"label": "clicks"}, "--label clicks: no such column"),
        (shop(), {"label": "price"}, "column price: a label has the values 0 and 1"),
        (shop()[["clicked"]], {}, "no column is left that the label could be predicted from"),
    ],
    ids=["no label", "unknown label", "measure as label", "nothing else"],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, log: pd.DataFrame, options: dict[str, str], message: str) -> None:
    train = write(tmp_path, log)
    with pytest.raises(SchemaError, match=message) as caught:
        init(train, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "params.yaml").exists()


def test_a_file_that_is_no_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        init(tmp_path / "train.parquet")
    (tmp_path / "train.parquet").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        init(tmp_path / "train.parquet")


def test_edited_settings_are_kept_without_force(tmp_path: Path) -> None:
    train = write(tmp_path / "log", shop(), test_rows=100)
    out = tmp_path / "params.yaml"
    out.write_text("data: mine\n")
    with pytest.raises(ConfigError, match="--force"):
        init(train, out=out, force=False)
    assert out.read_text() == "data: mine\n"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "add", "params.yaml")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "mine")
    params, _, _ = init(train, out=out, force=False)  # git still has the other
    assert params.data.label == "clicked"
    with pytest.raises(ConfigError, match="--force"):
        init(train, out=out, force=False)


@pytest.mark.parametrize("name", ["kuairand", "trivago", "ml1m_collm"])
def test_visible_logs_get_the_settings_that_people_chose(shared: Path, tmp_path: Path, name: str) -> None:
    train = shared / "data" / name / "train.parquet"
    if not train.exists():
        pytest.skip(f"needs ../shared/data/{name}, which is not part of the repository")
    params, _, _ = init(train, out=tmp_path / "params.yaml")
    assert (params.data.label, params.data.id) == ("clicked", "ID")
    assert (params.split.method, params.split.time_col, params.split.group_key) == ("time", "time", "user_id")
    item = {"kuairand": "video_id", "trivago": "item_id", "ml1m_collm": "movie_id"}[name]
    assert params.features.target == [item]
    shares = {one.name: one.vocabulary_of for one in params.features.sequences}
    match name:
        case "kuairand":
            assert "liked" in params.data.drop
            assert shares == {"seq": item, "seq_recent": item, "tag": None}
            assert set(params.features.numeric) == {
                *("server_width", "server_height", "video_duration", "register_days", "freshness_days"),
                *("follow_user_num", "fans_user_num", "friend_user_num"),
            }
            assert params.features.impression.key is None
        case "trivago":
            assert shares == {"seq": item, "current_filters": None}
            assert params.features.sequences[0].separator == "|"
            assert params.features.impression.key == ["session_id", "time"]
            assert {"price", "position"} <= set(params.features.impression.columns or [])
        case "ml1m_collm":
            assert shares == {"seq": item}
            assert params.features.numeric == []
            assert params.features.impression.key is None


def test_columns_as_other_writers_have_them(tmp_path: Path) -> None:
    """Views, dictionaries, text that is no UTF-8 and numbers of every width are profiled as any other column."""
    table = pa.Table.from_pandas(shop(), preserve_index=False)
    expected, _, _ = init(write(tmp_path / "plain", shop()))
    broken = pa.array([b"caf\xe9" if row % 2 else b"tea" for row in range(NUM_ROWS)], pa.binary())
    forms = {
        "user_id": table["user_id"].cast(pa.string_view()),
        "item_id": table["item_id"].combine_chunks().dictionary_encode(),
        "brand": table["brand"].cast(pa.large_string()),
        "price": table["price"].combine_chunks().dictionary_encode(),
        "history": table["history"].cast(pa.string_view()),
        "clicked": table["clicked"].cast(pa.decimal128(20, 0)),
    }
    for name, array in forms.items():
        table = table.set_column(table.column_names.index(name), name, array)
    table = table.append_column("drink", pa.Array.from_buffers(pa.string(), NUM_ROWS, broken.buffers()))
    (tmp_path / "odd").mkdir()
    pq.write_table(table, tmp_path / "odd/train.parquet")
    found, _, _ = init(tmp_path / "odd/train.parquet")
    assert found.features.sequences == expected.features.sequences
    assert found.features.categorical == [*expected.features.categorical, "drink"]
    assert found.features.numeric == expected.features.numeric
    assert found.split == expected.split.model_copy(update={"row_key": found.split.row_key})


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(shop(), preserve_index=False)
    pq.write_table(table.append_column("brand", table["brand"]), tmp_path / "train.parquet")
    with pytest.raises(SchemaError, match=r"train\.parquet: column brand: occurs 2 times"):
        init(tmp_path / "train.parquet")


def test_the_sample_log_gets_settings(small_log: Path, tmp_path: Path) -> None:
    params, plan, _ = init(small_log / "train.parquet", out=tmp_path / "params.yaml")
    assert (params.data.label, params.data.id, params.split.method) == ("clicked", "ID", "stratified")
    assert [one.name for one in params.features.sequences] == ["seq"]
    assert {"l_feat_20", "l_feat_23"} <= set(params.data.drop)
    assert len(plan.of_kind("numeric")) > 50


@pytest.mark.slow
def test_stages_run_on_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log", shop(3000), test_rows=200)
    project = copy_project(tmp_path / "project", log=tmp_path / "log")
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["init", "data/train.parquet", "--force", "--for", "score"])
    assert done.exit_code == 0, done.output
    assert "target: item_id (a history holds its values)" in done.output
    small = {name: value for name, value in SMALL.items() if name.split(".")[0] in ("model", "train", "evaluate")}
    set_params(project / "params.yaml", small)
    for stage in STAGES:
        run_in_process(stage)
    submission = pd.read_csv("outputs/submission.csv")
    assert submission["ID"].tolist() == [f"T{row}" for row in range(200)]
    assert submission["clicked"].between(0.0, 1.0, inclusive="neither").all()
