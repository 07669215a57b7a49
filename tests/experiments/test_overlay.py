"""Overlays: what they replace, what they leave, what is refused, and the examples, which hold only what differs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qin.cli import app
from qin.config import load_params
from qin.config.strict_yaml import read_yaml
from qin.experiments.overlay import apply_overlays, overlaid
from qin.runtime.errors import ConfigError
from tests.project import ROOT

BASE = """# Head.
data:
  # Why.
  label: clicked # trailing
  drop:
    # of the list
    - a
    - b  # last

  # Before ignore.
  ignore: [x,
    y]
  empty: null
features:
  sequences:
    - name: seq
      max_len: 100
  # End.
"""
EXAMPLES = [
    path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("examples/*/*.yaml")) if path.stem != "params"
]


def test_values_take_the_place_of_whole_values_and_comments_stay() -> None:
    changes = {"data": {"label": "liked", "drop": ["c: d"], "ignore": [], "empty": 1e-05}}
    more = {"features": {"sequences": [{"name": "*", "max_len": 7}, {"name": "2022-05-04", "max_len": 8}]}}
    assert (
        overlaid(BASE, {**changes, **more}, source="o")
        == """# Head.
data:
  # Why.
  label: liked # trailing
  drop:
    - 'c: d'  # last

  # Before ignore.
  ignore: []
  empty: 1.0e-05
features:
  sequences:
    - name: '*'
      max_len: 7
    - name: '2022-05-04'
      max_len: 8
  # End.
"""
    )
    assert overlaid(BASE, {}, source="o") == BASE


def test_a_key_that_the_base_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        overlaid(BASE, {"data": {"labl": 1}, "data2": {"label": 1}}, source="mine.yaml")
    assert str(error.value).splitlines() == [
        "mine.yaml: data.labl: params.yaml has no such key",
        "mine.yaml: data2.label: params.yaml has no such key",
    ]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("train:\n  epochs: 0\n", "params.yaml with mine.yaml: train.epochs: "),
        ("- 1\n", "mine.yaml: expected sections"),
        ("train: 3\n", "mine.yaml: expected sections"),
        ("train: {epochs: 1, epochs: 2}\n", "mine.yaml"),
    ],
)
def test_a_bad_overlay_changes_nothing(
    overlay: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("mine.yaml").write_text(overlay)
    result = CliRunner().invoke(app, ["overlay", "mine.yaml"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "params.yaml"]


@pytest.mark.parametrize("content", ["", "- 1\n", "text\n"])
def test_settings_without_sections_are_refused(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(content)
    Path("mine.yaml").write_text("train:\n  epochs: 1\n")
    result = CliRunner().invoke(app, ["overlay", "mine.yaml"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: params.yaml: expected sections such as `data:`")
    assert Path("params.yaml").read_text() == content


def overlays(example: str) -> list[Path]:
    path = ROOT / example
    return [path] if path.stem == "params" else [path.with_name("params.yaml"), path]


@pytest.mark.parametrize("example", ["examples/kuairand/params.yaml", *EXAMPLES])
def test_an_example_obeys_the_rules_and_holds_only_what_differs(example: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params)
    *before, last = overlays(example)
    if before:
        apply_overlays(before, params=params)
    old, tree = read_yaml(params), read_yaml(last)
    apply_overlays([last], params=params)
    same = [f"{section}.{key}" for section in tree for key in tree[section] if tree[section][key] == old[section][key]]
    assert same == []
    new = read_yaml(params)
    assert {s: {k: tree.get(s, {}).get(k, v) for k, v in keys.items()} for s, keys in old.items()} == new
    assert load_params(params).data.label == new["data"]["label"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("kuairand", "examples/kuairand/params.yaml"),
        ("kuairand/liked", "examples/kuairand/params.yaml examples/kuairand/liked.yaml"),
    ],
)
def test_make_applies_an_example_and_runs_it(name: str, files: str) -> None:
    command = ["make", "--dry-run", "--old-file=install", "example", f"NAME={name}"]
    # Under `make test` an inner make would take over the outer one's flags and tell which folder it enters and leaves.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    printed = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines[-2:] == [f"qin overlay {files}", "dvc repro"]
