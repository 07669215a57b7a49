"""`qin score`: the scorer's bytes for a whole log, whatever its row groups and parts, or one line of error."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.serving import files
from qin.serving.scorer import Scorer


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


@pytest.fixture(params=["sampled", "rich"])
def project(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_a_file_gets_the_scores_of_its_rows(project: Path, tmp_path: Path) -> None:
    test, out = project / "data/test.parquet", tmp_path / "scores.parquet"
    done = run(test, out, "--artifacts", project / "artifacts", "--keep", "ID")
    assert done.exit_code == 0, done.output
    scorer, rows, found = Scorer.load(project / "artifacts"), pq.read_table(test), pq.read_table(out)
    assert done.stdout == f"{out}: {rows.num_rows} rows, model {scorer.version}\n"
    assert found.schema == pa.schema([rows.schema.field("ID"), pa.field("probability", pa.float64())])
    assert found["ID"].equals(rows["ID"])
    assert np.array_equal(found["probability"].to_numpy(), scorer.score(rows))


def test_parts_batches_and_threads_change_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(project / "data/test.parquet")
    parts = tmp_path / "parts"
    parts.mkdir()
    pq.write_table(rows.slice(0, 70), parts / "part-0.parquet", row_group_size=20)
    pq.write_table(rows.slice(70), parts / "part-1.parquet")
    monkeypatch.setattr(files, "BATCH_ROWS", 64)
    monkeypatch.setattr(files, "_GROUP_ROWS", 100)
    done = run(parts, tmp_path / "s", "--artifacts", project / "artifacts", "--prior", "balanced", "--threads", "2")
    assert done.exit_code == 0, done.output
    found = pq.read_table(tmp_path / "s")
    assert pq.ParquetFile(tmp_path / "s").num_row_groups > 1
    assert found.column_names == ["probability"]
    expected = Scorer.load(project / "artifacts").score(rows, prior="balanced")
    assert np.array_equal(found["probability"].to_numpy(), expected)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--keep", "IDs"], ["error: {test}: --keep: no column IDs, did you mean ID?"]),
        (["--keep", "ID,ID"], ["error: {test}: two columns of the output would be called ID; choose another --column"]),
        (
            ["--keep", "ID", "--column", "ID"],
            ["error: {test}: two columns of the output would be called ID; choose another --column"],
        ),
        (["--prior", "2"], ["error: --prior: 2: expected natural, balanced, or a number between 0 and 1"]),
        (["--artifacts", "nowhere"], ["error: nowhere/statistics/manifest.json: file not found"]),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(
    sampled: Path, tmp_path: Path, arguments: list[str], lines: list[str]
) -> None:
    test, out = sampled / "data/test.parquet", tmp_path / "scores.parquet"
    done = run(
        test, out, *(["--artifacts", str(sampled / "artifacts")] if "--artifacts" not in arguments else []), *arguments
    )
    assert done.exit_code == 1
    assert [line[: len(lines[0].format(test=test))] for line in done.stderr.splitlines()] == [
        line.format(test=test) for line in lines
    ]
    assert not out.exists()


def test_a_bad_value_leaves_what_was_there(rich: Path, tmp_path: Path) -> None:
    rows, out = pq.read_table(rich / "data/test.parquet"), tmp_path / "scores.parquet"
    out.write_bytes(b"old")
    price = rows["price"].to_pylist()
    price[217] = float("inf")
    at = rows.column_names.index("price")
    pq.write_table(rows.set_column(at, "price", pa.array(price, pa.float32())), tmp_path / "bad.parquet")
    done = run(tmp_path / "bad.parquet", out, "--artifacts", rich / "artifacts")
    assert done.exit_code == 1
    assert f"error: {tmp_path}/bad.parquet: column price, row 217: infinite: inf" in done.stderr
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"scores.parquet", "bad.parquet"}


def test_missing_columns_may_be_null_except_those_of_impressions(rich: Path, tmp_path: Path) -> None:
    rows = pq.read_table(rich / "data/test.parquet")
    pq.write_table(rows.drop_columns(["shop"]), tmp_path / "short.parquet")
    arguments = (tmp_path / "short.parquet", tmp_path / "s", "--artifacts", rich / "artifacts")
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--on-missing", "null").exit_code == 0
    expected = Scorer.load(rich / "artifacts").score(rows.drop_columns(["shop"]), on_missing="null")
    assert np.array_equal(pq.read_table(tmp_path / "s")["probability"].to_numpy(), expected)
    pq.write_table(rows.drop_columns(["request"]), tmp_path / "short.parquet")
    done = run(*arguments, "--on-missing", "null")
    assert done.exit_code == 1
    assert "column request: missing; rows of one impression are found by it" in done.stderr


def test_what_is_read_is_not_written_over(sampled: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    file = parts / "part.parquet"
    file.write_bytes((sampled / "data/test.parquet").read_bytes())
    (tmp_path / "link.parquet").symlink_to(file)
    before = file.read_bytes()
    for source, out in (
        (file, file),
        (file, tmp_path / "link.parquet"),
        (tmp_path / "link.parquet", file),
        (parts, parts / "scores.parquet"),
        (parts, file),
    ):
        done = run(source, out, "--artifacts", sampled / "artifacts")
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {out}: is part of the log that is read, {source}")
    assert run(file, parts, "--artifacts", sampled / "artifacts").stderr.startswith(
        f"error: {parts}: is a folder, a device or a pipe; "
    )
    assert file.read_bytes() == before
    assert [path.name for path in parts.iterdir()] == ["part.parquet"]
