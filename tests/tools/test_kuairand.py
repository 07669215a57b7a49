"""KuaiRand's public files, made up and tiny, become the example's: histories end before their row, joins are right."""

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from qin.columns.resolve import resolve_schema
from qin.config import load_params
from qin.config.strict_yaml import read_yaml
from qin.experiments.overlay import overlaid
from qin.runtime.errors import DataError
from tests.project import ROOT
from tools import kuairand
from tools.kuairand import convert

MINUTE = 60_000
START = 1650816000000  # 24 April 2022, 16:00 UTC: midnight of the 25th in China
LOG = ("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "long_view", "tab")
USERS = ["user_id,user_active_degree,follow_user_num,follow_user_num_range,onehot_feat4"]
USERS += ['7,full_active,3,"(0,10]",2', "5,UNKNOWN,0,0,"]
VIDEOS = ["video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"]
VIDEOS[0] += "server_height,music_id,music_type,tag"
VIDEOS += ["12,90,NORMAL,2022-04-09,Web,1,5000.0,720,1280,33,4,12", '11,91,AD,2022-04-20,Kmovie,1,,720,1280,34,,"3,9"']


def shown(user: int, video: int, day: int, minute: int, *, viewed: int = 0, liked: int = 0) -> tuple[int, ...]:
    """An exposure, so many days and minutes after the 25th of April."""
    time = START + (day * 24 * 60 + minute) * MINUTE
    date = 20220425 + day if day < 6 else 20220501 + day - 6
    return user, video, date, minute // 60 * 100 + minute % 60, time, 1, liked, viewed, 1


BEFORE = [shown(7, 11, -3, 5, viewed=1), shown(5, 12, -2, 0, viewed=1), shown(7, 12, -1, 9)]
AFTER = [
    shown(7, 13, 11, 0),  # test, a video without features
    shown(7, 11, 0, 61, viewed=1, liked=1),
    shown(7, 12, 0, 61, viewed=1),  # the same moment: neither knows the other
    shown(7, 12, 0, 91),  # 30 minutes later: the same session
    shown(7, 11, 0, 122),  # 31 later: the next
    shown(5, 11, 12, 3, viewed=1),  # test, a user with a history of two days before the first
]


def write(folder: Path, *, before: Any = BEFORE, after: Any = AFTER, **files: list[str]) -> Path:
    folder.mkdir()
    for name, rows in (("log_standard_4_08_to_4_21_pure", before), ("log_standard_4_22_to_5_08_pure", after)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([LOG, *rows])
    found = {"user_features_pure": USERS, "video_features_basic_pure": VIDEOS, **files}
    for name, lines in found.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_rows_know_what_came_before_them(tmp_path: Path) -> None:
    assert convert(write(tmp_path / "raw"), tmp_path / "out") == {"train.parquet": 4, "test.parquet": 2}
    train = pq.read_table(tmp_path / "out/train.parquet").sort_by([("time", "ascending"), ("video_id", "ascending")])
    rows = train.select(["video_id", "seq", "seq_recent", "session_id", "clicked", "liked"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (11, "11", "11,12", "7_1", 1, 1),
        (12, "11", "11,12", "7_1", 1, 0),
        (12, "11,11,12", "11,12,11,12", "7_1", 0, 0),
        (11, "11,11,12", "11,12,11,12,12", "7_2", 0, 0),
    ]
    test = pq.read_table(tmp_path / "out/test.parquet")
    assert [name for name in test.column_names if name in ("clicked", "liked")] == []
    rows = test.select(["ID", "user_id", "seq", "session_id"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("TEST_000000", 7, "11,11,12", "7_3"),
        ("TEST_000001", 5, "12", "5_1"),
    ]
    assert (tmp_path / "out/sample_submission.csv").read_text() == "ID,clicked\nTEST_000000,0.5\nTEST_000001,0.5\n"


def test_features_are_joined(tmp_path: Path) -> None:
    convert(write(tmp_path / "raw"), tmp_path / "out")
    train = pq.read_table(tmp_path / "out/train.parquet").sort_by([("time", "ascending"), ("video_id", "ascending")])
    first = train.slice(0, 1).to_pylist()[0]
    expected = {"hour": 1, "day_of_week": 0, "tab": 1, "author_id": 91, "video_type": "AD", "tag": "3,9"}
    expected |= {"video_duration": None, "music_type": None, "freshness_days": 5, "follow_user_num_range": "(0,10]"}
    expected |= {"onehot_feat4": 2, "user_active_degree": "full_active"}
    assert {name: first[name] for name in expected} == expected
    assert str(first["time"]) == "2022-04-24 17:01:00"
    without = pq.read_table(tmp_path / "out/test.parquet").slice(0, 1).to_pylist()[0]
    assert [without[name] for name in ("author_id", "tag", "freshness_days", "follow_user_num")] == [None] * 3 + [3]


def test_histories_are_cut_and_parts_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [shown(7, 20 + minute, 0, minute, viewed=1) for minute in range(150)]
    write(tmp_path / "raw", after=[*many, *AFTER])
    convert(tmp_path / "raw", tmp_path / "out")
    test = pq.read_table(tmp_path / "out/test.parquet").to_pylist()[0]
    last = [int(token) for token in test["seq_recent"].split(",")]
    assert len(last) == 100
    assert last[-4:] == [166, 167, 168, 169]
    monkeypatch.setattr(kuairand, "_CHUNK_ROWS", 7)
    convert(tmp_path / "raw", tmp_path / "parts")
    for name in ("train.parquet", "test.parquet"):
        assert pq.read_table(tmp_path / "parts" / name).equals(pq.read_table(tmp_path / "out" / name))


def test_the_examples_settings_find_their_columns(tmp_path: Path, shared: Path) -> None:
    """Those of the log that the settings were made for."""
    columns = pq.read_schema(shared / "data/kuairand/train.parquet")
    users = [name for name in columns.names if name.startswith(("is_", "onehot", "register", "fans", "friend"))]
    header = f"{USERS[0]},{','.join(sorted(set(users) - {'onehot_feat4'}))}"
    values = ",".join("0" for _ in range(len(users) - 1))
    write(tmp_path / "raw", user_features_pure=[header, *(f"{line},{values}" for line in USERS[1:])])
    convert(tmp_path / "raw", tmp_path / "out")
    found = pq.read_schema(tmp_path / "out/train.parquet")
    assert set(found.names) == set(columns.names)
    text = (ROOT / "params.yaml").read_text()
    example = ROOT / "examples/kuairand/params.yaml"
    path = tmp_path / "params.yaml"
    path.write_text(overlaid(text, read_yaml(example), source=str(example)))
    params = load_params(path)
    schema = resolve_schema(found, data=params.data, features=params.features)
    assert len(schema.sequences) == 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"after": [*AFTER, (7, 11, 20220431, 0, START, 1, 0, 0, 1)]}, "column date, row 6: must be a day such as"),
        ({"before": [(*BEFORE[0][:7], 2, 1)]}, "column long_view, row 0: must be 0 or 1, got 2"),
        ({"before": [(*BEFORE[0][:4], "", 1, 0, 1, 1)]}, "column time_ms, row 0: must be a whole number, got None"),
        ({"before": [("x", *BEFORE[0][1:])]}, "log_standard_4_08_to_4_21_pure.csv: In CSV column #0"),
        ({"after": []}, "no rows from 20220425 to 20220505, or none from then on"),
        ({"video_features_basic_pure": [*VIDEOS, VIDEOS[1]]}, "column video_id: 12 occurs twice"),
        ({"user_features_pure": ["user,x", "1,2"]}, "column user_id: missing, or without a value"),
        ({"user_features_more": USERS}, "2 files user_features_*.csv, where one is expected"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError) as caught:
        convert(write(tmp_path / "raw", **changes), tmp_path / "out")
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out/train.parquet").exists()


def test_the_command_says_what_it_wrote_and_what_is_missing(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(kuairand.main)
    done = CliRunner().invoke(app, [str(write(tmp_path / "raw")), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"{tmp_path / 'out' / n}: {m} rows" for n, m in (("train.parquet", 4), ("test.parquet", 2))
    ]
    done = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert (
        done.output == f"error: {tmp_path}: no log_standard_*.csv there; name the folder data of the unpacked archive\n"
    )
