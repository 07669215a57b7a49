"""A walk forward with the machine it ran on: what `qin backtest` wrote, and the table of docs/tomorrow.md.

qin overlay examples/kuairand/params.yaml && qin backtest --days 6
python -m benchmarks.backtest --walk outputs/backtest.json --out benchmarks/results/backtest.json
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import describe, report
from qin.experiments.backtest import table
from qin.runtime.files import read_json


def main(
    walk: Annotated[Path, typer.Option(help="What `qin backtest` wrote.")],
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
) -> None:
    """Print the walk as a table, and as JSON with the machine."""
    found = read_json(walk)
    for line in table(found):
        typer.echo(line)
    report({"machine": describe(), **found}, out)


if __name__ == "__main__":
    typer.run(main)
