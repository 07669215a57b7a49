"""Logs of many files through the stages: folders named by a day, lists, object storage, no rows to predict."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from qin.shards.files import ShardReader
from stages import predict
from tests.object_store import ObjectStore, object_store
from tests.project import ROOT, dvc, git, set_params
from tests.stages.run import run_in_process
from tests.stages.test_inputs import NUM_ROWS, STAGES, Project, refused

NUM_DAYS = 5


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(monkeypatch) as found:
        yield found


def rows(project: Project, name: str = "train") -> dict[str, Any]:
    reader = ShardReader(project.folder / "data/prepared" / name)
    return {group.name: reader.read(group.name, 0, reader.num_rows) for group in reader.groups}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


def by_day(project: Project, *, column: str = "day") -> Path:
    """Replace the train file by a folder per day, in the order of its rows."""
    path = project.folder / "data/train.parquet"
    table = pq.read_table(path)
    path.unlink()
    size = NUM_ROWS // NUM_DAYS
    for day in range(NUM_DAYS):
        folder = path / f"{column}=2022-05-{day + 8:02d}"
        folder.mkdir(parents=True)
        for half in range(2):
            part = table.slice(day * size + half * size // 2, size // 2)
            pq.write_table(part, folder / f"part-{half}.parquet")
    return path


def test_a_folder_per_day_is_a_column_for_the_split_and_the_model(project: Project) -> None:
    day = pa.array([f"2022-05-{8 + row * NUM_DAYS // NUM_ROWS:02d}" for row in range(NUM_ROWS)])
    project.test["day"] = pa.array(["2022-05-13"] * len(project.test["ID"]))
    settings = {"split__method": "time", "split__time_col": "day", "split__time_val_start": "2022-05-12"}
    inputs = {"features__categorical": ["item", "cat", "day"]}
    project.write(**settings, **inputs)
    by_day(project)
    for stage in ("prepare", "split"):
        run_in_process(stage)
    fold, found = np.load(project.folder / "data/split/fold.npy"), rows(project)
    assert fold.tolist() == [0] * (NUM_ROWS * 4 // 5) + [1] * (NUM_ROWS // 5)
    figures = json.loads((project.folder / "metrics/split.json").read_text())
    assert figures["boundary"] == "2022-05-12T00:00:00.000000"
    shutil.rmtree(project.folder / "data/train.parquet")
    project.train["day"] = day
    project.run("prepare", "split")
    assert equal(rows(project), found)
    assert np.load(project.folder / "data/split/fold.npy").tolist() == fold.tolist()


def test_lists_and_uris_give_the_rows_of_one_file(project: Project, store: ObjectStore) -> None:
    project.run("prepare", "split")
    found, fold = rows(project), np.load(project.folder / "data/split/fold.npy")
    folder = by_day(project, column="shard")
    days = sorted(path.as_posix() for path in folder.relative_to(project.folder).iterdir())
    uri = store.put(folder, "train")
    for train in (days, ["s3://logs/train/shard=2022-05-08", *days[1:]], uri):
        ignored = ["ts", "user", *(["shard"] if train == uri else [])]
        set_params(project.folder / "params.yaml", {"data.train": train, "data.ignore": ignored})
        for stage in ("prepare", "split"):
            run_in_process(stage)
        assert equal(rows(project), found)
        assert np.array_equal(np.load(project.folder / "data/split/fold.npy"), fold)


def test_csv_gives_the_rows_of_parquet(project: Project) -> None:
    project.test["cat"] = pa.array(["1"] * len(project.test["ID"]))  # text in train, digits here
    project.run("prepare", "split")
    before = rows(project), rows(project, "test"), np.load(project.folder / "data/split/fold.npy")
    for name in ("train", "test"):
        table = pq.read_table(project.folder / f"data/{name}.parquet")
        with gzip.open(project.folder / f"data/{name}.csv.gz", "wb") as file:
            pacsv.write_csv(table, file)
    set_params(project.folder / "params.yaml", {f"data.{name}": f"data/{name}.csv.gz" for name in ("train", "test")})
    for stage in ("prepare", "split"):
        run_in_process(stage)
    assert equal(rows(project), before[0])
    assert equal(rows(project, "test"), before[1])
    assert np.array_equal(np.load(project.folder / "data/split/fold.npy"), before[2])


def test_a_bad_value_is_named_with_its_file_and_the_row_in_it(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write()
    folder = by_day(project, column="shard")
    path = folder / "shard=2022-05-09/part-1.parquet"
    table = pq.read_table(path)
    label = table.column("clicked").to_pylist()
    label[7] = 2
    pq.write_table(table.set_column(table.schema.get_field_index("clicked"), "clicked", pa.array(label)), path)
    set_params(project.folder / "params.yaml", {"data.ignore": ["ts", "user", "shard"]})
    for stage in ("prepare", "split"):
        with pytest.raises(SystemExit):
            run_in_process(stage)
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        place = "data/train.parquet/shard=2022-05-09/part-1.parquet"
        assert lines == [f"error: {place}: column clicked, row 7: label must be 0 or 1: 2"]


def test_parts_of_other_columns_are_named(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.write()
    folder = by_day(project, column="shard")
    pq.write_table(
        pq.read_table(folder / "shard=2022-05-10/part-0.parquet").drop_columns("cat"),
        folder / "shard=2022-05-10/part-0.parquet",
    )
    for stage in ("prepare", "split"):
        with pytest.raises(SystemExit):
            run_in_process(stage)
        [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        assert line == (
            "error: data/train.parquet/shard=2022-05-10/part-0.parquet: column cat: missing, but string in "
            "data/train.parquet/shard=2022-05-08/part-0.parquet"
        )


def test_without_a_test_log_everything_but_the_submission_is_made(
    project: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Path] = []
    monkeypatch.setattr(predict, "log_summary", lambda: told.append(Path.cwd()))
    project.write(data__test=None, data__sample_submission=None)
    for name in ("test.parquet", "sample_submission.csv"):
        (project.folder / "data" / name).unlink()
    shutil.copytree(ROOT / ".dvc/plots", project.folder / ".dvc/plots")  # which the report draws with
    for stage in STAGES:
        run_in_process(stage)
    assert (
        "data.test is null: nothing to predict, outputs/submission.csv has its header alone" in capfd.readouterr().err
    )
    assert (project.folder / "outputs/submission.csv").read_text() == "ID,probability\n"
    assert json.loads((project.folder / "metrics/evaluate.json").read_text())["auc"] > 0.5
    assert json.loads((project.folder / "metrics/prepare.json").read_text()).keys() == {"train", "warnings"}
    assert told == [project.folder]  # the run ends with its figures beside the last commit's, as any other


def test_a_test_log_needs_a_sample(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    [line] = refused(project, "prepare", capfd, data__sample_submission=None)
    assert "sample_submission is null, but test is not" in line


def test_dvc_sees_a_day_that_is_added(project: Project) -> None:
    """A folder is a dependency like a file; the stage alone is of interest here."""
    project.write()
    folder = by_day(project, column="shard")
    git(project.folder, "init", "-q")
    (project.folder / "dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: ls -R ${data.train} > out\n    deps: ['${data.train}']\n    outs: [out]\n"
    )
    for arguments in (("init", "-q"), ("repro", "-q")):
        done = dvc(project.folder, *arguments)
        assert done.returncode == 0, done.stderr
    assert "up to date" in dvc(project.folder, "status").stdout
    (folder / "shard=2022-05-13").mkdir()
    shutil.copy(folder / "shard=2022-05-08/part-0.parquet", folder / "shard=2022-05-13")
    assert "modified:           data/train.parquet" in dvc(project.folder, "status").stdout
