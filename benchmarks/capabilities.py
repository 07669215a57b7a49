"""What each capability of the default is worth, on several logs: one switched off at a time, over several seeds.

    python -m benchmarks.capabilities sample_100k=data trivago=/logs/trivago,benchmarks/logs/trivago.yaml

Each argument is NAME=FOLDER of a log's files, followed by overlays of params.yaml after commas. The result of each log
is `benchmarks/results/capabilities_NAME.json`. Network and trees are fitted on the train fold, stopped and blended on
the selection half of the validation fold, and judged on its report half, alone and blended. Differences from the
default are paired by seed, those of the blend from its members by row, with users drawn together where the log has
them. The fold is the same for all variants; the halves are, too, but that without impressions rows are divided one by
one.

A variant that changes nothing on a log is left out, and what it leaves as it is (prepared files, network, trees) is not
made again. Runs that a file already has are not repeated, so that a long table can be made in parts. The default's own
runs hold the whole fold beside the report half: they are the table of one default on every log.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.ablation import PROFILE, summary
from benchmarks.fitting import report_figures, true_figures, whole_figures
from benchmarks.machine import describe
from benchmarks.profile import CAPABILITIES, RESULTS, ROOT, changed
from qin.calibrate.members import blend_members
from qin.config import Params
from qin.experiments.overlay import apply_overlays
from qin.experiments.trial import Trial, Trials
from qin.metrics.definitions import Rows, estimates, ranking_metrics
from qin.metrics.paired import compare_logits
from qin.metrics.standard_errors import standard_error
from qin.raw.segments import read_clusters
from qin.runtime import paths
from qin.scored.rows import ScoredRows

_NO_FEATURES: dict[str, Any] = {
    "features.matches": False,
    "features.impression.key": None,
    "features.statistics.enable": False,
}
_KEEP_FIFTH: dict[str, Any] = {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 0.2}

VARIANTS: dict[str, dict[str, Any]] = {
    PROFILE: {},
    "no matches": {"features.matches": False},
    "no impressions": {"features.impression.key": None},
    "no statistics": {"features.statistics.enable": False},
    "no statistics of pairs": {"features.statistics.pairs": []},
    "no cosines": {"features.statistics.cosines": False},
    "no drift guard": {"features.statistics.drift_psi": None},
    "one form of the network": {"model.alternatives": []},
    "one network": {"model.seeds": 1},
    "none of these features": _NO_FEATURES,
    "DIN's score": {"model.attention_score": "mlp"},
    "pooled history": {"model.pooled_history": True},
    "no pooled history": {"model.pooled_history": False},
    "8 numeric bins": {"model.numeric_bins": 8},
    "no numeric bins": {"model.numeric_bins": 0},
    "rare values as null": {"model.min_count": 3},
    "rare values kept": {"model.min_count": 0},
    "batch of 1024": {"train.batch_size": 1024},
    "one check per epoch": {"train.checks_per_epoch": 1},
    "downsampling 0.2": _KEEP_FIFTH,
    "downsampling 0.2, weight 1": {**_KEEP_FIFTH, "imbalance.reweight_negatives": False},
    "pos_weight auto": {"imbalance.pos_weight": "auto"},
    "goss": {"hnm.enable": True, "hnm.mode": "goss"},
    "pps": {"hnm.enable": True, "hnm.mode": "pps"},
}

# Several networks have the seeds after the first one's; those of another run must be others.
_SEEDS_APART = 100

# The members by themselves: what the blend is worth. They need no run of their own.
ALONE = {"network": "network alone", "trees": "trees alone"}


class Log:
    """A log's files, and the trials of its settings.

    Args:
        data: Folder of its files.
        base: Its settings.
        work: Folder for what trials leave.
    """

    def __init__(self, data: Path, base: Params, work: Path) -> None:
        self.data = data
        files = {
            name: str(data / Path(getattr(base.data, name)).name) for name in ("train", "test", "sample_submission")
        }
        self.base = changed(
            base, {f"data.{name}": str(Path(file).resolve()) for name, file in files.items()}, base.train.seed
        )
        self._trials = Trials(work / "trials")

    def run(self, params: Params) -> dict[str, Any]:
        """Figures of the members and of their blend."""
        started = time.monotonic()
        trial = self._trial(params)
        members = {name: ScoredRows.read(trial.folder / place) for name, place in paths.SCORED_BY.items()}
        blended, choice = blend_members(members)
        scored = {"blend": blended, **members}
        trained, grown = trial.metrics("train"), trial.metrics("trees")
        return {
            **{name: report_figures(rows) for name, rows in scored.items()},
            "whole": {name: whole_figures(rows) for name, rows in scored.items()},
            "errors": self._errors(blended),
            "blend_over": {name: self._paired(rows, blended) for name, rows in members.items()},
            "weights": {name: member.weight for name, member in choice.blend.members.items()},
            **{name: trained[name] for name in ("batch_size", "lr", "num_steps", "best_step", "best_epoch")},
            **{name: grown[name] for name in ("num_leaves", "num_rounds")},
            "seconds": time.monotonic() - started,
        }

    def limit(self) -> dict[str, float] | None:
        """Figures of the true probabilities on the report half, of a generated log."""
        scored = ScoredRows.read(self._trial(self.base).folder / paths.TREES_VALIDATION)
        return true_figures(scored, self.data / "truth/train.parquet")

    def _trial(self, params: Params) -> Trial:
        members = {"model.members": ["network", "trees"], "train.refit": "none"}
        return self._trials.run(changed(params, members, params.train.seed), until="trees")

    def _paired(self, first: ScoredRows, second: ScoredRows) -> dict[str, float | None]:
        """Second minus first on the report half, with standard errors."""
        rows = first.is_report == 1
        found = compare_logits(
            first.natural[rows],
            second.natural[rows],
            first.label[rows],
            cluster=self._clusters(first),
            metrics=ranking_metrics(),
        )
        differences = {name: one.difference for name, one in found.items()}
        return differences | {f"{name}_se": one.standard_error for name, one in found.items()}

    def _errors(self, scored: ScoredRows) -> dict[str, float | None]:
        """Standard errors of the report half's figures, with users drawn together where the log has them."""
        rows = Rows(scored.natural[scored.is_report == 1], scored.label[scored.is_report == 1])
        found = estimates(ranking_metrics(), rows)
        cluster = self._clusters(scored)
        return {name: standard_error(one.influence, rows.is_positive, cluster=cluster) for name, one in found.items()}

    def _clusters(self, scored: ScoredRows) -> npt.NDArray[np.int64] | None:
        """The user of each row of the report half, as codes."""
        key = self.base.split.group_key
        return None if key is None else read_clusters(self.base.data.train, key, scored.row[scored.is_report == 1])


def variants_of(base: Params, only: list[str] | None) -> dict[str, dict[str, Any]]:
    """The variants that change a setting of the log's; see `VARIANTS`.

    Raises:
        BadParameter: If a variant to run is unknown.
    """
    if unknown := sorted(set(only or ()) - set(VARIANTS)):
        raise typer.BadParameter(f"no such variant: {', '.join(unknown)}")
    settings = _flat(base.model_dump())
    chosen = {name: changes for name, changes in VARIANTS.items() if only is None or name in only}
    return {
        name: {key: value for key, value in changes.items() if key in settings}
        for name, changes in chosen.items()
        if name == PROFILE or any(key in settings and settings[key] != value for key, value in changes.items())
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by dotted key, sections at every depth among them."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values[prefix + key] = value
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{key}.")
    return values


def with_members_alone(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of each run's blend by variant and seed, and those of the default's members as variants."""
    blends = {name: {seed: run["blend"] for seed, run in by_seed.items()} for name, by_seed in runs.items()}
    own = runs.get(PROFILE, {})
    members = {title: {seed: run[name] for seed, run in own.items()} for name, title in ALONE.items() if own}
    return {name: blends[name] for name in blends if name == PROFILE} | members | blends


def main(
    logs: Annotated[list[str], typer.Argument(help="NAME=FOLDER[,OVERLAY...] of each log.")],
    params: Annotated[Path, typer.Option(help="The default.")] = ROOT / "params.yaml",
    out: Annotated[Path, typer.Option(help="Folder of the JSON files to write, and to go on with.")] = RESULTS,
    seeds: Annotated[int, typer.Option(help="Seeds of each variant.", min=1)] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Variants to run; by default all.")] = None,
) -> None:
    """Run the variants that the files do not have yet."""
    for word in logs:
        name, _, places = word.partition("=")
        data, *overlays = places.split(",")
        if not name or not places:
            raise typer.BadParameter(f"expected NAME=FOLDER[,OVERLAY...], got {word!r}")
        with tempfile.TemporaryDirectory() as folder:
            profile = Path(folder) / "profile.yaml"
            profile.write_text(params.read_text(encoding="utf-8"), encoding="utf-8")
            base = apply_overlays([Path(overlay) for overlay in overlays], params=profile)
            run_log(Log(Path(data), base, Path(folder)), out / f"{CAPABILITIES}{name}.json", seeds=seeds, only=only)


def run_log(log: Log, out: Path, *, seeds: int, only: list[str] | None) -> None:
    """Run what the file does not have yet; it is written after each run."""
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    runs, variants = result["runs"], variants_of(log.base, only)
    for seed in range(seeds):
        for variant, changes in variants.items():
            if str(seed) in runs.setdefault(variant, {}):
                continue
            run = log.run(changed(log.base, {**changes, "trees.seed": seed}, seed * _SEEDS_APART))
            runs[variant][str(seed)] = run
            typer.echo(f"{out.stem}, {variant}, seed {seed}: {run['blend']}", err=True)
            done = {name: runs[name] for name in VARIANTS if runs.get(name)}
            if "limit" not in result:
                result["limit"] = log.limit()
            result |= {"machine": describe(), "runs": done, "summary": summary(with_members_alone(done))}
            out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
