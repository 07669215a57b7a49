"""Commands beside the stages; what a command needs is imported when it runs, so that help is there at once.

qin check
qin compare HEAD workspace
qin summary
qin runs
qin tune -S train.lr=1e-4..1e-2:log -S model.dropout=0.0,0.1,0.2 --trials 30
qin overlay examples/kuairand/params.yaml
qin init data/train.parquet
qin score data/test.parquet scores.parquet --keep ID
qin export exports/qin --format onnx
qin serve --port 8000
"""

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from qin.experiments.tune_command import tune
from qin.runtime.errors import QinError, one_line
from qin.runtime.exhausted import exhausted
from qin.runtime.logs import log, log_to_stderr
from qin.runtime.paths import DVC_YAML, PARAMS
from qin.serving.commands import drift, export, score, serve

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)

Purpose = Literal["probabilities", "score"]


@app.callback()
def commands() -> None:
    """Commands beside the stages of the pipeline, which `dvc repro` runs; use them in the repository's root.

    `QIN_LOG=json` turns every line of the log into a JSON object.
    """
    log_to_stderr()
    for number in (signal.SIGTERM, signal.SIGHUP):  # in order, so that half-written files are removed, as by Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:  # by `nohup`
            signal.signal(number, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few letters shows the others by their numbers
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a QinError's lines, or what a disk refused, and exit with status 1, as stages do."""
    try:
        yield
    except BrokenPipeError as error:  # whoever reads what is printed has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        raise SystemExit(1) from error
    except Exception as error:
        lines = _lines_of(error)
        if not lines:
            raise
        for line in lines:
            log.error("error: %s", line)
        raise SystemExit(1) from error


def _lines_of(error: Exception) -> list[str]:
    """What an error says to the user; nothing where it is a fault of ours."""
    if isinstance(error, QinError):
        return error.lines
    if found := exhausted(error):
        return [found]
    return [str(error)] if isinstance(error, OSError) and error.errno is not None else []


@app.command()
def check(
    params: Annotated[Path, typer.Option(help="Params file to check.")] = PARAMS,
) -> None:
    """Check settings, files, columns and disk space, without running anything; exit status 1 if something is wrong.

    Example: `qin check`
    """
    with one_line_errors():
        from qin.checks import check_project

        for line in check_project(params):
            typer.echo(line)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="workspace, a folder, a revision or an experiment")],
    second: Annotated[str, typer.Argument(metavar="B", help="the same; differences are B - A")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every digit.")] = False,
    independent: Annotated[bool, typer.Option(help="Take rows as independent though split.group_key is set.")] = False,
    label: Annotated[str | None, typer.Option(help="The only label to compare; default: all that both have.")] = None,
) -> None:
    """Compare two runs on the validation rows that both have: is the difference more than noise?

    Standard errors are paired, and clustered by split.group_key of params.yaml here.

    Example: `qin compare HEAD workspace`
    """
    with one_line_errors():
        from qin.experiments.compare import compared, comparison_text

        report = compared(first, second, params=PARAMS, independent=independent, label=label)
        typer.echo(json.dumps(report, indent=2, allow_nan=False) if as_json else comparison_text(report))


@app.command()
def summary(
    revision: Annotated[str, typer.Argument(help="What to compare with.")] = "HEAD",
) -> None:
    """Print the workspace's headline figures beside a revision's, with `noise` or `better`.

    Example: `qin summary HEAD~1`
    """
    with one_line_errors():
        from qin.experiments.summary import summary_lines

        for line in summary_lines(revision, params=PARAMS):
            typer.echo(line)


@app.command()
def runs(
    everywhere: Annotated[
        bool, typer.Option("--all", help="Experiments of all commits, not of this one alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every headline figure and setting.")] = False,
) -> None:
    """List the commit, the workspace and the experiments: headline figures, and the settings that differ.

    Example: `qin runs`
    """
    with one_line_errors():
        from qin.experiments.listing import listed_runs, runs_json, runs_text

        found = listed_runs(everywhere=everywhere)
        width = shutil.get_terminal_size().columns
        typer.echo(json.dumps(runs_json(found), indent=2) if as_json else runs_text(found, width=width))


app.command()(one_line_errors()(tune))


@app.command()
def backtest(
    days: Annotated[int | None, typer.Option(min=1, help="Last days to score; default: all but the first two.")] = None,
    start: Annotated[
        Literal["both", "fresh", "warm"], typer.Option(help="How training starts: a draw, yesterday's model, both.")
    ] = "both",
    label: Annotated[str | None, typer.Option(help="Of several labels the one to predict; default: the first.")] = None,
) -> None:
    """Walk forward over the days of data.train: train on all days up to one, score the next; go on where a walk ended.

    Writes outputs/backtest.json and outputs/backtest.html.

    Example: `qin backtest --days 5`
    """
    with one_line_errors():
        from qin.config import load_params
        from qin.experiments.backtest import open_walk, table, walk_forward, write_backtest
        from qin.experiments.backtest_page import write_page
        from qin.runtime.paths import BACKTEST_PAGE, BACKTEST_REPORT

        variants = ["fresh", "warm"] if start == "both" else [start]
        walk = open_walk(load_params(PARAMS), num_days=days, variants=variants, label=label)
        report = walk_forward(walk, log.info)
        write_backtest(report, BACKTEST_REPORT)
        write_page(report, BACKTEST_PAGE)
        for line in table(report):
            typer.echo(line)


@app.command()
def overlay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Settings that differ; the last file wins.")],
) -> None:
    """Put the settings of overlays into params.yaml, whose comments stay; nothing changes if one breaks a rule.

    Example: `qin overlay examples/kuairand/params.yaml`
    """
    with one_line_errors():
        from qin.experiments.overlay import apply_overlays

        apply_overlays(files, params=PARAMS)
        typer.echo(one_line(f"{PARAMS}: settings of {', '.join(map(str, files))}"))


@app.command("init")
def init_settings(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="The labelled log, a Parquet file.")],
    test: Annotated[str | None, typer.Option(help="Rows to predict; default: test.parquet beside TRAIN.")] = None,
    sample_submission: Annotated[
        str | None, typer.Option(help="Its header names id and label; default: sample_submission.csv beside TRAIN.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column to predict; default: found.")] = None,
    purpose: Annotated[
        Purpose, typer.Option("--for", help="score: a contest that weighs clicks and the rest alike (WLL).")
    ] = "probabilities",
    out: Annotated[Path, typer.Option(help="Params file to write.")] = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Replace it though git does not hold its changes.")] = False,
) -> None:
    """Read a log and write params.yaml for it: each choice with its reason, guesses marked, to be edited.

    Example: `qin init data/train.parquet --label clicked --for score`
    """
    with one_line_errors():
        from qin.setup.command import files_of, prompt
        from qin.setup.settings import summary as summarised
        from qin.setup.write import write_settings

        files = files_of(train, test=test, submission=sample_submission)
        profile, plan = write_settings(
            files, out=out, base=PARAMS, label=label, purpose=purpose, force=force, ask=prompt()
        )
        for line in summarised(profile, plan, purpose=purpose):
            typer.echo(one_line(line))
        typer.echo(one_line(f"{out}: written; look at the lines with CHECK, then `dvc repro`"))


@app.command()
def files() -> None:
    """Let dvc.yaml depend on the files that params.yaml names now; DVC itself takes neither a list nor null there.

    Example: `qin files`
    """
    with one_line_errors():
        from qin.config import load_params
        from qin.setup.dependencies import write_dependencies

        params = load_params(PARAMS)
        changed = write_dependencies(DVC_YAML, params.data, init_from=params.train.init_from)
        named = "data.train, data.test, data.sample_submission and train.init_from"
        typer.echo(f"{DVC_YAML}: {'follows' if changed else 'is as'} {named}")


app.command()(one_line_errors()(score))
app.command()(one_line_errors()(drift))
app.command()(one_line_errors()(export))
app.command()(one_line_errors()(serve))


if __name__ == "__main__":
    app()
