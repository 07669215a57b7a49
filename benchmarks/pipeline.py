"""One `dvc repro` of a profile, in a fresh clone of what is committed: figures, speed and memory by stage.

    python -m benchmarks.pipeline --params params.yaml --data data --out benchmarks/results/sample_100k.json

Where the data folder holds `truth/train.parquet` (a generated sample), the true probability's figures on the same rows
are reported beside the model's: no model can expect to do better.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.fitting import report_figures
from benchmarks.machine import describe, report
from benchmarks.profile import FILES, ROOT
from qin.runtime.stage import STAGES
from qin.scored.prior import TrainingPrior
from qin.scored.rows import ScoredRows

METRICS = ("train", "trees", "calibrate", "evaluate")


def main(
    params: Annotated[Path, typer.Option(help="Profile to run.")],
    data: Annotated[Path, typer.Option(help="Folder with the three files.")],
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to, besides printing it.")] = None,
    set_param: Annotated[list[str] | None, typer.Option(help="Changes to the profile, as for dvc exp run.")] = None,
) -> None:
    """Run the pipeline once and print what it did as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        shutil.copy(params, clone / "params.yaml")
        for name in FILES:
            (clone / "data" / f"{name}.dvc").unlink(missing_ok=True)
            (clone / "data" / name).symlink_to((data / name).resolve())
        _repro(clone, set_param or [])
        result = {
            "machine": describe(),
            "profile": params.as_posix() if not params.is_absolute() else params.name,
            "set_param": set_param or [],
            **_collect(clone, data),
        }
    report(result, out)


def _repro(clone: Path, set_param: list[str]) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(Path.home())}
    changes = [word for change in set_param for word in ("--set-param", change)]
    command = [*dvc, "exp", "run", *changes] if changes else [*dvc, "repro"]
    subprocess.run(command, cwd=clone, env=environment, check=True, stdout=sys.stderr)


def _collect(clone: Path, data: Path) -> dict[str, Any]:
    metrics = {name: json.loads((clone / f"metrics/{name}.json").read_text()) for name in METRICS}
    evaluation = metrics["evaluate"]
    return {
        "stages": {name: json.loads((clone / f".qin/stages/{name}.json").read_text()) for name in STAGES},
        **{name: metrics["train"][name] for name in ("batch_size", "num_steps", "best_step", "best_epoch")},
        "num_trees": metrics["trees"]["num_rounds"],
        "rows": {**metrics["train"]["rows"], "val": evaluation["rows"]["validation"]},
        **{f"val_{key}": evaluation[key] for key in ("ap", "ap_se", "auc", "auc_se", "gauc", "gauc_se")},
        "members": evaluation["members"],
        "blend": metrics["calibrate"]["blend"],
        **{
            f"judged_{key}": evaluation["after"][key]
            for key in ("log_loss", "wll", "wll_balanced", "calibration_ratio")
        },
        **_limit(ScoredRows.read(clone / "artifacts/scored"), data / "truth/train.parquet", evaluation["auc"]),
    }


def _limit(scored: ScoredRows, truth: Path, auc: float) -> dict[str, Any]:
    """Figures of the true probability on the report half, and how far from chance to there the model's AUC is."""
    limit = true_figures(scored, truth)
    return {} if limit is None else {"limit": limit, "share_of_limit_auc": (auc - 0.5) / (limit["auc"] - 0.5)}


def true_figures(scored: ScoredRows, truth: Path) -> dict[str, float] | None:
    """Figures of the true probability on the report half; None without the file that holds it."""
    if not truth.exists():
        return None
    probability = pq.read_table(truth, columns=["probability"]).column(0).to_numpy()[scored.row]
    logit = (np.log(probability) - np.log1p(-probability)).astype(np.float32)
    return report_figures(replace(scored, logit=logit, prior=TrainingPrior(base_rate=scored.prior.base_rate)))


if __name__ == "__main__":
    typer.run(main)
