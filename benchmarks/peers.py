"""FuxiCTR and LightGBM beside this project on the same rows in one run: preparing, training, scoring, memory.

    python -m venv .bench && .bench/bin/pip install -c constraints.txt 'qin-ctr[bench]'
    python -m benchmarks.peers --fuxictr .bench/bin/python --out benchmarks/results/peers.json

The log is the sample's. All train on the rows of our train fold and score those of the validation fold. Each is a
process of its own, one after the other, whose process tree's memory is sampled; seconds are those of the work, without
imports, and of scoring those of a second time. Ours are the stages prepare, split and train: the network alone, one
pass, no statistics and no refit, so that it does what a network of FuxiCTR does; then its scorer. FuxiCTR prepares with
its feature processor and trains, for one pass, embeddings of the same width, the mean of the history, and an MLP of
512, 256 and 128, made of its own layers
(`benchmarks/peers_fuxictr.py`). LightGBM reads the columns with pandas, texts as categories and of the history its
length and last item (`benchmarks/peers_lightgbm.py`). Without `--fuxictr` that one is left out, and the result says so.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.machine import describe, report
from benchmarks.measure import Cost, measure, measure_module, measure_sample
from benchmarks.profile import ROOT
from qin.config import load_params
from qin.experiments.changes import changed
from qin.metrics.definitions import AUC, Rows, values
from qin.model.artifact import load_model
from qin.network.threads import fix_threads
from qin.shards.files import ShardReader, read_labels
from qin.shards.folds import TRAIN, VALIDATION, read_folds
from qin.train.validation import score_rows

_FILES = ("head.parquet", "tail.parquet")


def main(
    rows: Annotated[int, typer.Option(help="Rows of the sample log.")] = 100_000,
    batch: Annotated[int, typer.Option(help="Rows of a batch, of all networks.")] = 1024,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = 2,
    fuxictr: Annotated[Path | None, typer.Option(help="Python of an environment that has FuxiCTR.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Run all and print the figures as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_sample(folder / "data", rows=rows, row_group_rows=rows)
        found = {"ours": _ours(folder, batch=batch, threads=threads)}
        commands = {"lightgbm": [sys.executable, str(ROOT / "benchmarks/peers_lightgbm.py")]}
        if fuxictr is not None:
            commands["fuxictr"] = [str(fuxictr.absolute()), str(ROOT / "benchmarks/peers_fuxictr.py")]
        for peer, command in commands.items():
            found[peer] = _peer(peer, command, folder, batch=batch, threads=threads)
    left_out = [] if fuxictr is not None else ["fuxictr"]
    settings = {"rows": rows, "batch": batch, "threads": threads, "left_out": left_out}
    report({"machine": describe(), **settings, "systems": found}, out)


def _ours(folder: Path, *, batch: int, threads: int) -> dict[str, Any]:
    """The stages and the scorer; leaves the rows of both folds for the others."""
    changes = {
        "model.members": ["network"],
        "model.seeds": 1,  # as the others are
        "features.statistics.enable": False,
        "train.refit": "none",
        "train.epochs": 1,
        "train.batch_size": batch,
        "train.num_threads": threads,
        "train.checks_per_epoch": 1,
    }
    params = changed(load_params(ROOT / "params.yaml"), changes)
    (folder / "params.yaml").write_text(params.model_dump_json(), encoding="utf-8")  # which is YAML, too
    costs = {stage: measure_module("stages", stage, cwd=folder) for stage in ("prepare", "split", "train")}
    stages = {stage: json.loads((folder / f".qin/stages/{stage}.json").read_text()) for stage in costs}
    reader = ShardReader(folder / "data/prepared/train")
    fold = read_folds(folder / "data/split", num_rows=reader.num_rows)
    table = pq.read_table(folder / "data/train.parquet")
    for name, number in zip(_FILES, (TRAIN, VALIDATION), strict=True):
        pq.write_table(table.filter(fold == number), folder / name)
    fix_threads(threads)
    (network,) = load_model(folder / "artifacts/model").networks
    for _ in range(
        2
    ):  # the first loads kernels, starts workers and warms caches: the second is counted, of all systems
        started = time.perf_counter()
        logit = score_rows(network, reader, fold == VALIDATION, batch_size=8192)
        scored = time.perf_counter() - started
    num_prepared = stages["prepare"]["num_rows"]
    return {
        "prepare_rows_per_second": num_prepared / (stages["prepare"]["seconds"] + stages["split"]["seconds"]),
        "train_rows_per_second": stages["train"]["rows_per_second"],
        "score_rows_per_second": logit.size / scored,
        "auc": values((AUC,), Rows(logit, read_labels(reader)[fold == VALIDATION]))["auc"],
        **_cost(*costs.values()),
    }


def _peer(name: str, command: list[str], folder: Path, *, batch: int, threads: int) -> dict[str, Any]:
    place = folder / f"{name}.json"
    words = [*(str(folder / file) for file in _FILES), str(batch), str(threads), str(place)]
    # The scripts' folder is left out of the path: a module of it has the name of one of Python's own.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    cost = measure([command[0], "-P", *command[1:], *words], cwd=folder, env=environment)
    told = json.loads(place.read_text())
    numbers = told["num_train"] + told["num_scored"], told["num_train"], told["num_scored"]
    steps = zip(("prepare", "train", "score"), numbers, strict=True)
    rates = {f"{step}_rows_per_second": number / told[f"{step}_seconds"] for step, number in steps}
    label = pq.read_table(folder / _FILES[1], columns=["clicked"]).column(0).to_numpy().astype(np.uint8)
    logit = np.array(told["logit"], np.float32)
    return {**rates, "auc": values((AUC,), Rows(logit, label))["auc"], **_cost(cost)}


def _cost(*costs: Cost) -> dict[str, float]:
    """CPU time and peak memory of whole processes, their imports included."""
    return {
        "cpu_seconds": sum(cost.cpu_seconds for cost in costs),
        "peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs),
    }


if __name__ == "__main__":
    typer.run(main)
