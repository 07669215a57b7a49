"""dvc.yaml follows the files of params.yaml, back and forth, and changes nowhere else."""

from pathlib import Path
from typing import Any

import pytest

from qin.runtime.errors import ConfigError
from qin.setup.dependencies import write_dependencies
from tests.logs import data_params
from tests.project import ROOT, dvc, git, set_params


def test_lists_and_null_come_and_go(tmp_path: Path) -> None:
    file = tmp_path / "dvc.yaml"
    original = (ROOT / "dvc.yaml").read_text()
    file.write_text(original)
    assert not write_dependencies(file, data_params())
    assert file.read_text() == original
    assert write_dependencies(file, data_params(["a", "b"], test=None))
    changed = file.read_text().splitlines()
    assert changed.count("      - ${data.train[1]}") == original.count("- ${data.train}\n")
    assert not any(line.strip().startswith(("- ${data.test", "- ${data.sample")) for line in changed)
    assert write_dependencies(file, data_params(["a"]))
    assert write_dependencies(file, data_params(), init_from="kept/monday")
    assert file.read_text().count("      - ${train.init_from}\n") == 1
    assert write_dependencies(file, data_params())
    assert file.read_text() == original


@pytest.mark.parametrize("settings", [{"data.train": ["a", "b"]}, {"data.test": None}])
def test_dvc_reads_what_it_could_not(tmp_path: Path, settings: dict[str, Any]) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    git(tmp_path, "init", "-q")
    assert dvc(tmp_path, "init", "-q").returncode == 0
    set_params(tmp_path / "params.yaml", settings)
    assert dvc(tmp_path, "stage", "list").returncode != 0
    write_dependencies(
        tmp_path / "dvc.yaml", data_params(settings.get("data.train", "a"), test=settings.get("data.test", "t"))
    )
    done = dvc(tmp_path, "stage", "list")
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dvc\.yaml: file not found; "):
        write_dependencies(tmp_path / "dvc.yaml", data_params())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(ConfigError, match=r"dvc\.yaml: no line such as `- \$\{data\.train\}`$"):
        write_dependencies(tmp_path / "dvc.yaml", data_params())
