"""One change at a time to a profile's model, over several seeds, on the same validation rows.

    python -m benchmarks.ablation --params params.yaml --data data --out benchmarks/results/ablation_clicked.json

Each variant changes one option of the network; `published` is the faithful model. The state to keep is chosen on the
selection half of the validation fold; AP and AUC are those of the report half, of the network alone. Differences are
paired: the same seed with and without the change. Runs that the output file already has are not repeated, so that a
long table can be made in parts.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.fitting import fit_network, open_log
from benchmarks.machine import describe
from benchmarks.profile import changed, prepare
from qin.config import load_params
from qin.network.threads import fix_threads

PROFILE = "profile"

# How the KuaiRand profiles differ from the default one: for the sample log.
KUAIRAND = {
    "model.attention_norm": "sqrt_length",
    "model.attention_bias": "constant",
    "model.activation": "inside",
}

# What suits variants that do not overfit in the first epoch.
SLOWER = {"train.epochs": 2, "train.lr": 0.001}

VARIANTS: dict[str, dict[str, Any]] = {
    PROFILE: {},
    "published": {"model.preset": "published", **SLOWER},
    "attention_norm none": {"model.attention_norm": "none"},
    "attention_norm length": {"model.attention_norm": "length"},
    "attention_bias none": {"model.attention_bias": "none"},
    "attention_bias recency": {"model.attention_bias": "recency"},
    # Scores of next to nothing: without a bias there is no history, with one it is pooled, whatever the target.
    "attention_scale 1e-9": {"model.attention_scale": 1e-9},
    "attention_scale 300": {"model.attention_scale": 300.0},
    "attention_scale 1000": {"model.attention_scale": 1000.0},
    "num_heads 4": {"model.num_heads": 4},
    "target_values": {"model.target_values": True},
    "separate_attention_embedding": {"model.separate_attention_embedding": True},
    "activation after": {"model.activation": "after"},
    "norm batch": {"model.norm": "batch"},
    "norm rms": {"model.norm": "rms"},
    "num_frequencies 8": {"model.num_frequencies": 8},
    "embedding_dropout 0.3": {"model.embedding_dropout": 0.3},
    "embedding_dropout 0.3, 2 epochs, lr 0.001": {"model.embedding_dropout": 0.3, **SLOWER},
    "embedding_dropout 0.3, self_ensemble 1": {"model.embedding_dropout": 0.3, "train.self_ensemble": 1.0},
    "field_dropout 0.1": {"model.field_dropout": 0.1},
    "row_dropout 0.1": {"model.row_dropout": 0.1},
    "row_dropout 0.1, precision fp32": {"model.row_dropout": 0.1, "train.precision": "fp32"},
    "ema_decay 0.99": {"train.ema_decay": 0.99},
    "schedule cosine": {"train.schedule": "cosine"},
    "lr 0.001": {"train.lr": 0.001},
    "lr 0.002": {"train.lr": 0.002},
    "weight_decay 1, 2 epochs": {"train.weight_decay": 1.0, "train.epochs": 2},
    "batch_size 4096": {"train.batch_size": 4096},
    "batch_size 4096, lr_scaling sqrt": {"train.batch_size": 4096, "train.lr_scaling": "sqrt"},
    "batch_size 4096, lr_scaling linear": {"train.batch_size": 4096, "train.lr_scaling": "linear"},
    "4 layers x 4 rows": {"model.num_layers": 4, "model.num_rows": 4},
    "as on KuaiRand": {**KUAIRAND},
    "as on KuaiRand, embedding_dropout 0.3": {**KUAIRAND, "model.dropout": 0.0, "model.embedding_dropout": 0.3},
}


def main(
    params: Annotated[Path, typer.Option(help="Profile to vary.")],
    data: Annotated[Path, typer.Option(help="Folder with the three files.")],
    out: Annotated[Path, typer.Option(help="JSON file to write, and to go on with.")],
    seeds: Annotated[int, typer.Option(help="Seeds of each variant.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Variants to run; by default all.")] = None,
) -> None:
    """Run the variants that the file does not have yet."""
    run_variants(VARIANTS, params=params, data=data, out=out, seeds=seeds, only=only)


def run_variants(
    variants: dict[str, dict[str, Any]], *, params: Path, data: Path, out: Path, seeds: int, only: list[str] | None
) -> None:
    """Fit the network of each variant with each seed, and write the file after each run.

    Args:
        variants: Changes to the profile by dotted key, the profile itself among them.
        params: The profile.
        data: Folder of the log's three files.
        out: JSON file to write, and to go on with.
        seeds: Seeds of each variant.
        only: Variants to run; None: all.
    """
    base = load_params(params)
    fix_threads(base.train.num_threads)
    runs: dict[str, dict[str, Any]] = json.loads(out.read_text())["runs"] if out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, params, data)
        log = open_log(folder, base)
        for seed in range(seeds):
            for variant in only or variants:
                key = str(seed)
                if key in runs.setdefault(variant, {}):
                    continue
                runs[variant][key] = fit_network(changed(base, variants[variant], seed), log, folder)[1]
                typer.echo(f"{variant}, seed {seed}: {runs[variant][key]}", err=True)
                done = {name: runs[name] for name in variants if runs.get(name)}
                out.write_text(
                    json.dumps({"machine": describe(), "runs": done, "summary": summary(done)}, indent=2) + "\n"
                )


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean figures of each variant, and its paired difference from the profile; from two seeds on with its error."""
    table = {}
    for variant, by_seed in runs.items():
        row: dict[str, float] = {"seeds": len(by_seed)}
        for metric in ("auc", "ap"):
            row[metric] = float(np.mean([run[metric] for run in by_seed.values()]))
            common = sorted(set(by_seed) & set(runs.get(PROFILE, {})))
            gain = np.array([by_seed[seed][metric] - runs[PROFILE][seed][metric] for seed in common])
            if variant != PROFILE and gain.size:
                row[f"{metric}_gain"] = float(gain.mean())
            if variant != PROFILE and gain.size > 1:
                row[f"{metric}_gain_se"] = float(gain.std(ddof=1) / np.sqrt(gain.size))
        table[variant] = row
    return table


if __name__ == "__main__":
    typer.run(main)
