"""Exported folders, run in a process that cannot import this package."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from qin.cli import app
from qin.model.artifact import load_model
from qin.raw.hashing import hash_column
from qin.serving.deployed import read_deployed
from qin.serving.graph.feeds import feeds_of
from qin.serving.graph.whole import WholeModel, input_names
from qin.serving.readme import readme
from qin.serving.scorer import Scorer
from tests.serving.conftest import QUICK, run_pipeline
from tools import console

COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # PyTorch's choice
FILES = {
    "README.md",
    "golden.json",
    "golden.parquet",
    "golden_inputs.npz",
    "model.onnx",
    "parity.json",
    "signature.json",
}

# Forgotten is this package, and what the model was trained with.
TRAINED_WITH = ("qin", "lightgbm", "pyarrow", "numba")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page, in order."""
    return [(block.language, "\n".join(block.lines)) for block in console.blocks(text)]


def run_alone(lines: str, folder: Path, *, without: Iterable[str] = TRAINED_WITH) -> None:
    """Run lines of Python in a folder, in a process that cannot import some packages."""
    forgotten = f"import sys; sys.modules.update(dict.fromkeys({tuple(without)}))\n"
    subprocess.run([sys.executable, "-c", forgotten + lines], cwd=folder, check=True)


@pytest.fixture(scope="module", params=["sampled", "rich"])
def project(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_the_graph_gives_the_scores_of_raw_rows(project: Path) -> None:
    """Hashes, histories, impressions, statistics, network, trees, blend, calibration, shifts in plain operations."""
    model = read_deployed(project / "artifacts", num_threads=1, precision="fp32")
    graph = WholeModel(model, load_model(project / "artifacts/model").networks).eval()
    rows = pq.read_table(project / "data/test.parquet")
    feeds = feeds_of(model, rows)
    with torch.inference_mode():
        probability, _, buckets = graph(*(torch.from_numpy(np.ascontiguousarray(feeds[n])) for n in input_names(model)))
    np.testing.assert_allclose(probability.numpy(), Scorer(model, num_threads=1).score(rows), rtol=0, atol=1e-6)
    [batch] = model.encoder("rows")(model.completed(rows).combine_chunks())
    assert np.array_equal(buckets.numpy(), batch.categorical.numpy())


def test_only_an_earlier_export_is_replaced(project: Path, tmp_path: Path) -> None:
    """An export takes the place of its folder: `qin export data` would have taken the log with it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.parquet").write_bytes(b"the log")
    arguments = ["--artifacts", str(project / "artifacts"), "--rows", str(project / "data/test.parquet")]
    done = CliRunner().invoke(app, ["export", str(tmp_path / "data"), *arguments])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'data'}: holds train.parquet, and is no earlier export; ")
    assert (tmp_path / "data/train.parquet").read_bytes() == b"the log"


@pytest.fixture(scope="module")
def exported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "qin"
    arguments = ["--artifacts", project / "artifacts", "--rows", project / "data/test.parquet"]
    done = CliRunner().invoke(app, ["export", str(out), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return out


def test_the_lines_of_the_readme_run_without_this_package(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    languages, lines = zip(*blocks((exported / "README.md").read_text()), strict=True)
    assert languages == ("python", "python")
    run_alone("\n".join(lines), exported, without=[*TRAINED_WITH, "torch"])
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["different_buckets"] == 0
    assert parity["logit"]["max"] < 1e-5


def test_any_number_of_rows_and_tokens_is_scored_alike(exported: Path, project: Path) -> None:
    """With ONNX Runtime, raw rows through a client's inputs: within 1e-6 of the scorer in float32."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    model = read_deployed(project / "artifacts", num_threads=1, precision="fp32")
    rows = pq.read_table(project / "data/test.parquet")
    scorer = Scorer(model, num_threads=1)
    for part in (rows.slice(3, 1), rows.slice(40, 57), rows):
        [probability] = session.run(["probability"], feeds_of(model, part))
        np.testing.assert_allclose(probability, scorer.score(part), rtol=0, atol=1e-6)


def test_the_bytes_do_not_name_this_machine(exported: Path, project: Path, tmp_path: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    other = tmp_path / "elsewhere"
    program = "import sys; from qin.cli import app; app(sys.argv[1:])"
    arguments = ["export", other, "--artifacts", project / "artifacts", "--rows", project / "data/test.parquet"]
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
    assert hashlib.sha256((other / "model.onnx").read_bytes()).digest() == hashlib.sha256(content).digest()


def test_the_readme_s_hash_is_that_of_texts() -> None:
    scope: dict[str, Any] = {}
    exec(blocks(readme("onnx", "model.onnx", []))[1][1], scope)
    texts = ["", "a", "한국", "7", "-7", "007", "-0", "1.5", "9" * 25, str(2**63 - 1), "x" * 64, "0"]
    expected = hash_column(pa.array(texts)).unseeded.view(np.int64).tolist()
    assert [scope["hash_of_text"](text) for text in texts] == expected


@pytest.mark.slow
def test_the_program_of_pytorch_is_exported_too(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "qin"
    arguments = ["--format", "pt2", "--artifacts", project / "artifacts", "--rows", project / "data/test.parquet"]
    done = CliRunner().invoke(app, ["export", str(out), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    languages, lines = zip(*blocks((out / "README.md").read_text()), strict=True)
    assert languages == ("python", "python")
    run_alone("\n".join(lines), out)
    assert {path.name for path in out.iterdir()} == FILES - {"model.onnx"} | {"model.pt2"}


@pytest.fixture(scope="module")
def compiled(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as machine code, which takes a minute of a C++ compiler."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"there is no C++ compiler {COMPILER}")
    out = tmp_path_factory.mktemp("compiled") / "qin"
    arguments = ["--format", "aoti", "--artifacts", project / "artifacts", "--rows", project / "data/test.parquet"]
    done = CliRunner().invoke(app, ["export", str(out), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.slow
def test_machine_code_gives_the_golden_rows_without_this_package(compiled: Path) -> None:
    added = {"model.aoti.pt2", "golden_inputs.pt"}
    assert {path.name for path in compiled.iterdir()} == FILES - {"model.onnx"} | added
    languages, lines = zip(*blocks((compiled / "README.md").read_text()), strict=True)
    assert languages == ("python", "cpp", "sh", "python")
    run_alone("\n".join((lines[0], lines[3])), compiled)
    parity = json.loads((compiled / "parity.json").read_text())
    assert parity["different_buckets"] == 0
    assert parity["logit"]["max"] < 1e-5


@pytest.mark.slow
def test_machine_code_runs_in_cpp_as_its_readme_says(compiled: Path, tmp_path: Path) -> None:
    """Compiled against the libraries of PyTorch's own package, in a copy of the folder."""
    [(_, program)] = [block for block in blocks((compiled / "README.md").read_text()) if block[0] == "cpp"]
    [(_, commands)] = [block for block in blocks((compiled / "README.md").read_text()) if block[0] == "sh"]
    folder = shutil.copytree(compiled, tmp_path / "copy")
    (folder / "score.cpp").write_text(program)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", "-e", "-c", commands]
    printed = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout.split()
    golden = json.loads((folder / "golden.json").read_text())
    np.testing.assert_allclose([float(line) for line in printed], golden["probability"], rtol=0, atol=1e-6)


def test_without_a_compiler_machine_code_is_refused_in_one_line(
    sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inductor = import_module("torch._inductor.cpp_builder")
    inductor.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(import_module("torch._inductor.config").cpp, "cxx", (None, "no-such-compiler"))
    arguments = ["--format", "aoti", "--artifacts", sampled / "artifacts", "--rows", sampled / "data/test.parquet"]
    done = CliRunner().invoke(app, ["export", str(tmp_path / "qin"), *map(str, arguments)])
    inductor.cpp_compiler_search.cache_clear()
    assert done.exit_code == 1
    assert "error: export needs a C++ compiler for aoti: install g++ or clang++, or name one in CXX" in done.output
    assert not (tmp_path / "qin").exists()


@pytest.mark.slow
def test_a_model_of_two_seeds_is_exported_as_their_mean(tmp_path: Path, small_log: Path) -> None:
    project = run_pipeline(tmp_path, small_log, {**QUICK, "model.seeds": 2, "model.members": ["network"]})
    assert len(load_model(project / "artifacts/model").networks) == 2
    out, rows = tmp_path / "qin", project / "data/test.parquet"
    arguments = ["export", out, "--artifacts", project / "artifacts", "--rows", rows]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    model = read_deployed(project / "artifacts", num_threads=1, precision="fp32")
    session = pytest.importorskip("onnxruntime").InferenceSession(str(out / "model.onnx"))
    table = pq.read_table(rows)
    [probability] = session.run(["probability"], feeds_of(model, table))
    np.testing.assert_allclose(probability, Scorer(model, num_threads=1).score(table), rtol=0, atol=1e-6)
