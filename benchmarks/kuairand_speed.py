"""Training and scoring speed of the KuaiRand profile at a larger size, on the log itself, from prepared files on.

    python -m benchmarks.kuairand_speed --data folder --out benchmarks/results/kuairand_speed.json

Training is the train stage's loop on the train file for some seconds, also with its start-up: opening the file,
moments, network. Scoring is all of the test file from opening it to the last logit. Quality is not measured.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import describe, report
from benchmarks.profile import FILES, example, kuairand_params, prepare
from benchmarks.published import forward_flops
from benchmarks.train_speed import Case, Clock, Ours, machine_limits
from qin.model.scoring import score_all
from qin.network.qin import QIN
from qin.network.threads import fix_threads
from qin.shards.files import ShardReader
from qin.shards.loader import iterate_in_order

_SCORING_BATCH, MAX_LEN = 8192, 100  # of the profile


def main(
    data: Annotated[Path, typer.Option(help="Folder with the three files.")],
    width: Annotated[int, typer.Option(help="Embedding width.")] = 32,
    layers: Annotated[int, typer.Option(help="Quadratic layers.")] = 3,
    rows: Annotated[int, typer.Option(help="Rows of each.")] = 2,
    batch: Annotated[list[int] | None, typer.Option(help="Rows per step; 1024 and 4096 by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Duration of training for each.")] = 30.0,
    device: Annotated[str, typer.Option(help="cpu or core, as of benchmarks.train_speed.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Measure and print the figures as JSON."""
    if missing := [name for name in FILES if not (data / name).exists()]:
        typer.echo(f"skipped: {data} has no {', '.join(missing)}", err=True)
        return
    clock = Clock.of(device)
    fix_threads(1 if clock.counts_cpu_time else kuairand_params().train.num_threads)
    limits = machine_limits(clock)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, example(folder, "kuairand/params"), data)
        training = {}
        for size in batch or [1024, 4096]:
            case = Case(folder / "data/prepared/train", width, layers, rows, size, clock)
            training[str(size)], network = _train(case, seconds)
        scoring = _score(network, folder / "data/prepared/test", clock)
    sizes = {"width": width, "layers": layers, "rows": rows, "dim": network.network.dim, "device": device}
    figures = {"training": training, "scoring": scoring, "achieved": _achieved(network, training, scoring)}
    report({"machine": describe(), "limits": limits, **sizes, **figures}, out)


def _train(case: Case, seconds: float) -> tuple[dict[str, float], QIN]:
    started = case.clock()
    ours = Ours(case, dropout=None)
    start_up = case.clock() - started
    rate = ours.train(seconds)
    total = case.clock() - started
    figures = {"rows_per_second": rate, "start_up_seconds": start_up}
    return {**figures, "with_start_up_rows_per_second": rate * (total - start_up) / total}, ours.network


def _score(network: QIN, folder: Path, clock: Clock) -> dict[str, float]:
    """All rows twice, the second time with kernels loaded and the file in memory."""
    seconds = []
    for _ in range(2):
        started = clock()
        reader = ShardReader(folder)
        batches = iterate_in_order(reader, is_selected=None, batch_size=_SCORING_BATCH)
        score_all(network, batches, num_rows=reader.num_rows)
        seconds.append(clock() - started)
    first, second = (reader.num_rows / one for one in seconds)
    return {"num_rows": reader.num_rows, "rows_per_second": second, "first_rows_per_second": first}


def _achieved(network: QIN, training: dict[str, dict[str, float]], scoring: dict[str, float]) -> dict[str, float]:
    """Floating-point operations per second of the counted work, as in `benchmarks.train_speed`."""
    flops = forward_flops(network, batch=1, seq=MAX_LEN, is_folded=True)
    rates = {f"training_{size}": 3 * figures["rows_per_second"] for size, figures in training.items()}
    return {name: flops * rate for name, rate in {**rates, "scoring": scoring["rows_per_second"]}.items()}


if __name__ == "__main__":
    typer.run(main)
