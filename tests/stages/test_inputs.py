"""Files and settings as people have them, through the stages as commands of one project."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from qin.config.strict_yaml import read_yaml
from qin.runtime.claim import claimed
from qin.shards.files import ShardReader
from tests.logs import Columns
from tests.project import ROOT, set_params
from tests.stages.run import run_in_process

NUM_ROWS, NUM_TEST_ROWS = 2000, 300
STAGES = ("prepare", "split", "train", "trees", "calibrate", "evaluate", "predict")

SETTINGS: dict[str, Any] = {
    "data.drop": [],
    "data.ignore": ["ts", "user"],
    "features.categorical": ["item", "cat"],
    "features.numeric": ["n1"],
    "features.sequences": [{"name": "seq", "max_len": 8, "vocabulary_of": "item"}],
    "features.target": ["item"],
    "features.num_buckets": 512,
    "features.num_buckets_of": {},
    "split.row_key": ["user", "item", "ts"],
    "split.val_ratio": 0.2,
    "train.warmup_steps": 2,
    "train.lr": 0.005,
    "model.embedding_dim": 4,
    "model.attention_dim": 8,
    "train.epochs": 1,
    "train.batch_size": 256,
    "train.num_threads": 1,
    "train.checks_per_epoch": 2,
    "trees.max_rounds": 20,
    "trees.patience": 5,
    "evaluate.importance_rows": 0,
}


def make_columns(num_rows: int, *, seed: int) -> tuple[Columns, Any]:
    """A log with users, items, histories and times, and its clicks."""
    r = np.random.default_rng(seed)
    n1 = r.normal(size=num_rows)
    label = (r.random(num_rows) < 1.0 / (1.0 + np.exp(1.4 - n1))).astype(np.int8)
    seq = [",".join(map(str, r.integers(1, 60, n))) for n in r.integers(0, 9, num_rows)]
    columns = {
        "user": pa.array(r.integers(1, 200, num_rows)),
        "item": pa.array(r.integers(1, 60, num_rows)),
        "cat": pa.array(r.choice(["a", "b", "c"], num_rows).tolist()),
        "n1": pa.array(n1),
        "seq": pa.array(seq),
        "ts": pa.array(1650000000 + np.sort(r.integers(0, 864000, num_rows))),
    }
    return columns, label


class Project:
    """A project in the current folder, whose files and settings a test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train, self.label = make_columns(NUM_ROWS, seed=0)
        test, _ = make_columns(NUM_TEST_ROWS, seed=1)
        self.test: Columns = {"ID": pa.array([f"T{row}" for row in range(NUM_TEST_ROWS)]), **test}
        self.sample: bytes | None = None
        (folder / "data").mkdir()
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        set_params(folder / "params.yaml", SETTINGS)

    def change(self, **columns: Any) -> None:
        """Replace a column of both files by a function of itself."""
        for name, function in columns.items():
            for table in (self.train, self.test):
                table[name] = function(table[name])

    def write(self, **settings: Any) -> None:
        """Write the files; settings have `__` for the dot."""
        pq.write_table(pa.table({**self.train, "clicked": pa.array(self.label)}), self.folder / "data/train.parquet")
        pq.write_table(pa.table(self.test), self.folder / "data/test.parquet")
        lines = [f"{name},0\n" for name in self.test["ID"].to_pylist()]
        sample = self.sample if self.sample is not None else "".join(["ID,clicked\n", *lines]).encode()
        (self.folder / "data/sample_submission.csv").write_bytes(sample)
        set_params(self.folder / "params.yaml", {key.replace("__", "."): value for key, value in settings.items()})

    def run(self, *stages: str, **settings: Any) -> None:
        self.write(**settings)
        for stage in stages:
            run_in_process(stage)

    def group(self, name: str) -> Any:
        """An array of the prepared train file."""
        manifest = json.loads((self.folder / "data/prepared/train/manifest.json").read_text())
        offset = 0
        for group in manifest["groups"]:
            count = NUM_ROWS * group["width"]
            if group["name"] == name:
                data = np.fromfile(self.folder / "data/prepared/train/00000.bin", group["dtype"], count, offset=offset)
                return data.reshape(NUM_ROWS, -1)
            offset += np.dtype(group["dtype"]).itemsize * count
        raise KeyError(name)

    def submission(self) -> list[float]:
        with (self.folder / "outputs/submission.csv").open() as file:
            return [float(row[1]) for row in list(csv.reader(file))[1:]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def lines_of(capfd: pytest.CaptureFixture[str], kind: str) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith(kind)]


def refused(project: Project, stage: str, capfd: pytest.CaptureFixture[str], **settings: Any) -> list[str]:
    """Run the stages up to one that must end with status 1; returns its errors."""
    project.write(**settings)
    for name in STAGES[: STAGES.index(stage)]:
        run_in_process(name)
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run_in_process(stage)
    assert exit_info.value.code == 1
    return [line.removeprefix("error: ") for line in lines_of(capfd, "error")]


# Histories


@pytest.mark.parametrize("form", ["text", "list of text", "brackets"])
def test_text_ids_with_leading_zeros_meet_their_history(project: Project, form: str) -> None:
    def padded(seq: pa.Array) -> pa.Array:
        tokens = [[f"{int(token):05d}" for token in text.split(",") if token] for text in seq.to_pylist()]
        return pa.array(tokens if form == "list of text" else [_written(row, form) for row in tokens])

    project.change(item=lambda item: pa.array([f"{value:05d}" for value in item.to_pylist()]), seq=padded)
    project.run("prepare", features__num_buckets=100_000)
    tokens, items = project.group("sequence.seq"), project.group("categorical")[:, 0]
    assert np.isin(tokens[tokens > 1], items).mean() > 0.99


def _written(tokens: list[str], form: str) -> str:
    return json.dumps(tokens) if form == "brackets" else ",".join(tokens)


@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (lambda row: "|".join(map(str, row)), {"separator": "|"}),
        (lambda row: " ".join(map(str, row)), {"separator": " "}),
        (lambda row: "^".join(f"{item:05d}" for item in row), {"separator": "^"}),
        (lambda row: ",".join(f"{item}.0" for item in row), {}),
        (str, {}),
        (lambda row: ",".join(map(str, [0] * (8 - len(row)) + row)), {"padding": 0}),
        (lambda row: [0] * (8 - len(row)) + row, {"padding": 0}),
        (lambda row: [float(item) for item in row], {}),
    ],
)
def test_every_form_of_a_history_gives_the_same_bytes(project: Project, write: Any, settings: dict[str, Any]) -> None:
    project.run("prepare")
    expected = project.group("sequence.seq")
    rows = [[int(token) for token in text.split(",") if token] for text in project.train["seq"].to_pylist()]
    other = [[int(token) for token in text.split(",") if token] for text in project.test["seq"].to_pylist()]
    project.train["seq"], project.test["seq"] = (pa.array([write(row) for row in part]) for part in (rows, other))
    sequence = {"name": "seq", "max_len": 8, "vocabulary_of": "item", **settings}
    project.run("prepare", features__sequences=[sequence])
    np.testing.assert_array_equal(project.group("sequence.seq"), expected)


def test_padding_that_no_one_has_named_is_told(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.change(
        seq=lambda seq: pa.array([([0] * 8 + [int(t) for t in text.split(",") if t])[-8:] for text in seq.to_pylist()])
    )
    project.run("prepare")
    [line] = lines_of(capfd, "warning")
    assert "column seq: 7" in line
    assert line.endswith("begin with '0' twice; if it stands for nothing, set features.sequences.seq.padding: 0")


def test_bytes_that_are_no_utf8_are_shown_escaped(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    values = [text.encode() for text in project.train["seq"].to_pylist()]
    values[7] = b"3,\xff\xfe,5"
    raw = pa.array(values, pa.binary())
    project.train["seq"] = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    [line] = refused(project, "prepare", capfd)
    assert line.startswith(r"data/train.parquet: column seq, row 7: a token is not an integer: b'\xff\xfe'; expected")


# Names, order and files


def test_the_order_of_columns_changes_no_byte(project: Project) -> None:
    def digests() -> list[str]:
        files = ("data/prepared/train/00000.bin", "data/split/fold.npy", "metrics/prepare.json", "metrics/split.json")
        return [hashlib.sha256((project.folder / name).read_bytes()).hexdigest() for name in files]

    settings = {"features__categorical": ["cat", "it*"], "split__row_key": None}
    project.run("prepare", "split", **settings)
    before = digests()
    project.train = dict(reversed(list(project.train.items())))
    project.run("prepare", "split", **settings)
    assert digests() == before


def test_names_with_brackets_are_names(project: Project) -> None:
    for table in (project.train, project.test):
        table["n1[usd]"], table["item[0]"] = table.pop("n1"), table.pop("item")
    sequence = {"name": "seq", "max_len": 8, "vocabulary_of": "item[0]"}
    names = {"features__categorical": ["item[0]", "cat"], "features__target": ["item[0]"]}
    project.run("prepare", features__numeric=["n1[usd]"], features__sequences=[sequence], **names)


def test_a_name_of_several_lines_or_very_long_is_shown_in_one(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    extra = pa.array([0] * NUM_ROWS)
    project.train |= {"a\nb": extra, "c\x1b[31m": extra, "d" * 9000: extra}
    lines = refused(project, "prepare", capfd)
    assert [line.split(": ")[1] for line in lines[:2]] == [r"column a\nb", r"column c\x1b[31m"]
    assert len(lines) == 3
    assert len(lines[2]) < 1000


def test_a_path_of_several_lines_is_shown_in_one(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    [line] = refused(project, "prepare", capfd, data__train="data/a\nb.parquet")
    assert line.startswith(r"data/a\nb.parquet: ")


def _rows(project: Project) -> dict[str, bytes]:
    reader = ShardReader(project.folder / "data/prepared/train")
    return {group.name: reader.read(group.name, 0, reader.num_rows).tobytes() for group in reader.groups}


def test_folders_of_parts_are_read_as_one_file(project: Project) -> None:
    project.run("prepare", "split")
    before = _rows(project), (project.folder / "data/split/fold.npy").read_bytes()
    for name in ("train", "test"):
        path = project.folder / f"data/{name}.parquet"
        table = pq.read_table(path)
        path.unlink()
        path.mkdir()
        for number, start in enumerate(range(0, table.num_rows, 170)):
            pq.write_table(table.slice(start, 170), path / f"part-{number}.parquet")
    for stage in ("prepare", "split"):
        run_in_process(stage)
    assert (_rows(project), (project.folder / "data/split/fold.npy").read_bytes()) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_at_the_same_time_as_itself_is_refused(
    project: Project, stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write()
    with claimed(stage), pytest.raises(SystemExit) as exit_info:
        run_in_process(stage)
    assert exit_info.value.code == 1
    [line] = lines_of(capfd, "error")
    assert f"another stage {stage} is at work in this folder" in line


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view(), pa.json_(pa.string())], ids=str)
def test_a_user_in_any_layout_of_text_is_the_same_user(project: Project, kind: pa.DataType) -> None:
    """Of these evaluate reads some rows, which Arrow cannot take from a view, when all is trained."""
    settings = {"split__method": "group_user", "split__group_key": "user", "evaluate__slices": ["user"]}
    project.change(user=lambda array: array.cast(pa.string()))
    project.run(*STAGES, **settings)
    outputs = [project.folder / name for name in ("data/split/fold.npy", "artifacts/slices.json")]
    before = [outputs[0].read_bytes(), json.loads(outputs[1].read_text())["user"]]
    made = pa.ExtensionArray.from_storage if isinstance(kind, pa.BaseExtensionType) else None
    project.change(user=lambda array: made(kind, array) if made else array.cast(pa.binary()).cast(kind))
    project.run(*STAGES, **settings)
    assert [outputs[0].read_bytes(), json.loads(outputs[1].read_text())["user"]] == before


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1]] * NUM_ROWS),
        pa.array([{"a": 1}] * NUM_ROWS),
        pa.array([[("a", 1)]] * NUM_ROWS, pa.map_("string", "int8")),
    ],
    ids=lambda array: str(array.type),
)
def test_an_impression_s_key_that_cannot_be_told_apart_is_refused(
    project: Project, values: pa.Array, capfd: pytest.CaptureFixture[str]
) -> None:
    project.train["request"], project.test["request"] = values, values.slice(0, NUM_TEST_ROWS)
    changes = {"data__ignore": ["ts", "user", "request"], "features__impression.key": ["request"]}
    [line] = refused(project, "prepare", capfd, **changes)
    assert line.startswith("data/test.parquet: features.impression.key: column request: values of type ")
    assert line.endswith(" cannot tell impressions apart")


def test_an_impression_s_key_that_may_have_been_rounded_is_refused(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    requests = pa.array([float(2**53 + row) for row in range(NUM_ROWS)])
    project.train["request"], project.test["request"] = requests, requests.slice(0, NUM_TEST_ROWS)
    changes = {"data__ignore": ["ts", "user", "request"], "features__impression.key": ["request"]}
    [line] = refused(project, "prepare", capfd, **changes)
    assert line.startswith("data/test.parquet: column request, row 0: an id in 64-bit floats, which are rounded from ")


# Early


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"evaluate__slices": ["catt"]}, ["data/train.parquet: evaluate.slices: no column catt, did you mean cat?"]),
        (
            {"calibration__by": "catt"},
            [
                "data/train.parquet: calibration.by: no column catt, did you mean cat?",
                "data/test.parquet: calibration.by: no column catt, did you mean cat?",
            ],
        ),
        (
            {"calibration__by": "part"},
            [
                "data/test.parquet: calibration.by: column part: type string, but int64 in the train file; equal "
                "values would be two segments, so store both as one type"
            ],
        ),
        ({"calibration__by": "clicks"}, ["data/test.parquet: calibration.by: no column clicks"]),
        (
            {"evaluate__slices": ["parts"]},
            ["data/train.parquet: evaluate.slices: column parts: type list<element: int64> cannot group rows"],
        ),
        (
            {"features__statistics.fields": ["catt", "it*", "seq"]},
            [
                "params.yaml: features.statistics.fields: catt: no categorical column, did you mean cat?",
                "params.yaml: features.statistics.fields: seq: no categorical column",
            ],
        ),
        (
            {"features__statistics.pairs": [["seq", "item"], ["item", "item"]]},
            [
                "params.yaml: features.statistics.pairs: [item, item] must be a categorical column or a sequence, and "
                "another categorical column",
            ],
        ),
        ({"split__row_key": ["usr"]}, ["data/train.parquet: split.row_key: no column usr, did you mean user?"]),
        (
            {"split__method": "group_user", "split__group_key": "usr"},
            ["data/train.parquet: split.group_key: no column usr, did you mean user?"],
        ),
    ],
)
def test_a_misspelt_column_is_found_by_split(
    project: Project, settings: dict[str, Any], messages: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    project.train |= {"clicks": project.train["item"], "parts": pa.array([[1]] * NUM_ROWS)}
    project.train["part"], project.test["part"] = project.train["item"], project.test["item"].cast(pa.string())
    ignored = ["ts", "user", "clicks", "parts", "part"]
    assert refused(project, "split", capfd, data__ignore=ignored, **settings) == messages


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1, 2], "data/test.parquet: column ID, row 3: id is not in data/sample_submission.csv: 'T3'"),
        ([*range(NUM_TEST_ROWS), 4], "data/sample_submission.csv: column ID, row 300: id occurs twice: 'T4'"),
        ([700], "data/sample_submission.csv: column ID, row 0: id is not in data/test.parquet: 'T700'"),
    ],
)
def test_a_sample_of_other_ids_is_found_by_prepare(
    project: Project, rows: list[int], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    project.sample = "".join(["ID,clicked\n", *(f"T{row},0\n" for row in rows)]).encode()
    assert refused(project, "prepare", capfd) == [message]
    assert not (project.folder / "data/prepared").exists()


def test_a_sample_in_another_encoding_is_found_by_prepare(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.sample = "ID,클릭확률\nT0,0\n".encode("cp949")
    [line] = refused(project, "prepare", capfd)
    assert line.startswith("data/sample_submission.csv: line 1: not a readable CSV file (not UTF-8: byte 0xb8)")


# Few clicks


@pytest.mark.parametrize("method", ["temperature", "platt", "beta", None])
@pytest.mark.parametrize("num_clicks", [2, 5])
def test_few_clicks_give_a_submission(
    project: Project, method: str | None, num_clicks: int, capfd: pytest.CaptureFixture[str]
) -> None:
    project.label = np.zeros(NUM_ROWS, np.int8)
    project.label[np.random.default_rng(10).choice(NUM_ROWS, num_clicks, replace=False)] = 1
    samples = {"evaluate__importance_rows": 200, "evaluate__slices": ["cat"]}
    settings = {"calibration__temperature_scaling": method is not None, "calibration__method": method or "temperature"}
    project.run(*STAGES, **samples, **settings)
    warnings = lines_of(capfd, "warning")
    assert "the validation fold has 1 clicks in 40" in warnings[0]
    of_calibrate = [line for line in warnings if "determines no calibrator" in line]
    assert len(of_calibrate) == (method is not None)
    assert [line.split("needs ")[-1] for line in warnings if "each class needs" in line] == [
        "2; there is no importance this time",
    ]
    assert json.loads((project.folder / "artifacts/temperature.json").read_text())["method"] == "identity"
    probability = np.array(project.submission())
    assert probability.size == NUM_TEST_ROWS
    assert ((probability > 0.0) & (probability < 0.5)).all()
    assert json.loads((project.folder / "metrics/evaluate.json").read_text())["rows"]["reported"] >= 400


def test_a_log_that_a_threshold_separates_gives_a_submission(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.train["n1"] = pa.array(np.where(project.label == 1, 5.0, -5.0))
    project.run(*STAGES, train__epochs=5, train__lr=0.05)
    [line] = [line for line in lines_of(capfd, "warning") if "determines no calibrator" in line]
    assert "separates the classes" in line
    assert "calibration.temperature_scaling: false" in line
    assert len(project.submission()) == NUM_TEST_ROWS


def test_too_few_clicks_for_two_folds_are_refused_by_split(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.label = (np.arange(NUM_ROWS) == 7).astype(np.int8)
    [line] = refused(project, "split", capfd)
    assert "split.method stratified: the validation fold has 400 rows of class 0 and 0 of class 1" in line
    assert line.endswith("it needs both: set another split.val_ratio or split.seed")


# Settings


def test_settings_of_an_earlier_version_need_no_trees(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.write(calibration__seed=0, evaluate__baseline_rows=0, evaluate__importance_rows=100)
    tree = read_yaml(project.folder / "params.yaml")
    del tree["trees"], tree["model"]["members"], tree["features"]["statistics"], tree["train"]["refit"]
    (project.folder / "params.yaml").write_text(yaml.safe_dump(tree))
    for stage in STAGES:
        if stage == "trees":
            continue
        run_in_process(stage)
        warnings = [line.removeprefix("warning: params.yaml: ") for line in lines_of(capfd, "warning")]
        assert [line.split()[0] for line in warnings] == ["calibration.seed", "evaluate.baseline_rows"], stage
    assert len(project.submission()) == NUM_TEST_ROWS
