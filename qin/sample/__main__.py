"""Command line of the sample generator: `python -m qin.sample --rows 100000 --seed 0 --out data`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from qin.runtime.errors import QinError
from qin.runtime.logs import log_to_stderr
from qin.sample import sample_size, write_sample


def main(
    rows: Annotated[int, typer.Option(help="Rows of train.parquet.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("data"),
    test_rows: Annotated[
        int | None, typer.Option(help="Rows of test.parquet; by default in the reference's proportion.")
    ] = None,
    row_group_rows: Annotated[
        int | None, typer.Option(help="Rows of a row group; by default one group up to a million rows.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Generate a click log in the reference shape, with a known click probability."""
    log_to_stderr()
    start = time.perf_counter()
    try:
        size = sample_size(rows, test_rows=test_rows, row_group_rows=row_group_rows)
        write_sample(out, seed=seed, size=size, overwrite=overwrite)
    except QinError as error:
        for line in error.lines:
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(1) from error
    seconds = time.perf_counter() - start
    num_rows = size.train_rows + size.test_rows
    typer.echo(f"sample: {num_rows} rows in {seconds:.1f} s, {num_rows / seconds:.0f} rows/s, into {out}")


if __name__ == "__main__":
    typer.run(main)
