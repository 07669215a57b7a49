"""The tables of what the default reaches on each log, what its parts are worth, and what settings change."""

from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any

from benchmarks.ablation import PROFILE
from benchmarks.markdown import Rows, markdown, read
from benchmarks.profile import CAPABILITIES, RESULTS

MEMBERS = ("network", "trees")
METRICS = ("auc", "ap")
# Logs of one default, with AUC and AP that the project set out to reach on the whole fold.
LOGS = {
    "sample_100k": ("sample, 100,000 rows", "0.70"),
    "sample_1m": ("sample, 1,000,000 rows", "0.785"),
    "clicked": ("KuaiRand `clicked`, 4-5 May", "0.760 / 0.560"),
    "liked": ("KuaiRand `liked`, 4-5 May", "0.862 / 0.210"),
    "trivago": ("trivago, last 10%", "0.862 / 0.46"),
    "ml1m": ("ML-1M, last 20%", "0.745 / 0.75"),
}
IN_README = ("sample_100k", "clicked", "liked", "trivago", "ml1m")

PEERS_HEADER = ("log", "AUC", "network alone", "trees alone", "QIN as published", "AP", "AP of trees")
LOGS_HEADER = ("log", "seeds", "network", "trees", "blend", "goal", "blend, report half")
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


def logs_table() -> str:
    """AUC / AP of the whole fold of each member and the blend, and of the blend's report half, means over the seeds.

    The blend of the whole fold is with the standard error over seeds, that of the report half with that of drawing its
    rows again.
    """
    rows: Rows = [LOGS_HEADER]
    for name, (title, goal) in LOGS.items():
        runs = default_runs(name)
        members = [
            " / ".join(f"{fmean(run['whole'][member][metric] for run in runs):.4f}" for metric in METRICS)
            for member in MEMBERS
        ]
        blend = " / ".join(_over_seeds(run["whole"]["blend"][metric] for run in runs) for metric in METRICS)
        judged = " / ".join(_judged(runs, metric) for metric in METRICS)
        rows.append((title, str(len(runs)), *members, blend, goal, judged))
    return markdown(rows)


def default_runs(name: str) -> list[dict[str, Any]]:
    """What `benchmarks.capabilities` found of the default on a log, one run per seed."""
    return list(read(CAPABILITIES + name)["runs"][PROFILE].values())


def _over_seeds(values: Iterable[float]) -> str:
    """A mean, from two values on with its standard error."""
    found = list(values)
    error = f" ± {stdev(found) / len(found) ** 0.5:.4f}" if len(found) > 1 else ""
    return f"{fmean(found):.4f}{error}"


def _judged(runs: list[dict[str, Any]], metric: str) -> str:
    """The blend on the report half, with the standard error of drawing its rows again."""
    return f"{fmean(run['blend'][metric] for run in runs):.4f} ± {fmean(run['errors'][metric] for run in runs):.4f}"


def capability_tables() -> str:
    """One table for each log that has results, logs without a title under their own name after the others."""
    found = sorted(path.stem.removeprefix(CAPABILITIES) for path in RESULTS.glob(f"{CAPABILITIES}*.json"))
    titles = {name: title for name, (title, _) in LOGS.items()}
    names = [name for name in LOGS if name in found] + [name for name in found if name not in LOGS]
    return "\n\n".join(
        f"### {titles.get(name, name)}\n\n{capability_table(read(CAPABILITIES + name))}" for name in names
    )


def capability_table(result: dict[str, Any]) -> str:
    """The blend of each variant with its difference from the default's, and what the members score by themselves."""
    rows: Rows = [CAPABILITY_HEADER]
    for variant, figures in result["summary"].items():
        members = result["runs"].get(variant, {}).values()  # none of a member by itself
        cells = []
        for metric in METRICS:
            cells += [f"{figures[metric]:.4f}", _gain(figures, metric)]
            cells.append(" / ".join(f"{fmean(r[m][metric] for r in members):.4f}" for m in MEMBERS if members))
        rows.append((variant, f"{figures['seeds']:.0f}", *cells))
    if limit := result["limit"]:
        rows.append(("best possible", "", f"{limit['auc']:.4f}", "", "", f"{limit['ap']:.4f}", "", ""))
    return markdown(rows)


def ablation_tables() -> str:
    """One table for each log of the network's variants."""
    return "\n\n".join(f"### {title}\n\n{_variants(read(name)['summary'])}" for name, title in ABLATIONS.items())


def _variants(summary: dict[str, dict[str, float]]) -> str:
    rows: Rows = [("variant", "seeds", "AUC", "difference", "AP", "difference")]
    for variant, figures in summary.items():
        rows.append((variant, f"{figures['seeds']:.0f}", *_figures_and_gains(figures)))
    return markdown(rows)


def settings_table(result: dict[str, Any]) -> str:
    """Figures of each variant's network with its differences from the default's, and its log loss."""
    rows: Rows = [("setting", "seeds", "AUC", "difference", "AP", "difference", "log loss")]
    for variant, figures in result["summary"].items():
        loss = fmean(run["log_loss"] for run in result["runs"][variant].values())
        rows.append((variant, f"{figures['seeds']:.0f}", *_figures_and_gains(figures), f"{loss:.4f}"))
    return markdown(rows)


def _figures_and_gains(figures: dict[str, float]) -> list[str]:
    return [cell for metric in METRICS for cell in (f"{figures[metric]:.4f}", _gain(figures, metric))]


def _gain(figures: dict[str, float], metric: str) -> str:
    if f"{metric}_gain" not in figures:
        return ""
    error = f"{metric}_gain_se"
    return f"{figures[f'{metric}_gain']:+.4f}" + (f" ± {figures[error]:.4f}" if error in figures else "")


def peers_table() -> str:
    """The default on each log beside its members and the published model; empty where that was not run."""
    return markdown([PEERS_HEADER, *(_beside_peers(name) for name in IN_README)])


def _beside_peers(name: str) -> tuple[str, ...]:
    published = read(PUBLISHED[name])["summary"]["published"]["auc"] if name in PUBLISHED else None
    runs = default_runs(name)
    alone = {
        (member, metric): f"{fmean(run[member][metric] for run in runs):.4f}"
        for member in MEMBERS
        for metric in METRICS
    }
    return (
        LOGS[name][0],
        _judged(runs, "auc"),
        alone["network", "auc"],
        alone["trees", "auc"],
        "" if published is None else f"{published:.4f}",
        _judged(runs, "ap"),
        alone["trees", "ap"],
    )
