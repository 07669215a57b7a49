"""Prepare over one file and over many, in one process and in two, and with a day that is added, in turns.

    python -m benchmarks.prepare_files --rows 1600000 --out benchmarks/results/prepare_files.json

Every run but the last of a turn begins without encoded files of earlier ones. `--before` names a checkout of an earlier
commit, whose prepare takes the same single file in the same turns. Figures are medians.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.machine import describe, report
from benchmarks.measure import Cost, measure, measure_sample
from benchmarks.profile import FILES, ROOT
from qin.experiments.overlay import overlaid

_FILES = "files"


def main(
    rows: Annotated[int, typer.Option(help="Rows of the train log.")] = 1_600_000,
    num_files: Annotated[int, typer.Option(help="Files that they are cut into.")] = 16,
    data: Annotated[Path | None, typer.Option(help="Folder with the three files, instead of generating them.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 3,
    before: Annotated[Path | None, typer.Option(help="Checkout of an earlier commit.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print rows per second and per CPU second and peak memory of each, as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            measure_sample(folder / "data", rows=rows, row_group_rows=-(-rows // num_files))
        else:
            (folder / "data").mkdir()
            for file in FILES:
                (folder / "data" / file).symlink_to((data / file).resolve())
        _cut(folder / "data/train.parquet", folder / "data" / _FILES, num_files)
        rows = pq.read_metadata(folder / "data/train.parquet").num_rows
        total = rows + pq.read_metadata(folder / "data/test.parquet").num_rows
        costs: dict[str, list[Cost]] = {}
        for _ in range(repeats):
            for variant, cost in _turn(folder, before):
                costs.setdefault(variant, []).append(cost)
    result = {
        "machine": describe(),
        "rows": {"train": rows, "train and test": total},
        "num_files": num_files,
        **{variant: _figures(found, total) for variant, found in costs.items()},
    }
    report(result, out)


def _cut(file: Path, folder: Path, num_files: int) -> None:
    """Write its row groups to as many files, each a run of them.

    Raises:
        BadParameter: If it has fewer row groups than that.
    """
    folder.mkdir()
    with pq.ParquetFile(file) as source:
        if source.num_row_groups < num_files:
            raise typer.BadParameter(f"{file}: {source.num_row_groups} row groups cannot become {num_files} files")
        for number, groups in enumerate(np.array_split(np.arange(source.num_row_groups), num_files)):
            with pq.ParquetWriter(folder / f"part-{number}.parquet", source.schema_arrow) as part:
                for group in groups:
                    part.write_table(source.read_row_group(int(group)))


def _turn(folder: Path, before: Path | None) -> list[tuple[str, Cost]]:
    many = {"data": {"train": f"data/{_FILES}"}}
    found = [] if before is None else [("one_file_before", _run(folder, {}, code=before))]
    found.append(("one_file", _run(folder, {})))
    found.append(("files_1_process", _run(folder, many)))
    found.append(("files_2_processes", _run(folder, {**many, "prepare": {"num_processes": 2, "num_threads": 1}})))
    last = max((folder / "data" / _FILES).iterdir(), key=lambda path: int(path.stem.removeprefix("part-")))
    aside = last.rename(folder / "data" / last.name)
    _run(folder, many)
    aside.rename(last)
    found.append(("one_file_added", _run(folder, many, keeps=True)))
    return found


def _run(folder: Path, changes: dict[str, dict[str, Any]], *, code: Path = ROOT, keeps: bool = False) -> Cost:
    """Run prepare with some settings changed."""
    if not keeps:
        shutil.rmtree(folder / ".qin/prepared", ignore_errors=True)
    base = (code / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(overlaid(base, changes, source="changes"), encoding="utf-8")
    command = [sys.executable, "-m", "stages", "prepare"]
    return measure(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(code)})


def _figures(costs: list[Cost], num_rows: int) -> dict[str, Any]:
    return {
        "seconds": median(cost.seconds for cost in costs),
        "rows_per_second": num_rows / median(cost.seconds for cost in costs),
        "rows_per_cpu_second": num_rows / median(cost.cpu_seconds for cost in costs),
        "peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs),
    }


if __name__ == "__main__":
    typer.run(main)
