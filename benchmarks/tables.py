"""The tables of README.md and docs/, made from `benchmarks/results/*.json`.

`python -m benchmarks.tables` prints them, `python -m benchmarks.tables --write` puts them into their pages.
"""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.profile import CAPABILITIES, RESULTS, ROOT
from benchmarks.tables_serving import backtest_block, flood_line, latency_rows, load_rows

START, END = "<!-- {}: made by python -m benchmarks.tables -->", "<!-- end of {} -->"

# The page that each table is on.
PAGES = {
    "peers": ROOT / "README.md",
    "first_steps": ROOT / "docs/index.md",
    "results": ROOT / "docs/results.md",
    "logs": ROOT / "docs/results.md",
    "capabilities": ROOT / "docs/results.md",
    "ablation": ROOT / "docs/results.md",
    "imbalance": ROOT / "docs/results.md",
    "imbalance_settings": ROOT / "docs/results.md",
    "speed": ROOT / "docs/speed.md",
    "kernels": ROOT / "docs/speed.md",
    "side_by_side": ROOT / "docs/speed.md",
    "scale": ROOT / "docs/scale.md",
    "many_files": ROOT / "docs/scale.md",
    "few_clicks": ROOT / "docs/statistics.md",
    "latency": ROOT / "docs/serving.md",
    "load": ROOT / "docs/serving.md",
    "backtest": ROOT / "docs/tomorrow.md",
}

RUNS = {
    "sample_100k": "sample, 100,000 rows (default)",
    "sample_1m": "sample, 1,000,000 rows",
    "kuairand_clicked": "KuaiRand `clicked`, 4-5 May",
    "kuairand_liked": "KuaiRand `liked`, 4-5 May",
}
PEERS_HEADER = ("log", "AUC", "network alone", "trees alone", "QIN as published", "AP", "AP of trees")
ACCURACY_HEADER = ("run", "AP", "over trees", "AUC", "over trees", "best possible AP / AUC")
SIDE_BY_SIDE_HEADER = ("system", "preparing, rows/s", "training", "scoring", "CPU seconds", "peak memory, GiB", "AUC")
COST_HEADER = ("run", "log loss", "WLL natural / balanced", "training rows/s", "peak memory, GiB")

MEMBERS = ("network", "trees")
# Logs of one default, with AUC and AP that the project set out to reach on the whole fold.
BARS = {
    "sample_100k": ("sample, 100,000 rows", "0.70"),
    "sample_1m": ("sample, 1,000,000 rows", "0.785"),
    "clicked": ("KuaiRand `clicked`, 4-5 May", "0.760 / 0.560"),
    "liked": ("KuaiRand `liked`, 4-5 May", "0.862 / 0.210"),
    "trivago": ("trivago, last 10%", "0.862 / 0.46"),
    "ml1m": ("ML-1M, last 20%", "0.745 / 0.75"),
}
IN_README = ("sample_100k", "clicked", "liked", "trivago", "ml1m")
LOGS_HEADER = ("log", "network", "trees", "blend", "goal", "blend, report half", "what was run")
CAPABILITY_HEADER = (
    "variant",
    "seeds",
    "AUC",
    "difference",
    "network / trees",
    "AP",
    "difference",
    "network / trees",
)

# The ablation that has the published model on a run's rows.
PUBLISHED = {"clicked": "ablation_clicked", "liked": "ablation_liked"}

ABLATIONS = {
    "ablation_clicked": "KuaiRand `clicked`, validation 4 and 5 May",
    "ablation_liked": "KuaiRand `liked`, validation 4 and 5 May",
    "ablation_clicked_early": "KuaiRand `clicked`, an earlier fold: trained to 1 May, validation 2 and 3 May",
    "ablation_liked_early": "KuaiRand `liked`, the same earlier fold",
    "ablation_sample": "The sample log, 1,000,000 rows, default profile",
    "ablation_sample_100k": "The sample log, 100,000 rows, default profile",
}
SPEED_VARIANTS = {
    "published": "published",
    "ours": "same function, dropout 0.1",
    "ours_no_dropout": "same function, no dropout",
    "profile": "KuaiRand profile",
}
SCALES = {
    "scale_1m": "1M rows",
    "scale_2m_one_group": "2M rows, one row group",
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
    runs = {name: _read(name) for name in RUNS}
    return {
        "peers": _markdown([PEERS_HEADER, *(_peers(name, _read("logs")[name]) for name in IN_README)]),
        "first_steps": _first_steps_table(_read("first_steps")),
        "results": "\n\n".join(
            _markdown([header, *((_run_title(name, run), *cells(run)) for name, run in runs.items())])
            for header, cells in ((ACCURACY_HEADER, _accuracy), (COST_HEADER, _cost))
        ),
        "logs": _logs_table(_read("logs")),
        "capabilities": _capability_tables(),
        "ablation": _ablation_table(),
        "speed": _speed_table(_read("train_speed")),
        "kernels": _kernel_table(_read("kernels")),
        "side_by_side": _side_by_side_table(_read("peers")),
        "scale": _scale_table(),
        "many_files": _many_files_table(_read("prepare_files")),
        "imbalance": _imbalance_table(_read("imbalance")),
        "imbalance_settings": _settings_table(_read("imbalance_settings")),
        "few_clicks": _few_clicks_table(_read("few_clicks")),
        "latency": _markdown(latency_rows(_read("serving"))),
        "load": f"{_markdown(load_rows(_read('serving')))}\n\n{flood_line(_read('serving'))}",
        "backtest": backtest_block(_read("backtest")),
    }


def _first_steps_table(result: dict[str, Any]) -> str:
    """Seconds of each way of a new user, the clone itself left out."""
    ways = [(name, f"{seconds:.0f}") for name, seconds in result["seconds"].items() if name != "clone"]
    return _markdown([("a new user's way", "seconds"), *ways])


def _logs_table(result: dict[str, Any]) -> str:
    """AUC / AP of the whole fold of each member, and of the blend's report half with standard errors."""
    rows: list[Sequence[str]] = [LOGS_HEADER]
    for name, (title, bar) in BARS.items():
        if name in result:
            run = result[name]
            cells = [f"{run['whole'][m]['auc']:.4f} / {run['whole'][m]['ap']:.4f}" for m in (*MEMBERS, "blend")]
            judged = [f"{run['report']['blend'][k]:.4f} ± {run['errors'][k]:.4f}" for k in ("auc", "ap")]
            rows.append((title, *cells, bar, " / ".join(judged), run["note"]))
    return _markdown(rows)


def _capability_tables() -> str:
    """One table for each log that has results, logs without a title under their own name."""
    found = sorted(path.stem.removeprefix(CAPABILITIES) for path in RESULTS.glob(f"{CAPABILITIES}*.json"))
    logs = {name: title for name, (title, _) in BARS.items()}
    titles = RUNS | logs | {f"cosines_{name}": f"{title}: with cosines and without" for name, title in logs.items()}
    names = [name for name in RUNS if name in found] + [name for name in found if name not in RUNS]
    return "\n\n".join(f"### {titles.get(name, name)}\n\n{_capabilities(_read(CAPABILITIES + name))}" for name in names)


def _capabilities(result: dict[str, Any]) -> str:
    """The blend of each variant with its difference from the default's, and what the members score by themselves."""
    rows: list[Sequence[str]] = [CAPABILITY_HEADER]
    for variant, figures in result["summary"].items():
        members = result["runs"].get(variant, {}).values()  # none of a member by itself
        cells = []
        for metric in ("auc", "ap"):
            cells += [f"{figures[metric]:.4f}", _gain(figures, metric)]
            cells.append(" / ".join(f"{fmean(r[m][metric] for r in members):.4f}" for m in MEMBERS if members))
        rows.append((variant, f"{figures['seeds']:.0f}", *cells))
    if limit := result["limit"]:
        rows.append(("best possible", "", f"{limit['auc']:.4f}", "", "", f"{limit['ap']:.4f}", "", ""))
    return _markdown(rows)


def _ablation_table() -> str:
    return "\n\n".join(f"### {title}\n\n{_variants(_read(name)['summary'])}" for name, title in ABLATIONS.items())


def _variants(summary: dict[str, dict[str, float]]) -> str:
    rows: list[Sequence[str]] = [("variant", "seeds", "AUC", "difference", "AP", "difference")]
    for variant, figures in summary.items():
        rows.append((variant, f"{figures['seeds']:.0f}", *_figures_and_gains(figures)))
    return _markdown(rows)


def _settings_table(result: dict[str, Any]) -> str:
    """Figures of each variant's network with its differences from the default's, and its log loss."""
    rows: list[Sequence[str]] = [("setting", "seeds", "AUC", "difference", "AP", "difference", "log loss")]
    for variant, figures in result["summary"].items():
        loss = fmean(run["log_loss"] for run in result["runs"][variant].values())
        rows.append((variant, f"{figures['seeds']:.0f}", *_figures_and_gains(figures), f"{loss:.4f}"))
    return _markdown(rows)


def _figures_and_gains(figures: dict[str, float]) -> list[str]:
    return [cell for metric in ("auc", "ap") for cell in (f"{figures[metric]:.4f}", _gain(figures, metric))]


def _gain(figures: dict[str, float], metric: str) -> str:
    if f"{metric}_gain" not in figures:
        return ""
    error = f"{metric}_gain_se"
    return f"{figures[f'{metric}_gain']:+.4f}" + (f" ± {figures[error]:.4f}" if error in figures else "")


def _speed_table(result: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = [("width, layers x rows", *SPEED_VARIANTS.values())]
    for case in result["cases"]:
        for kind in ("training", "scoring"):
            rates, ratios = case[f"{kind}_rows_per_second"], case[f"{kind}_ratio"]
            cells = [f"{rates[name]:,.0f} ({ratios[name]:.1f}x)" for name in SPEED_VARIANTS]
            rows.append((f"{case['width']}, {case['layers']} x {case['rows']}: {kind}", *cells))
    return _markdown(rows)


def _kernel_table(result: dict[str, Any]) -> str:
    """How many times as fast as without it, of each kernel in each case; in brackets by CPU time."""
    cases = sorted({(line["batch"], line["width"]) for line in result["lines"] if "batch" in line})
    rows: list[Sequence[str]] = [("kernel", "profile", *(f"{batch:,} x {width}" for batch, width in cases))]
    found: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
    for line in result["lines"]:
        cells = found.setdefault((line["kernel"], line.get("profile", "any")), {})
        cells[line.get("batch", 0), line.get("width", 0)] = f"{line['gain']:.1f} ({line['cpu_gain']:.1f})"
    for (kernel, profile), cells in found.items():
        rows.append((kernel, profile, *(cells.get(case, cells.get((0, 0), "")) for case in cases)))
    return _markdown(rows)


def _side_by_side_table(result: dict[str, Any]) -> str:
    """Rates of each system on the same rows, and what its processes took; seconds of CPU include imports."""
    rows: list[Sequence[str]] = [SIDE_BY_SIDE_HEADER]
    for name, figures in result["systems"].items():
        rates = [f"{figures[f'{step}_rows_per_second']:,.0f}" for step in ("prepare", "train", "score")]
        memory = f"{figures['peak_memory_bytes'] / 2**30:.2f}"
        rows.append((name, *rates, f"{figures['cpu_seconds']:.0f}", memory, f"{figures['auc']:.3f}"))
    return _markdown(rows)


def _scale_table() -> str:
    results = {title: _read(name) for name, title in SCALES.items()}
    return "\n\n".join(
        f"## {title if 'trees' in result['stages'] else f'{title} †'}\n\n{_stages(result)}"
        for title, result in results.items()
    )


def _stages(result: dict[str, Any]) -> str:
    rows = [SCALE_HEADER]
    for stage, figures in result["stages"].items():
        cells = [f"{figures[key]:,.{digits}f}" for key, digits in SCALE_DIGITS.items()]
        rows.append((stage, *cells, f"{figures['peak_memory_bytes'] / 2**30:.2f}"))
    return _markdown(rows)


def _many_files_table(result: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = [MANY_FILES_HEADER]
    for name, title in MANY_FILES.items():
        if name in result:
            rates = [f"{result[name][key]:,.0f}" for key in ("rows_per_second", "rows_per_cpu_second")]
            peak = f"{result[name]['peak_memory_bytes'] / 2**30:.2f}"
            rows.append((title.format(result["num_files"]), *rates, peak))
    return _markdown(rows)


def _imbalance_table(result: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = [IMBALANCE_HEADER]
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
    return _markdown(rows)


def _few_clicks_table(result: dict[str, Any]) -> str:
    """Each share by 1.96 standard errors, then as reported; a design's resolution is two standard errors of 5%."""
    rows: list[Sequence[str]] = [FEW_CLICKS_HEADER]
    for design in result["designs"]:
        cells = [f"{design[f'{key}_normal']:.1%} → {design[key]:.1%}" for key in ("null", "alone", "true", "found")]
        resolution = 2.0 * math.sqrt(0.05 * 0.95 / design["draws"])
        unit = "users of 40 rows" if design["clustered"] else "rows"
        rows.append((f"{design['clicks']:,}", unit, *cells, f"± {resolution:.1%}"))
    return _markdown(rows)


def _gradient_cells(figures: dict[str, float]) -> list[str]:
    """Empty where the gradient is that of another loss; a bias that the draws cannot tell from zero as a bound."""
    if "variance" not in figures:
        return [""] * 3
    bias, limit = figures["bias"], 2.0 * figures["bias_resolution"]
    variance = [f"{figures[key]:.2f}" for key in ("relative_variance", "relative_variance_at_equal_time")]
    return [*variance, f"{bias:.1f}" if bias > limit else f"< {limit:.1f}"]


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _peers(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    """The default on a log beside its members and the published model; empty where that was not run."""
    published = _read(PUBLISHED[name])["summary"]["published"]["auc"] if name in PUBLISHED else None
    report, errors = run["report"], run["errors"]
    return (
        BARS[name][0],
        f"{report['blend']['auc']:.4f} ± {errors['auc']:.4f}",
        f"{report['network']['auc']:.4f}",
        f"{report['trees']['auc']:.4f}",
        "" if published is None else f"{published:.4f}",
        f"{report['blend']['ap']:.4f} ± {errors['ap']:.4f}",
        f"{report['trees']['ap']:.4f}",
    )


def _accuracy(result: dict[str, Any]) -> tuple[str, ...]:
    limit = result.get("limit")
    best = f"{limit['ap']:.4f} / {limit['auc']:.4f}" if limit else "unknown"
    return (*_against_trees(result, "ap"), *_against_trees(result, "auc"), best)


def _cost(result: dict[str, Any]) -> tuple[str, ...]:
    peak = max(stage["peak_memory_bytes"] for stage in result["stages"].values())
    return (
        f"{result['judged_log_loss']:.4f}",
        f"{result['judged_wll']:.3f} / {result['judged_wll_balanced']:.3f}",
        f"{result['stages']['train']['rows_per_second']:,.0f}",
        f"{peak / 2**30:.2f}",
    )


def _against_trees(result: dict[str, Any], metric: str) -> tuple[str, str]:
    """A figure with its standard error, and the paired difference from that of the trees alone."""
    difference = _trees(result)["difference"]
    return (
        f"{result[f'val_{metric}']:.4f} ± {result[f'val_{metric}_se']:.4f}",
        f"{difference[metric]:+.4f} ± {difference[f'{metric}_se']:.4f}",
    )


def _run_title(name: str, result: dict[str, Any]) -> str:
    """The run, marked where it is of the code before trees were a member: a network alone, six stages."""
    return RUNS[name] if "members" in result else f"{RUNS[name]} †"


def _trees(result: dict[str, Any]) -> dict[str, Any]:
    """The boosted trees by themselves; results from before they were a member have them as the baseline."""
    trees: dict[str, Any] = result["members"]["trees"] if "members" in result else result["baseline"]
    return trees


if __name__ == "__main__":
    typer.run(main)
