"""A file between two stages that is damaged, edited by hand or of another run: one line that names it, status 1."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qin.runtime.files import read_exact_json, write_exact_json
from qin.runtime.stage import STAGES
from tests.project import copy_project, digests
from tests.stages.run import run_in_process, said


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_log: Path) -> Iterator[Path]:
    """A project in which every stage has run; tests put back what they damage."""
    folder = copy_project(tmp_path_factory.mktemp("damaged") / "project", log=small_log)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for stage in STAGES:
            run_in_process(stage)
        yield folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_bytes(path: Path) -> None:
    """One bit of the header."""
    content = path.read_bytes()
    assert content.count(b"<f4") == 1
    path.write_bytes(content.replace(b"<f4", b">f4"))


def cool(path: Path) -> None:
    """What a user might try by hand."""
    path.write_text(path.read_text().replace('"temperature": ', '"temperature": 2', 1))


def move_a_row(path: Path) -> None:
    fold = np.load(path)
    fold[7] = 1 - fold[7]
    np.save(path, fold)


def other_buckets(path: Path) -> None:
    tree = read_exact_json(path)
    field = next(field for field in tree["schema"]["fields"] if field["name"] == "hour")
    field["num_buckets"] += 1
    write_exact_json(path, tree)


DAMAGE: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "train shard": (
        "train",
        "data/prepared/train/00000.bin",
        flip,
        "{}: numeric: damaged; run the prepare stage again",
    ),
    "test shard": (
        "predict",
        "data/prepared/test/00000.bin",
        flip,
        "{}: numeric: damaged; run the prepare stage again",
    ),
    "manifest": ("train", "data/prepared/train/manifest.json", flip, "{}: "),
    "ids": ("predict", "data/prepared/test/ids.arrow", flip, "{}: damaged or missing; run the prepare stage again"),
    "folds": ("train", "data/split/fold.npy", move_a_row, "{}: damaged or edited by hand; run the split stage again"),
    "logits": (
        "calibrate",
        "artifacts/validation/logit.npy",
        flip,
        "{}: damaged or edited by hand; run the train stage",
    ),
    "byte order": (
        "calibrate",
        "artifacts/validation/logit.npy",
        swap_bytes,
        "{}: damaged or edited by hand; run the train stage",
    ),
    "logits of trees": (
        "calibrate",
        "artifacts/trees_validation/logit.npy",
        flip,
        "{}: damaged or edited by hand; run the",
    ),
    "trees": ("predict", "artifacts/trees/trees.txt", flip, "{}: damaged or of other trees; run the trees stage again"),
    "columns of statistics": ("trees", "artifacts/statistics/heldout/columns.bin", flip, "{}: damaged"),
    "blend": ("predict", "artifacts/blend.json", flip, "{}: "),
    "labels": (
        "evaluate",
        "artifacts/validation/label.npy",
        flip,
        "{}: damaged or edited by hand; run the train stage",
    ),
    "temperature in evaluate": ("evaluate", "artifacts/temperature.json", cool, "{}: its checksum is not that of its"),
    "temperature in predict": ("predict", "artifacts/temperature.json", cool, "{}: its checksum is not that of its"),
    "weights": (
        "predict",
        "artifacts/model/weights.safetensors",
        flip,
        "{}: damaged or of another model; run the train",
    ),
    "other schema": (
        "predict",
        "data/prepared/test/manifest.json",
        other_buckets,
        "data/prepared/test: not encoded as the model was trained; different: hour",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_mended(name: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage, file, damage, expected = DAMAGE[name]
    whole, content = digests(project), (project / file).read_bytes()
    damage(project / file)
    with pytest.raises(SystemExit) as caught:
        run_in_process(stage)
    assert caught.value.code == 1
    (line,) = said(capfd.readouterr().err)
    assert line.startswith(f"error: {expected.format(file)}")
    (project / file).write_bytes(content)
    assert digests(project) == whole
    if stage != "train":
        run_in_process(stage)
        assert digests(project) == whole


def test_an_output_that_cannot_be_written_is_named(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outputs, kept = project / "outputs", project / "kept"
    outputs.rename(kept)
    outputs.symlink_to("/sys/kernel")  # nobody can create files there
    with pytest.raises(SystemExit) as caught:
        run_in_process("predict")
    assert caught.value.code == 1
    assert "error: stage predict: outputs/submission.csv: " in capfd.readouterr().err
    outputs.unlink()
    outputs.write_text("a file where a folder must be")
    with pytest.raises(SystemExit):
        run_in_process("predict")
    assert "error: stage predict: outputs: File exists" in capfd.readouterr().err
    outputs.unlink()
    kept.rename(outputs)
