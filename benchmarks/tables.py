"""The README's results table, made from `benchmarks/results/*.json`.

`python -m benchmarks.tables` prints it, `python -m benchmarks.tables --write` puts it into README.md.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
START, END = "<!-- results: made by python -m benchmarks.tables -->", "<!-- end of results -->"

RUNS = {
    "sample_100k": "sample, 100,000 rows (default)",
    "sample_1m": "sample, 1,000,000 rows",
    "kuairand_clicked": "KuaiRand `clicked`, 4-5 May",
    "kuairand_liked": "KuaiRand `liked`, 4-5 May",
}
HEADER = (
    "run",
    "AP",
    "AUC",
    "log loss",
    "WLL natural / balanced",
    "best possible AP / AUC",
    "training rows/s",
    "peak memory, GiB",
)


def main(*, write: Annotated[bool, typer.Option("--write", help="Write it into README.md.")] = False) -> None:
    """Print or write the table."""
    if not write:
        print(results_table())
        return
    text = README.read_text()
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n\n{results_table()}\n\n{END}{rest.split(END)[1]}")


def results_table() -> str:
    """The table in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [
        _row(title, json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())) for name, title in RUNS.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(title: str, result: dict[str, Any]) -> tuple[str, ...]:
    limit = result.get("limit")
    peak = max(stage["peak_memory_bytes"] for stage in result["stages"].values())
    return (
        title,
        f"{result['val_ap']:.4f}",
        f"{result['val_auc']:.4f}",
        f"{result['judged_log_loss']:.4f}",
        f"{result['judged_wll']:.3f} / {result['judged_wll_balanced']:.3f}",
        f"{limit['ap']:.4f} / {limit['auc']:.4f}" if limit else "unknown",
        f"{result['stages']['train']['rows_per_second']:,.0f}",
        f"{peak / 2**30:.2f}",
    )


if __name__ == "__main__":
    typer.run(main)
