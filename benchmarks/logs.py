"""The default on several logs: network, trees and their blend, on the report half and on the whole validation fold.

    python -m benchmarks.logs sample_100k=. clicked=/runs/clicked --note "commit 1a2b3c4, train.refit none"

Each argument is NAME=FOLDER of a project in which the stages up to evaluate have run. The report half decides nothing;
the whole fold, which half of the rows helped to stop and to blend, is beside it because it has half the variance and
because other work reports it. Entries of other logs in the result file stay as they are.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.fitting import report_figures
from benchmarks.machine import describe
from benchmarks.profile import RESULTS
from qin.runtime import paths
from qin.scored.rows import ScoredRows

SCORED = {"network": paths.VALIDATION, "trees": paths.TREES_VALIDATION, "blend": paths.SCORED}


def main(
    projects: Annotated[list[str], typer.Argument(help="NAME=FOLDER of each log's project.")],
    note: Annotated[str, typer.Option(help="What was run: commit and settings that differ from the default.")],
    out: Annotated[Path, typer.Option(help="File to write the JSON to, and to go on with.")] = RESULTS / "logs.json",
) -> None:
    """Collect the figures of each project."""
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    for word in projects:
        name, _, folder = word.partition("=")
        result[name] = {"note": note, "machine": describe(), **figures(Path(folder))}
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def figures(project: Path) -> dict[str, Any]:
    """AUC, AP and log loss of each member and the blend, and the blend's standard errors on the report half."""
    scored = {name: ScoredRows.read(project / folder) for name, folder in SCORED.items()}
    evaluation = json.loads((project / "metrics/evaluate.json").read_text(encoding="utf-8"))
    return {
        "report": {name: report_figures(rows) for name, rows in scored.items()},
        "whole": {name: report_figures(_whole(rows)) for name, rows in scored.items()},
        "errors": {metric: evaluation[f"{metric}_se"] for metric in ("auc", "ap")},
        "wll": {name: evaluation["after"][name] for name in ("wll", "wll_balanced")},
        "clicks": int(scored["blend"].label.sum()),
    }


def _whole(scored: ScoredRows) -> ScoredRows:
    return replace(scored, is_report=np.ones_like(scored.is_report))


if __name__ == "__main__":
    typer.run(main)
