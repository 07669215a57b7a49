"""Columns of any name, and values of any text, go through all that reads them: stages, pages, tables and commands."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.config import load_params
from qin.config.yaml_text import yaml_text
from qin.runtime.stage import STAGES
from qin.serving.scorer import Scorer
from tests.fuzz.sandbox import Sandbox, settings, write_settings

pytestmark = pytest.mark.slow

COLUMNS = ("user", "item", "cat", "price", "seq", "recent", "ts", "unused", "clicked", "ID")

# Each list has a name for each of the columns.
NAMES: tuple[tuple[str, ...], ...] = (
    ("", " ", "a,b", 'q"q', "*", "[a]", "a.b", "l\nb", "\x00", "x" * 3000),
    ("mean", "row", "label", "origin", "checksum", "__index__", "null", "rank", "y", "probability"),
    ("é한", "\r", "=1+1", "<script>alert(1)</script>", "<!--<script>", "`tick`", "1e5", "\u2028\u202e", "a|b", "😀"),
    ("a", "a.b", "a:b", "b.c.d", "{a}", "${a}", "-", "#x", ": y", "&lt;"),
    ("stat.item.rate", "other", "true", "0o17", "~", "?", "a\tb", "'", "\\", "\x85\x7f"),
    ("0", "-1", "1.5", "nan", "inf", "None", "seq.last", "user x item", "l\nb", 'q"q'),
    ("list<x>", "element", "key_value", "schema", "folds", "labels", "type", "format", "settings", "ID"),
)

VALUES = (
    *("", " ", "a,b", 'q"q', "l\nb", "c\rd", "e\r\nf", "\x00", "<script>alert(1)</script>", "<!--<script>", "`tick`"),
    *("=1+1", "null", '"null"', "other", "other values", "x" * 200_000, "x" * 200_001, "a|b", "\u2028\u202e", "__x__"),
)


class _Scripts(HTMLParser):
    """The text of each script element, and which elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self._is_script = tag == "script"
        if self._is_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_script = self._is_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts[-1] += data


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_columns_may_have_any_name(number: int, sandbox: Sandbox) -> None:
    sandbox.put_back()
    new = dict(zip(COLUMNS, NAMES[number], strict=True))
    _rename(sandbox.folder, new)
    for ended in sandbox.run(STAGES):
        assert ended.status == 0, (new, ended.lines, ended.escaped)
    _check_outputs(slices=(new["cat"], new["user"]))
    assert new["item"] in {row["name"] for row in _table(Path("plots/importance.csv"))}
    with Path("outputs/submission.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == [new["ID"], new["clicked"]]
    assert Path("outputs/submission.csv").read_bytes().count(b"\n") == 61 + new["clicked"].count("\n")
    _check_commands(sandbox.folder, new)


def test_values_may_have_any_text(sandbox: Sandbox) -> None:
    sandbox.put_back()
    for name in ("train", "test"):
        file = sandbox.folder / f"data/{name}.parquet"
        table = pq.read_table(file)
        values = [VALUES[row % len(VALUES)] for row in np.random.default_rng(1).permutation(table.num_rows)]
        pq.write_table(table.set_column(table.schema.get_field_index("cat"), "cat", pa.array(values)), file)
    tree = settings()
    tree["evaluate"]["slices"], tree["calibration"]["by"] = ["cat", "user"], "cat"
    write_settings(sandbox.folder, tree)
    for ended in sandbox.run(STAGES):
        assert ended.status == 0, (ended.lines, ended.escaped)
    _check_outputs(slices=("cat", "user"))
    shown = {row["value"] for row in _table(Path("plots/slices.csv")) if row["column"] == "cat"}
    assert {"c\rd", "e\r\nf", "l\nb", '"null"', '""null""'} <= shown
    assert max(map(len, shown)) < 1000
    rows = pq.read_table("data/test.parquet")
    submitted = [float(line.rsplit(",", 1)[1]) for line in Path("outputs/submission.csv").read_text().splitlines()[1:]]
    assert np.array_equal(Scorer.load("artifacts").score(rows).astype(np.float32), np.array(submitted, np.float32))


def _rename(folder: Path, new: dict[str, str]) -> None:
    """Give columns and settings other names."""
    for name in ("train", "test"):
        file = folder / f"data/{name}.parquet"
        table = pq.read_table(file)
        pq.write_table(table.rename_columns([new[column] for column in table.column_names]), file)
    sample = (folder / "data/sample_submission.csv").read_text().splitlines()[1:]
    with (folder / "data/sample_submission.csv").open("w", encoding="utf-8", newline="") as opened:
        opened.write(",".join('"' + new[name].replace('"', '""') + '"' for name in ("ID", "clicked")) + "\n")
        opened.writelines(f"{line}\n" for line in sample)
    tree = settings()
    tree["data"].update({"label": new["clicked"], "id": new["ID"], "drop": [new["unused"]], "ignore": []})
    tree["features"].update(
        {
            "categorical": [new[name] for name in ("item", "cat", "user")],
            "numeric": [new[name] for name in ("price", "ts")],
            "sequences": [
                {"name": new["seq"], "max_len": 6, "vocabulary_of": new["item"]},
                {"name": new["recent"], "max_len": 4, "num_buckets": 64},
            ],
            "target": [new["item"]],
            "num_buckets_of": {new["user"]: 128},
            "impression": {"key": [new["user"]], "columns": [new["price"]]},
        }
    )
    tree["features"]["statistics"]["pairs"] = [[new["user"], new["item"]], [new["seq"], new["item"]]]
    tree["split"].update({"row_key": [new["user"], new["item"], new["ts"]], "group_key": new["user"]})
    tree["evaluate"]["slices"], tree["calibration"]["by"] = [new["cat"], new["user"]], new["cat"]
    (folder / "params.yaml").write_text(yaml_text(tree), encoding="utf-8")


def _check_outputs(*, slices: tuple[str, ...]) -> None:
    """Tables, pages and figures can be read, and hold what they are of."""
    for file in Path("plots").glob("*.csv"):
        rows = _table(file)
        assert rows
        assert all(None not in row and None not in row.values() for row in rows), file
    tree = json.loads(Path("artifacts/slices.json").read_text())
    assert {name for name, value in tree.items() if isinstance(value, dict)} == set(slices)
    assert {row["column"] for row in _table(Path("plots/slices.csv"))} == set(slices)
    page = _Scripts()
    page.feed(Path("outputs/report.html").read_text(encoding="utf-8"))
    specs = [script for script in page.scripts if script.lstrip().startswith("{")]
    assert len(specs) == page.tags.count("script") - 2, "the library and the page's own are the others"
    assert not any("<!--" in script for script in specs)
    assert all(isinstance(json.loads(script), dict) for script in specs)
    card = Path("outputs/model_card.md").read_text(encoding="utf-8")
    assert "\\<" in card or "<script" not in card
    assert all(char.isprintable() or char == "\n" for char in card)


def _check_commands(folder: Path, new: dict[str, str]) -> None:
    """Commands that read the log, the artifacts or both."""
    for words in (
        ["check"],
        ["compare", "workspace", str(folder)],
        [
            "score",
            "data/test.parquet",
            "scores.parquet",
            "--keep",
            '"' + new["ID"].replace('"', '""') + '"',
            "--column",
            "p?",
        ],
        ["drift", "data/test.parquet", "--out", "outputs/drift_again.json"],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    assert pq.read_schema("scores.parquet").names == [new["ID"], "p?"]
    arguments = ["init", "data/train.parquet", "--label", new["clicked"], "--out", "other.yaml", "--force"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    params = load_params(Path("other.yaml"))
    assert (params.data.label, params.data.id) == (new["clicked"], new["ID"])


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened, strict=True))
