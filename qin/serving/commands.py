"""Commands that use the deployed model: `qin score`, `qin drift`, `qin export` for other runtimes, `qin serve`."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from qin.metrics.logits import prior_logit
from qin.runtime.errors import ConfigError
from qin.runtime.host import num_cores
from qin.runtime.paths import ARTIFACTS
from qin.scored.prior import OutputPrior

_NAMES = re.compile(r'\s*"(?P<quoted>(?:[^"]|"")*)"\s*(?=,|$)|(?P<plain>[^,]+)')

Artifacts = Annotated[Path, typer.Option(help="Folder of artifacts, after `dvc repro`, or a copy of it.")]
Label = Annotated[str | None, typer.Option(help="Of which label, where data.label names several; default: the first.")]
Threads = Annotated[int, typer.Option(min=0, help="0: one per core. The result does not depend on it.")]


def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="Parquet file, folder of parts, or URI")],
    path: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write")],
    artifacts: Artifacts = ARTIFACTS,
    keep: Annotated[
        str,
        typer.Option(help="Columns of IN to write beside the probability, divided by commas; one in double quotes."),
    ] = "",
    column: Annotated[str, typer.Option(help="Name of the probability's column.")] = "probability",
    prior: Annotated[str, typer.Option(help="Base rate: natural, balanced, or a number.")] = "natural",
    on_missing: Annotated[Literal["error", "null"], typer.Option(help="What a column that IN lacks is.")] = "error",
    threads: Threads = 0,
    label: Label = None,
) -> None:
    """Score a log with the deployed model: calibrated probabilities, rows in the log's order.

    Example: `qin score data/test.parquet scores.parquet --keep ID`
    """
    from qin.serving.deployed import read_deployed  # noqa: PLC0415 - it imports PyTorch
    from qin.serving.files import Output, score_file  # noqa: PLC0415

    num_threads = threads or num_cores()
    output = Output(names_in(keep), column, parse_prior(prior))
    model = read_deployed(artifacts, num_threads=num_threads, precision=None, label=label)
    num_rows = score_file(model, source, path, output, num_threads=num_threads, may_miss=on_missing == "null")
    typer.echo(f"{path}: {num_rows} rows, model {model.version}")


def drift(
    source: Annotated[str, typer.Argument(metavar="IN", help="Parquet file, folder of parts, or URI")],
    artifacts: Artifacts = ARTIFACTS,
    out: Annotated[Path | None, typer.Option(help="JSON file to write, with every column.")] = None,
    threads: Threads = 0,
    label: Label = None,
) -> None:
    """Compare a log with the rows that the model was fitted on: new values, moved numbers, nulls, scores.

    Example: `qin drift data/test.parquet --out drift.json`
    """
    from qin.raw.log import open_log  # noqa: PLC0415
    from qin.runtime.files import write_json  # noqa: PLC0415
    from qin.serving.drift import drift_lines, log_drift  # noqa: PLC0415 - it imports PyTorch
    from qin.serving.files import check_output  # noqa: PLC0415

    # Now, and not when the whole log has been read.
    if out is not None:
        check_output(out, open_log(source), source=source)
    found = log_drift(artifacts, source, num_threads=threads or num_cores(), label=label)
    if out is not None:
        write_json(out, found)
    for line in drift_lines(found):
        typer.echo(line)


def names_in(text: str) -> tuple[str, ...]:
    """Names of columns divided by commas; one that holds commas, or blanks at its ends, stands in double quotes."""
    found = [match for match in _NAMES.finditer(text) if match["quoted"] is not None or match["plain"].strip()]
    return tuple(
        match["plain"].strip() if match["quoted"] is None else match["quoted"].replace('""', '"') for match in found
    )


def parse_prior(text: str) -> OutputPrior:
    """A base rate from the command line.

    Raises:
        ConfigError: If it is none.
    """
    if text == "natural":
        return "natural"
    if text == "balanced":
        return "balanced"
    try:
        prior_logit(float(text))
    except ValueError as error:
        raise ConfigError(f"--prior: {text}: expected natural, balanced, or a number between 0 and 1") from error
    return float(text)


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write")],
    kind: Annotated[Literal["onnx", "pt2", "aoti"], typer.Option("--format", help="What runs it.")] = "onnx",
    artifacts: Artifacts = ARTIFACTS,
    rows: Annotated[str, typer.Option(help="Log from which golden rows are taken.")] = "data/test.parquet",
    label: Label = None,
) -> None:
    """Write the deployed model for other runtimes: raw values in, probabilities out, with golden rows and proof.

    Example: `qin export exports/qin --format onnx`
    """
    from qin.serving.export import export as export_model  # noqa: PLC0415 - it imports PyTorch

    parity = export_model(artifacts, out, rows, kind=kind, label=label)
    typer.echo(f"{out}: {parity['rows']} golden rows, logits within {parity['logit']['max']:.1e}")


def serve(
    artifacts: Artifacts = ARTIFACTS,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    threads: Threads = 0,
    request_rows: Annotated[int, typer.Option(min=1, help="Most rows of a request.")] = 4096,
    request_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 32 << 20,
    waiting_rows: Annotated[int, typer.Option(min=1, help="Most rows that wait; beyond, 503.")] = 16384,
    label: Label = None,
) -> None:
    """Answer over HTTP; SIGHUP or POST /reload reads the artifacts again, without a pause.

    POST /score and /candidates, GET /health, /ready and /metrics.

    Example: `qin serve --port 8000`
    """
    try:
        from qin.serving.serve import run  # noqa: PLC0415 - it imports PyTorch and the server
        from qin.serving.service import Limits  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs the package {error.name}: pip install 'qin-ctr[serve]'") from error
    limits = Limits(request_rows=request_rows, request_bytes=request_bytes, waiting_rows=waiting_rows)
    run(artifacts, host=host, port=port, limits=limits, num_threads=threads or num_cores(), label=label)
