"""dvc.yaml against the code: dependencies are the import closure, params are what a stage reads."""

import ast
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qin.config import load_params
from qin.config import params as config
from qin.config.section import Section
from qin.config.strict_yaml import read_yaml
from qin.runtime.stage import STAGES
from tests.project import ROOT, copy_project, set_params
from tests.stages.run import run_in_process
from tools.stage_deps import PIPELINE, code_deps, stage_closure, with_deps

# It imports nothing of ours, by the test of that name; and what Ctrl-C does before a stage begins: no output depends on
# either.
PACKAGES = {"qin/__init__.py", "stages/__init__.py"}

# They change speed and memory or when a checkpoint is written, never an output.
NOT_TRACKED = {
    *(
        "prepare.batch_rows",
        "prepare.launcher",
        "prepare.num_processes",
        "prepare.num_threads",
        "train.checkpoint_seconds",
        "train.checkpoint_steps",
    ),
    *("track.to", "track.every_steps", "track.project"),
    *("train.launcher", "train.max_restarts", "train.elastic"),
}

# Settings under which a stage reads what it does not read by default.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "split": [{"split.method": "time", "split.time_col": "day_of_week", "split.session_key": "hour"}],
    "train": [{"split.group_key": "l_feat_12"}],
    "calibrate": [{"calibration.by": "inventory_id"}],  # and stays for the stages after it, which read its output
    "evaluate": [{"evaluate.slices": ["gender", "hour"], "split.group_key": "l_feat_12"}],
}


def dvc_stages() -> dict[str, Any]:
    stages: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"]
    return stages


def test_stages_are_in_order_described_and_the_shells_own_process() -> None:
    assert tuple(dvc_stages()) == STAGES
    assert all(len(stage["desc"]) > 20 for stage in dvc_stages().values())
    assert all(stage["cmd"] == f"exec python -m stages {name}" for name, stage in dvc_stages().items())


@pytest.mark.parametrize("name", STAGES)
def test_what_git_keeps_is_a_metric_or_a_plot(name: str) -> None:
    """Of a stage with any other output outside of its cache, DVC keeps no run: an experiment made again would train."""
    for output in dvc_stages()[name].get("outs", []):
        assert not isinstance(output, dict) or all(options.get("cache", True) for options in output.values())


@pytest.mark.parametrize("name", STAGES)
def test_the_code_that_a_stage_imports_lies_under_its_dependencies_and_none_is_unused(name: str) -> None:
    listed = [dep for dep in dvc_stages()[name]["deps"] if dep.startswith(("qin", "stages"))]
    assert all((ROOT / dep).exists() for dep in listed)
    imported = set(stage_closure(name)) - PACKAGES
    entries = {module: [dep for dep in listed if module == dep or module.startswith(f"{dep}/")] for module in imported}
    assert {module: found for module, found in entries.items() if len(found) != 1} == {}  # nor listed twice
    assert {dep for found in entries.values() for dep in found} == set(listed)


def test_the_tool_has_written_the_code_that_stages_depend_on() -> None:
    text = PIPELINE.read_text(encoding="utf-8")
    for name in STAGES:
        assert with_deps(text, name, code_deps(name)) == text, "run `python -m tools.stage_deps --write`"


@pytest.mark.parametrize(
    ("changed", "rerun"),
    [
        ("qin/evaluate/curves.py", {"evaluate"}),
        ("qin/calibrate/fits.py", {"calibrate", "evaluate", "predict"}),
        ("qin/metrics/standard_errors.py", {"evaluate"}),
        ("qin/prepare/encode.py", {"prepare"}),
        ("qin/split/methods.py", {"split"}),
        ("qin/train/loop.py", {"train"}),
        ("qin/predict/submission.py", {"predict"}),
        ("qin/network/frozen.py", {"train", "evaluate", "predict"}),
    ],
)
def test_a_change_reruns_the_stages_that_run_it(changed: str, rerun: set[str]) -> None:
    """By code alone: a stage whose inputs change through an earlier one runs again too."""
    entries = {name: stage["deps"] for name, stage in dvc_stages().items()}
    found = {name for name, deps in entries.items() if any(changed == d or changed.startswith(f"{d}/") for d in deps)}
    assert found == rerun


def test_the_package_at_the_top_imports_nothing_of_ours() -> None:
    """Every stage imports it and none lists it: what it offers is imported when it is asked for, by name."""
    tree = ast.parse((ROOT / "qin/__init__.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported == ["importlib", "typing"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def test_params_yaml_holds_every_parameter_that_a_stage_lists() -> None:
    """DVC refuses a stage whose parameter is missing, though the settings have a default for it."""
    tree = read_yaml(ROOT / "params.yaml")
    for stage in dvc_stages().values():
        for dotted in stage["params"]:
            node = tree
            for key in dotted.split("."):
                assert key in node, dotted
                node = node[key]


def test_params_are_what_stages_read(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path / "project", log=small_log)
    monkeypatch.chdir(project)
    for name, stage in dvc_stages().items():
        read: set[str] = set()
        for changes in [*VARIANTS.get(name, []), {"split.method": "stratified"}]:
            set_params(project / "params.yaml", changes)
            read |= _recorded(name, monkeypatch)
        assert sorted(read - NOT_TRACKED) == sorted(_expanded(stage["params"])), name


def _sections() -> dict[str, type[BaseModel]]:
    annotations = {name: field.annotation for name, field in config.Params.model_fields.items()}
    return {name: section for name, section in annotations.items() if isinstance(section, type)}


def _expanded(params: list[str]) -> set[str]:
    """Listed sections as their keys."""
    sections = _sections()
    return {
        key
        for param in params
        for key in ([f"{param}.{field}" for field in sections[param].model_fields] if param in sections else [param])
    }


def _recorded(stage: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Keys that a stage reads after the params were loaded and checked."""
    loaded: dict[int, str] = {}  # by identity: the model artifact holds sections of its own
    kept: list[BaseModel] = []  # or others would get the identities of those that are no longer used
    read: set[str] = set()
    original = BaseModel.__getattribute__

    def recording(self: Any, attribute: str) -> Any:
        section = loaded.get(id(self))
        if section is not None and attribute in type(self).model_fields:
            read.add(f"{section}.{attribute}")
        if section is not None and attribute == "model_dump":
            read.update(f"{section}.{field}" for field in type(self).model_fields)
        if section is not None and attribute == "model_copy":
            return partial(copied, self, section)
        return original(self, attribute)

    def copied(section: Any, name: str, **changes: Any) -> Any:
        """A copy is read for the section that it is of."""
        copy = original(section, "model_copy")(**changes)
        kept.append(copy)
        loaded[id(copy)] = name
        return copy

    def load_and_record(path: Path, *, warns: bool = True) -> config.Params:
        params = load_params(path, warns=warns)
        kept.append(params)
        loaded.update({id(getattr(params, name)): name for name in config.Params.model_fields})
        monkeypatch.setattr(Section, "__getattribute__", recording)
        return params

    with monkeypatch.context() as patched:
        patched.setattr(f"stages.{stage}.load_params", load_and_record)
        run_in_process(stage)
    monkeypatch.delattr(Section, "__getattribute__")
    return read


def test_no_output_is_left_undeclared(tmp_path: Path, small_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path / "project", log=small_log)
    monkeypatch.chdir(project)
    before = {path for path in project.rglob("*") if path.is_file()}
    for name in STAGES:
        run_in_process(name)
    shutil.rmtree(project / ".qin")
    outputs = [next(iter(out)) if isinstance(out, dict) else out for s in dvc_stages().values() for out in _outputs(s)]
    written = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()} - {
        path.relative_to(project).as_posix() for path in before
    }
    code = {path for path in written if path.endswith((".pyc", ".nbi", ".nbc"))}
    assert [path for path in written - code if not path.startswith(tuple(outputs))] == []
    assert [out for out in outputs if not any(path.startswith(out) for path in written)] == []


def _outputs(stage: dict[str, Any]) -> list[Any]:
    return [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
