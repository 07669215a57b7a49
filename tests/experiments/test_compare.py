"""Two runs side by side: found by folder, revision or experiment, matched by row, compared."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from numpy.typing import NDArray
from typer.testing import CliRunner

from qin.calibrate.blend import Blend, Member
from qin.calibrate.holdout import CalibrationRows, CalibratorSpec, fit_calibration
from qin.cli import app
from qin.experiments.compare import (
    calibrated_logits,
    compare_runs,
    compared,
    comparison_json,
    comparison_text,
    shared_rows,
    verdict,
)
from qin.experiments.runs import read_run
from qin.metrics.paired import Difference
from qin.raw.segments import Segments
from qin.runtime import paths
from qin.runtime.chain import Origin, origin_entry, read_artifact
from qin.runtime.errors import ArtifactError, DataError, SchemaError
from qin.runtime.files import write_exact_json
from qin.runtime.labelled import write_labelled_json
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows
from qin.shards.folds import report_half
from tests.metrics.test_ranking import sample
from tests.project import ROOT, set_params

Array = NDArray[Any]
NUM_ROWS = 5_000

# raised inside DVC, by a library that it uses
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")


def write_run(
    root: Path,
    logit: Array,
    label: Array,
    *,
    row: Array | None = None,
    segments: Segments | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Leave what train, trees and calibrate would, with shifts by user if there are segments; returns the root."""
    row = np.arange(label.size) if row is None else row
    scored = ScoredRows(
        row=row,
        logit=logit.astype(np.float32),
        label=label.astype(np.uint8),
        is_report=report_half(row, seed=0).astype(np.uint8),
        prior=TrainingPrior(base_rate=0.03),
    )
    for place in (paths.VALIDATION, paths.TREES_VALIDATION, paths.SCORED):
        (root / place).mkdir(parents=True, exist_ok=True)
        scored.write(root / place, origin=Origin(settings or {}, {}))
    blend = Blend({"network": Member(0.0, 1.0, 0.0, 1.0)})
    write_exact_json(root / paths.BLEND, {"members": blend.to_dict(), **origin_entry(Origin({}, {}))})
    report = fit_calibration(
        CalibrationRows(scored.logit, scored.label, segments),
        is_report=scored.is_report == 1,
        prior=scored.prior,
        spec=None if segments is None else CalibratorSpec("temperature", "log_loss", "user"),
    )
    origin = Origin({}, {paths.SCORED.as_posix(): read_artifact(paths.SCORED, at=root / paths.SCORED).checksum})
    write_exact_json(root / paths.CALIBRATOR, {**report.to_dict(), **origin_entry(origin)})
    return root


@pytest.fixture(scope="module")
def rows() -> tuple[Array, Array, Array]:
    """A good logit, a noisier one, and labels."""
    logit, label = sample(NUM_ROWS)
    return logit, logit + 2.0 * np.random.default_rng(1).normal(size=NUM_ROWS), label


def test_a_calibrator_of_another_run_is_named(tmp_path: Path, rows: tuple[Array, Array, Array]) -> None:
    write_run(tmp_path, rows[0], rows[2])
    write_run(tmp_path / "other", rows[1], rows[2])
    (tmp_path / "other" / paths.CALIBRATOR).replace(tmp_path / paths.CALIBRATOR)
    with pytest.raises(ArtifactError) as caught:
        read_run("workspace", root=tmp_path)
    assert str(caught.value) == (
        "workspace: artifacts/temperature.json: made from another artifacts/scored than the one that is there; "
        "run `dvc repro`"
    )


def test_a_run_is_a_checkout_or_its_folder_of_logits(tmp_path: Path, rows: tuple[Array, Array, Array]) -> None:
    write_run(tmp_path, rows[0], rows[2])
    names = ("workspace", str(tmp_path), str(tmp_path / paths.SCORED))
    found = [read_run(name, root=tmp_path) for name in names]
    assert [run.name for run in found] == list(names)
    for run in found:
        np.testing.assert_array_equal(run.scored.logit, rows[0].astype(np.float32))
        assert run.reports == found[0].reports
    (tmp_path / paths.SCORED / "logit.npy").unlink()
    with pytest.raises(ArtifactError, match=r"^workspace: \S+logit.npy: file not found"):
        read_run("workspace", root=tmp_path)


def test_only_shared_rows_are_compared_and_order_of_runs_flips_the_sign(
    tmp_path: Path, rows: tuple[Array, Array, Array]
) -> None:
    good, bad, label = rows
    number = np.arange(NUM_ROWS)
    first = write_run(tmp_path / "a", good[100:], label[100:], row=number[100:])
    second = write_run(tmp_path / "b", bad[:4_700], label[:4_700], row=number[:4_700])
    shared = shared_rows(read_run(str(first)), read_run(str(second)))
    reported = report_half(number, seed=0)
    assert shared.row.tolist() == [k for k in range(100, 4_700) if reported[k]]
    only = int(reported[4_700:].sum()), int(reported[:100].sum())
    assert shared.num_unshared == only
    np.testing.assert_array_equal(shared.label, label[shared.row])
    found = compare_runs(shared)
    assert list(found) == ["ap", "auc", "log_loss", "wll", "wll_balanced", "score_natural", "score_balanced"]
    back = compare_runs(shared_rows(read_run(str(second)), read_run(str(first))))
    for name, row in found.items():
        assert back[name].difference == -row.difference
        assert back[name].standard_error == pytest.approx(row.standard_error, rel=1e-12)
    assert verdict("auc", found["auc"]) == "A better"
    assert verdict("log_loss", found["log_loss"]).startswith("A ")
    text = comparison_text(comparison_json(shared, found, clusters=None))
    assert f"warning: the folds differ ({only[0]} more rows in A's, {only[1]} in B's)" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row, label: (row + NUM_ROWS, label), "report no row in common"),
        (
            lambda row, label: (row, np.where(row == 7, 1 - label, label)),
            "row 7: label 0 in a, 1 in b; the runs are not",
        ),
        (lambda row, label: (np.where(label == 1, row + NUM_ROWS, row), label), "are all of label 0"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, rows: tuple[Array, Array, Array], change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, label = rows
    assert label[7] == 0
    row, other = change(np.arange(NUM_ROWS), label)
    order = np.argsort(row)
    write_run(tmp_path / "a", good, label)
    write_run(tmp_path / "b", bad[order], other[order], row=row[order])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        shared_rows(read_run("a"), read_run("b"))


@pytest.mark.parametrize(
    ("name", "difference", "error", "words"),
    [
        ("ap", 1.9, 1.0, "noise"),
        ("ap", 2.0, 1.0, "B likely better"),
        ("ap", -4.0, 1.0, "A better"),
        ("log_loss", -4.0, 1.0, "B better"),
        ("wll", 2.0, 1.0, "A likely better"),
        ("auc", 0.0, 0.0, "identical"),
        ("auc", 0.0, 1.0, "noise"),
        ("auc", 0.1, None, "unknown"),
        ("log_loss", 0.1, 0.0, "A better"),
    ],
)
def test_verdicts(name: str, difference: float, error: float | None, words: str) -> None:
    z = difference / error if error else None
    assert verdict(name, Difference(0.0, difference, difference, error, z=z)) == words


def compare(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["compare", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_rows_are_clustered_by_the_group_key_unless_told_otherwise(
    tmp_path: Path, rows: tuple[Array, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, label = rows
    monkeypatch.chdir(tmp_path)
    write_run(Path("good"), good, label)
    write_run(Path("bad"), bad, label)
    without_params = compare("good", "bad")[1]
    assert "rows taken as independent" in without_params
    assert "gauc" not in without_params
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    set_params(Path("params.yaml"), {"split.group_key": "user", "data.train": "train.parquet"})
    assert compare("good", "bad")[2] == "error: train.parquet: file not found\n"
    pq.write_table(pa.table({"user": np.arange(NUM_ROWS) // 4}), "train.parquet")
    clustered = compare("good", "bad")[1]
    reported = report_half(np.arange(NUM_ROWS), seed=0)
    num_users = np.unique(np.arange(NUM_ROWS)[reported] // 4).size
    assert f"standard errors: by user, {num_users:,} clusters" in clustered
    assert [line.split()[0] for line in clustered.splitlines()[4:7]] == ["ap", "auc", "gauc"]
    assert compare("good", "bad", "--independent")[1] == without_params


def test_shifts_by_segment_come_from_the_calibrator_that_the_report_half_did_not_fit(
    tmp_path: Path, rows: tuple[Array, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _, label = rows
    monkeypatch.chdir(tmp_path)
    user = Segments(("0", "1"), (np.arange(NUM_ROWS) % 2).astype(np.int32))
    pq.write_table(pa.table({"user": user.code}), "train.parquet")
    logit = (good + user.code).astype(np.float32)  # too high for one of the two
    plain = read_run(str(write_run(Path("a"), logit, label)))
    shifted = read_run(str(write_run(Path("b"), logit, label, segments=user)))
    shared = shared_rows(plain, shifted, train="train.parquet")
    half = report_half(np.arange(NUM_ROWS), seed=0)
    assert shared.row.tolist() == np.flatnonzero(half).tolist()
    np.testing.assert_array_equal(shared.calibrated[0], plain.reports[0].heldout.apply(logit)[half])
    np.testing.assert_array_equal(shared.calibrated[1], shifted.reports[0].heldout.apply(logit, user)[half])
    assert compare_runs(shared)["auc"].difference > 0.0
    assert compare("a", "b")[2].startswith("error: params.yaml: file not found; shifts by segment need its data.train")


def test_segments_of_a_log_of_another_type_are_refused(
    tmp_path: Path, rows: tuple[Array, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would be shifted by nothing, as if they were new ones."""
    good, _, label = rows
    monkeypatch.chdir(tmp_path)
    user = Segments(("0", "1"), (np.arange(NUM_ROWS) % 2).astype(np.int32))
    run = read_run(str(write_run(Path("a"), good, label, segments=user)))
    [report] = run.reports
    assert report.heldout.segments is not None
    shifts = replace(report.heldout.segments, type="int64")
    run = replace(run, reports=[replace(report, heldout=replace(report.heldout, segments=shifts))])
    expected = calibrated_logits(run, train=_log(pa.array(user.code)))
    assert np.array_equal(calibrated_logits(run, train=_log(pa.array(user.code, pa.float64()))), expected)
    with pytest.raises(SchemaError, match=r"^train.parquet: column user: type string, but a was calibrated by int64; "):
        calibrated_logits(run, train=_log(pa.array(user.code, pa.float64()).cast(pa.string())))


def _log(column: pa.Array) -> str:
    pq.write_table(pa.table({"user": column}), "train.parquet")
    return "train.parquet"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, rows: tuple[Array, Array, Array]) -> Path:
    """One commit before any run, one with a run, an experiment with a worse one, and its run in the workspace."""
    folder = tmp_path_factory.mktemp("repository")
    good, bad, label = rows
    git(folder, "init", "-q", "-b", "main")
    with Repo.init(str(folder)) as repo:
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        commit(folder)
        outputs = [str(folder / name) for name in (paths.SCORED, paths.CALIBRATOR)]
        write_run(folder, good, label)
        repo.add(outputs, force=True)
        commit(folder)
        write_run(folder, bad, label)
        repo.add(outputs, force=True)
        repo.experiments.save(name="noisy", force=True)
    return folder


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "step")


def test_revisions_experiments_and_the_workspace(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    found = {}
    for second in ("noisy", "workspace"):
        code, text, _ = compare("HEAD", second, "--json")
        assert code == 0
        found[second] = json.loads(text)
    assert found["noisy"]["metrics"] == found["workspace"]["metrics"]
    report, half = found["noisy"], report_half(np.arange(NUM_ROWS), seed=0)
    assert report["rows"] == {
        "shared": int(half.sum()),
        "positives": int(sample(NUM_ROWS)[1][half].sum()),
        "only_first": 0,
        "only_second": 0,
    }
    assert report["clusters"] is None
    assert report["metrics"]["auc"]["verdict"] == "A better"
    assert report["metrics"]["auc"]["z"] < -3.29


def test_what_is_not_there_is_one_line(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    for second, message in (
        ("nothing", "error: nothing: neither workspace, nor a folder with artifacts/scored, nor a revision"),
        ("HEAD~1", "error: HEAD~1: artifacts/scored is not in DVC's cache; run `dvc pull`"),
    ):
        code, text, errors = compare("HEAD", second)
        assert (code, text) == (1, "")
        assert errors.startswith(message)
        assert len(errors.splitlines()) == 1
    cache = repository / ".dvc/cache"
    cache.rename(repository / "away")
    for name in ("HEAD", "noisy"):
        with pytest.raises(ArtifactError, match=rf"^{name}: artifacts/\S+ is not in DVC's cache"):
            read_run(name)
    (repository / "away").rename(cache)


def write_labelled_run(root: Path, logits: dict[str, Array], labels: dict[str, Array]) -> Path:
    """Leave what calibrate would of several labels."""
    calibrators = {}
    for name, logit in logits.items():
        write_run(root / "rooms" / name, logit, labels[name])
        (root / paths.SCORED).mkdir(parents=True, exist_ok=True)
        shutil.move(root / "rooms" / name / paths.SCORED, root / paths.SCORED / name)
        calibrators[name] = root / "rooms" / name / paths.CALIBRATOR
    write_labelled_json(root / paths.CALIBRATOR, calibrators)
    return root


def test_each_label_that_both_runs_have_is_compared(tmp_path: Path, rows: tuple[Array, Array, Array]) -> None:
    good, noisy, label = rows
    liked = label[::-1]
    first = write_labelled_run(
        tmp_path / "first", {"clicked": good, "liked": noisy[::-1]}, {"clicked": label, "liked": liked}
    )
    second = write_labelled_run(
        tmp_path / "second", {"liked": good[::-1], "clicked": good}, {"clicked": label, "liked": liked}
    )
    report = compared(str(first), str(second), params=tmp_path / "params.yaml")
    assert list(report["labels"]) == ["clicked", "liked"]  # in the first run's order
    assert report["labels"]["clicked"]["metrics"]["auc"]["verdict"] == "identical"
    assert report["labels"]["liked"]["metrics"]["auc"]["verdict"] == "B likely better"
    text = comparison_text(report)
    assert [line for line in text.splitlines() if line.startswith("label ")] == ["label clicked", "label liked"]
    alone = compared(str(first), str(second), params=tmp_path / "params.yaml", label="liked")
    assert alone == report["labels"]["liked"]
    with pytest.raises(DataError, match="no label saved; they are of clicked, liked and liked, clicked"):
        compared(str(first), str(second), params=tmp_path / "params.yaml", label="saved")


def test_a_run_of_one_label_is_compared_with_that_label_of_another(
    tmp_path: Path, rows: tuple[Array, Array, Array]
) -> None:
    good, noisy, label = rows
    one = write_run(tmp_path / "one", noisy, label, settings={"data.label": "clicked"})
    both = write_labelled_run(
        tmp_path / "both", {"liked": good, "clicked": good}, {"clicked": label, "liked": label[::-1]}
    )
    report = compared(str(one), str(both), params=tmp_path / "params.yaml")
    assert list(report["labels"]) == ["clicked"]
    assert report["labels"]["clicked"]["metrics"]["auc"]["verdict"] == "B better"
