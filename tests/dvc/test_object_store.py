"""A log in object storage as DVC's dependency: `dvc repro` reads it there and sees that it has changed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.object_store import ObjectStore, object_store
from tests.project import dvc, git_project, ran, set_params


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    pytest.importorskip("dvc_s3")
    with object_store(monkeypatch) as found:
        yield found


def test_a_log_in_a_bucket_is_a_dependency(tmp_path: Path, small_log: Path, store: ObjectStore) -> None:
    project = git_project(tmp_path / "project", log=small_log)
    local = project / "data/train.parquet"
    prepared = project / "data/prepared/train/00000.bin"
    assert ran(dvc(project, "repro", "prepare")) == ["prepare"]
    expected = prepared.read_bytes()

    log = shutil.move(local, tmp_path / "train.parquet")
    uri = store.put(Path(log), "train.parquet")
    set_params(project / "params.yaml", {"data.train": uri})
    assert ran(dvc(project, "repro", "prepare")) == ["prepare"]
    assert prepared.read_bytes() == expected
    assert uri in (project / "dvc.lock").read_text()
    assert ran(dvc(project, "repro", "prepare")) == []

    table = pq.read_table(log)
    pq.write_table(table.slice(0, table.num_rows - 10), log)
    store.put(Path(log), "train.parquet")
    assert ran(dvc(project, "repro", "prepare")) == ["prepare"]
    assert pq.read_metadata(log).num_rows == 7990
    assert prepared.stat().st_size < len(expected)
