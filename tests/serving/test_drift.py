"""`qin drift` says of raw rows what predict says of prepared ones, and names what moved."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.runtime.errors import SchemaError
from qin.serving.drift import drift_lines, log_drift


@pytest.fixture(params=["sampled", "rich"])
def project(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_it_is_what_predict_wrote(project: Path) -> None:
    written = json.loads((project / "outputs/drift.json").read_text())
    found = log_drift(project / "artifacts", project / "data/test.parquet", num_threads=1)
    assert found["num_rows"] == written["num_rows"]
    assert found["large"] == written["large"]
    for name, facts in written["columns"].items():
        for key, value in facts.items():
            expected = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert found["columns"][name][key] == expected
    assert found["scores"] == pytest.approx(written["scores"], rel=1e-4)


def test_a_log_that_moved_is_described(sampled: Path, tmp_path: Path) -> None:
    rows = pq.read_table(sampled / "data/test.parquet")
    index = rows.schema.get_field_index("feat_a_1")
    rows = rows.set_column(index, "feat_a_1", pc.add(pc.multiply(rows["feat_a_1"], 3.0), 50.0))
    index = rows.schema.get_field_index("hour")
    rows = rows.set_column(index, "hour", pa.nulls(rows.num_rows, rows.schema.field("hour").type))
    pq.write_table(rows, tmp_path / "moved.parquet")
    out = tmp_path / "drift.json"
    command = ["drift", str(tmp_path / "moved.parquet"), "--artifacts", str(sampled / "artifacts"), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "hour 100% null (0% in train)" in done.output
    assert "feat_a_1 moved (PSI " in done.output
    assert json.loads(out.read_text())["large"]


def test_other_columns_are_refused(sampled: Path, tmp_path: Path) -> None:
    rows = pq.read_table(sampled / "data/test.parquet").drop_columns(["hour"])
    pq.write_table(rows, tmp_path / "less.parquet")
    with pytest.raises(SchemaError, match="column hour: missing"):
        log_drift(sampled / "artifacts", tmp_path / "less.parquet", num_threads=1)


def test_the_log_is_not_written_over(sampled: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    log.write_bytes((sampled / "data/test.parquet").read_bytes())
    command = ["drift", str(log), "--artifacts", str(sampled / "artifacts"), "--out", str(log)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {log}: is part of the log that is read")
    assert log.read_bytes() == (sampled / "data/test.parquet").read_bytes()


def test_nothing_large_is_said_as_well() -> None:
    scores = {"psi": 0.0, "mean_probability": 0.02, "base_rate": 0.02}
    assert drift_lines({"num_rows": 3, "scores": scores, "large": []})[1] == (
        "no column differs much from the train file"
    )
