"""Every stage on a log of many rows: seconds, rows/s, CPU seconds and peak memory of the process tree.

    python -m benchmarks.scale --rows 10704179 --out benchmarks/results/scale_10m.json

It generates the log, or takes one from `--data`, and runs the stages in a temporary folder below `--work`, which
needs about 2.5 KB of disk per row and is removed at the end. Settings are those of params.yaml, but for a small model
and one epoch, because training speed has its own benchmark; the split runs once per method.
"""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
import yaml

from benchmarks.machine import describe, report
from benchmarks.measure import Cost, measure_module, measure_sample
from benchmarks.profile import FILES, ROOT
from qin.config.strict_yaml import read_yaml
from qin.runtime.stage import STAGES

LOADER = "loader.json"

SMALL_MODEL = {
    "model": {"embedding_dim": 8, "attention_dim": 8, "num_layers": 1, "num_rows": 1, "dropout": 0.0},
    "train": {"epochs": 1, "batch_size": 8192},
}

# Users and sessions of the sample log are its histories, nearly as many as rows: the hardest case for groups.
METHODS: dict[str, dict[str, Any]] = {
    "group_user": {"method": "group_user", "group_key": "seq"},
    "group_session": {"method": "group_session", "group_key": "seq", "session_key": "day_of_week"},
    "time": {"method": "time", "time_col": "day_of_week", "group_key": "l_feat_12", "session_key": "history_b_1"},
    "stratified": {"method": "stratified"},  # last, for the stages that follow
}

_DISK_BYTES_PER_ROW = 2500


def main(
    rows: Annotated[int, typer.Option(help="Rows of train.parquet.")] = 1_000_000,
    row_group_rows: Annotated[int, typer.Option(help="Rows of a Parquet row group.")] = 1_000_000,
    data: Annotated[Path | None, typer.Option(help="Folder with the three files, instead of generating them.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for temporary files; by default the system's.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Run every stage once and print what it took as JSON."""
    work = work or Path(tempfile.gettempdir())
    if shutil.disk_usage(work).free < rows * _DISK_BYTES_PER_ROW:
        raise typer.BadParameter(f"{work}: {rows} rows need {rows * _DISK_BYTES_PER_ROW / 2**30:.0f} GiB of free disk")
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        stages = {}
        if data is None:
            stages["generate"] = _generate(folder / "data", rows=rows, row_group_rows=row_group_rows)
        else:
            (folder / "data").mkdir()
            for file in FILES:
                (folder / "data" / file).symlink_to((data / file).resolve())
        stages |= _run_stages(folder)
        loader = json.loads((folder / LOADER).read_text())
        train = pq.read_metadata(folder / "data/train.parquet")
        result = {
            "machine": describe(),
            "rows": {"train": train.num_rows, "test": pq.read_metadata(folder / "data/test.parquet").num_rows},
            "largest_row_group": max(train.row_group(i).num_rows for i in range(train.num_row_groups)),
            "stages": stages,
            "loader_rows_per_cpu_second": loader["rows_per_cpu_second"],
        }
    report(result, out)


def _generate(folder: Path, *, rows: int, row_group_rows: int) -> dict[str, float]:
    cost = measure_sample(folder, rows=rows, row_group_rows=row_group_rows)
    num_rows = sum(pq.read_metadata(folder / name).num_rows for name in FILES[:2])
    return _figures(cost, num_rows)


def _run_stages(folder: Path) -> dict[str, dict[str, float]]:
    figures = {"prepare": _run_stage(folder, "prepare", {})}
    for method, settings in METHODS.items():
        figures[f"split, {method}"] = _run_stage(folder, "split", settings)
    figures["loader"] = _run_loader(folder)
    for stage in STAGES[STAGES.index("train") :]:
        figures[stage] = _run_stage(folder, stage, METHODS["stratified"])
    return figures


def _run_stage(folder: Path, stage: str, split: dict[str, Any]) -> dict[str, float]:
    params = read_yaml(ROOT / "params.yaml")
    for section, values in {**SMALL_MODEL, "split": split}.items():
        params[section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True), encoding="utf-8")
    cost = measure_module("stages", stage, cwd=folder)
    report = json.loads((folder / f".qin/stages/{stage}.json").read_text())
    return _figures(cost, report["num_rows"])


def _run_loader(folder: Path) -> dict[str, float]:
    prepared = folder / "data/prepared/train"
    cost = measure_module("benchmarks.loader", str(prepared), "--out", str(folder / LOADER), cwd=folder)
    return _figures(cost, json.loads((folder / LOADER).read_text())["rows_read"])


def _figures(cost: Cost, num_rows: int) -> dict[str, float]:
    return {
        "rows": num_rows,
        "rows_per_second": num_rows / cost.seconds,
        "rows_per_cpu_second": num_rows / cost.cpu_seconds,
        **asdict(cost),
    }


if __name__ == "__main__":
    typer.run(main)
