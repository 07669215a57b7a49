"""The tables of README.md and docs/, made from `benchmarks/results/*.json`.

`python -m benchmarks.tables` prints them, `python -m benchmarks.tables --write` puts them into their pages.
"""

import math
from typing import Annotated, Any

import typer

from benchmarks.markdown import Rows, markdown, read
from benchmarks.profile import ROOT
from benchmarks.tables_accuracy import ablation_tables, capability_tables, logs_table, peers_table, settings_table
from benchmarks.tables_serving import backtest_block, flood_line, latency_rows, load_rows

START, END = "<!-- {}: made by python -m benchmarks.tables -->", "<!-- end of {} -->"

# The page that each table is on.
PAGES = {
    "peers": ROOT / "README.md",
    "first_steps": ROOT / "docs/index.md",
    "logs": ROOT / "docs/results.md",
    "capabilities": ROOT / "docs/results.md",
    "ablation": ROOT / "docs/results.md",
    "imbalance": ROOT / "docs/results.md",
    "imbalance_settings": ROOT / "docs/results.md",
    "speed": ROOT / "docs/speed.md",
    "kernels": ROOT / "docs/speed.md",
    "side_by_side": ROOT / "docs/speed.md",
    "features": ROOT / "docs/speed.md",
    "pipeline": ROOT / "docs/speed.md",
    "scale": ROOT / "docs/scale.md",
    "many_files": ROOT / "docs/scale.md",
    "few_clicks": ROOT / "docs/statistics.md",
    "latency": ROOT / "docs/serving.md",
    "load": ROOT / "docs/serving.md",
    "backtest": ROOT / "docs/tomorrow.md",
}

SIDE_BY_SIDE_HEADER = ("system", "preparing, rows/s", "training", "scoring", "CPU seconds", "peak memory, GiB", "AUC")

SPEED_VARIANTS = {
    "published": "published",
    "ours": "same function, dropout 0.1",
    "ours_no_dropout": "same function, no dropout",
    "profile": "KuaiRand profile",
}
FEATURES = {
    "in_time": "{statistics} statistics of the train fold, in time",
    "out_of_fold": "the same out of fold",
    "read": "read beside the columns",
    "impressions": "{compared_columns} columns compared within impressions",
}
SCALES = {
    "scale_1m": "1M rows, one row group",
    "scale_10m": "10.7M rows",
}
SCALE_HEADER = ("stage", "rows", "seconds", "rows/s", "CPU seconds", "rows per CPU second", "peak memory, GiB")
SCALE_DIGITS = {"rows": 0, "seconds": 1, "rows_per_second": 0, "cpu_seconds": 1, "rows_per_cpu_second": 0}

MANY_FILES_HEADER = ("input", "rows/s", "rows per CPU second", "peak memory, GiB")
MANY_FILES = {
    "one_file_before": "one file, earlier code",
    "one_file": "one file",
    "files_1_process": "{} files, 1 process of 2 threads",
    "files_2_processes": "{} files, 2 processes of 1 thread",
    "one_file_added": "{} files, one of them new",
}

FEW_CLICKS_HEADER = (
    "clicks",
    "independent",
    "null called a difference (5%)",
    "interval of AP holds it (95%)",
    "interval of a true difference holds it (95%)",
    "true difference found",
    "resolution",
)
IMBALANCE_HEADER = (
    "way",
    "CPU ms per step",
    "gradient variance",
    "at equal time",
    "bias",
    "epochs",
    "AP",
    "AUC",
    "log loss",
)


def main(*, write: Annotated[bool, typer.Option("--write", help="Write them into their pages.")] = False) -> None:
    """Print or write the tables."""
    for name, table in tables().items():
        if not write:
            print(f"{name}\n\n{table}\n")
            continue
        start, end, page = START.format(name), END.format(name), PAGES[name]
        before, rest = page.read_text(encoding="utf-8").split(start)
        text = f"{before}{start}\n\n{table}\n\n{end}{rest.split(end)[1]}"
        page.write_text(text, encoding="utf-8")


def tables() -> dict[str, str]:
    """Each table in Markdown, by name."""
    return {
        "peers": peers_table(),
        "first_steps": _first_steps_table(read("first_steps")),
        "logs": logs_table(),
        "capabilities": capability_tables(),
        "ablation": ablation_tables(),
        "speed": _speed_table(read("train_speed")),
        "kernels": _kernel_table(read("kernels")),
        "side_by_side": _side_by_side_table(read("peers")),
        "features": _features_table(read("features")),
        "pipeline": _pipeline_table(read("pipeline")["runs"]),
        "scale": _scale_table(),
        "many_files": _many_files_table(read("prepare_files")),
        "imbalance": _imbalance_table(read("imbalance")),
        "imbalance_settings": settings_table(read("imbalance_settings")),
        "few_clicks": _few_clicks_table(read("few_clicks")),
        "latency": markdown(latency_rows(read("serving"))),
        "load": f"{markdown(load_rows(read('serving')))}\n\n{flood_line(read('serving'))}",
        "backtest": backtest_block(read("backtest")),
    }


def _first_steps_table(result: dict[str, Any]) -> str:
    """Seconds of each way of a new user, the clone itself left out."""
    ways = [(name, f"{seconds:.0f}") for name, seconds in result["seconds"].items() if name != "clone"]
    return markdown([("a new user's way", "seconds"), *ways])


def _speed_table(result: dict[str, Any]) -> str:
    rows: Rows = [("width, layers x rows", *SPEED_VARIANTS.values())]
    for case in result["cases"]:
        for kind in ("training", "scoring"):
            rates, ratios = case[f"{kind}_rows_per_second"], case[f"{kind}_ratio"]
            cells = [f"{rates[name]:,.0f} ({ratios[name]:.1f}x)" for name in SPEED_VARIANTS]
            rows.append((f"{case['width']}, {case['layers']} x {case['rows']}: {kind}", *cells))
    return markdown(rows)


def _kernel_table(result: dict[str, Any]) -> str:
    """How many times as fast as without it, of each kernel in each case; in brackets by CPU time."""
    cases = sorted({(line["batch"], line["width"]) for line in result["lines"] if "batch" in line})
    rows: Rows = [("kernel", "profile", *(f"{batch:,} x {width}" for batch, width in cases))]
    found: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
    for line in result["lines"]:
        cells = found.setdefault((line["kernel"], line.get("profile", "any")), {})
        cells[line.get("batch", 0), line.get("width", 0)] = f"{line['gain']:.1f} ({line['cpu_gain']:.1f})"
    for (kernel, profile), cells in found.items():
        rows.append((kernel, profile, *(cells.get(case, cells.get((0, 0), "")) for case in cases)))
    return markdown(rows)


def _side_by_side_table(result: dict[str, Any]) -> str:
    """Rates of each system on the same rows, and what its processes took; seconds of CPU include imports."""
    rows: Rows = [SIDE_BY_SIDE_HEADER]
    for name, figures in result["systems"].items():
        rates = [f"{figures[f'{step}_rows_per_second']:,.0f}" for step in ("prepare", "train", "score")]
        memory = f"{figures['peak_memory_bytes'] / 2**30:.2f}"
        rows.append((name, *rates, f"{figures['cpu_seconds']:.0f}", memory, f"{figures['auc']:.3f}"))
    return markdown(rows)


def _features_table(result: dict[str, Any]) -> str:
    """What each feature costs, in rows per CPU second, and the peak memory of those that keep anything."""
    rows: Rows = [("features", "rows per CPU second", "peak memory, GiB")]
    for name, title in FEATURES.items():
        found = result[name]
        peak = f"{found['peak_memory_bytes'] / 2**30:.2f}"
        rate = found["rows_per_cpu_second"]
        rows.append((title.format(**result), "too many to tell" if rate is None else f"{rate:,.0f}", peak))
    for tokens, rate in result["matches_rows_per_cpu_second"].items():
        rows.append((f"matches with a history of {tokens} items", f"{rate:,.0f}", ""))
    return markdown(rows)


def _pipeline_table(runs: dict[str, Any]) -> str:
    """Seconds of each stage where DVC ran it first and where it was forced to again, and of DVC's whole commands."""
    first, again = runs["first"], runs["again"]
    rows: Rows = [("stage", "first run, seconds", "again", "peak memory, GiB")]
    for name, stage in first["stages"].items():
        peak = max(stage["peak_memory_bytes"], again["stages"][name]["peak_memory_bytes"]) / 2**30
        rows.append((name, f"{stage['seconds']:.1f}", f"{again['stages'][name]['seconds']:.1f}", f"{peak:.2f}"))
    totals = [sum(stage["seconds"] for stage in run["stages"].values()) for run in (first, again)]
    rows.append(("all stages", *(f"{total:.1f}" for total in totals), ""))
    rows.append(
        ("`dvc repro`, with its own work and seven starts", f"{first['seconds']:.1f}", f"{again['seconds']:.1f}", "")
    )
    rows.append(("`dvc repro` with nothing to do", "", f"{runs['nothing to do']['seconds']:.1f}", ""))
    return markdown(rows)


def _scale_table() -> str:
    return "\n\n".join(f"## {title}\n\n{_stages(read(name))}" for name, title in SCALES.items())


def _stages(result: dict[str, Any]) -> str:
    rows = [SCALE_HEADER]
    for stage, figures in result["stages"].items():
        cells = [f"{figures[key]:,.{digits}f}" for key, digits in SCALE_DIGITS.items()]
        rows.append((stage, *cells, f"{figures['peak_memory_bytes'] / 2**30:.2f}"))
    return markdown(rows)


def _many_files_table(result: dict[str, Any]) -> str:
    rows: Rows = [MANY_FILES_HEADER]
    for name, title in MANY_FILES.items():
        if name in result:
            rates = [f"{result[name][key]:,.0f}" for key in ("rows_per_second", "rows_per_cpu_second")]
            peak = f"{result[name]['peak_memory_bytes'] / 2**30:.2f}"
            rows.append((title.format(result["num_files"]), *rates, peak))
    return markdown(rows)


def _imbalance_table(result: dict[str, Any]) -> str:
    rows: Rows = [IMBALANCE_HEADER]
    for name, figures in result["variants"].items():
        trained = result["trained"].get(name)
        rows.append(
            (
                name,
                f"{1000 * figures['seconds_per_step']:.0f}",
                *_gradient_cells(figures),
                *([f"{trained['num_epochs']}"] if trained else [""]),
                *([f"{trained[metric]:.4f}" for metric in ("ap", "auc", "log_loss")] if trained else [""] * 3),
            )
        )
    return markdown(rows)


def _few_clicks_table(result: dict[str, Any]) -> str:
    """Each share by 1.96 standard errors, then as reported; a design's resolution is two standard errors of 5%."""
    rows: Rows = [FEW_CLICKS_HEADER]
    for design in result["designs"]:
        cells = [f"{design[f'{key}_normal']:.1%} → {design[key]:.1%}" for key in ("null", "alone", "true", "found")]
        resolution = 2.0 * math.sqrt(0.05 * 0.95 / design["draws"])
        unit = "users of 40 rows" if design["clustered"] else "rows"
        rows.append((f"{design['clicks']:,}", unit, *cells, f"± {resolution:.1%}"))
    return markdown(rows)


def _gradient_cells(figures: dict[str, float]) -> list[str]:
    """Empty where the gradient is that of another loss; a bias that the draws cannot tell from zero as a bound."""
    if "variance" not in figures:
        return [""] * 3
    bias, limit = figures["bias"], 2.0 * figures["bias_resolution"]
    variance = [f"{figures[key]:.2f}" for key in ("relative_variance", "relative_variance_at_equal_time")]
    return [*variance, f"{bias:.1f}" if bias > limit else f"< {limit:.1f}"]


if __name__ == "__main__":
    typer.run(main)
