"""What every setting of the sections imbalance and hnm does to the default, over several seeds, on one log.

    python -m qin.sample --rows 100000 --seed 0 --out folder
    python -m benchmarks.imbalance_settings --data folder

Every network is trained as the default is, to its own best state on the selection half of the validation fold; AP, AUC
and log loss are those of the report half, of the network alone, on the natural scale. Differences are paired by seed.
Runs that the output file already has are not repeated, so that the table can be made in parts.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ablation import PROFILE, run_variants
from benchmarks.profile import RESULTS, ROOT

_KEEP_FIFTH: dict[str, Any] = {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 0.2}
_KEEP_TENTH: dict[str, Any] = {"imbalance.use_neg_downsampling": True, "imbalance.neg_downsample_ratio": 0.1}
_MINING: dict[str, Any] = {"hnm.enable": True}

VARIANTS: dict[str, dict[str, Any]] = {
    PROFILE: {},
    "use_neg_downsampling, ratio 0.2": _KEEP_FIFTH,
    "use_neg_downsampling, ratio 0.2, reweight_negatives false": {**_KEEP_FIFTH, "imbalance.reweight_negatives": False},
    "use_neg_downsampling, ratio 0.1": _KEEP_TENTH,
    "pos_weight auto": {"imbalance.pos_weight": "auto"},
    "pos_weight 5": {"imbalance.pos_weight": 5.0},
    "hnm goss": {**_MINING, "hnm.mode": "goss"},
    "hnm pps": {**_MINING, "hnm.mode": "pps"},
    "hnm ohem": {**_MINING, "hnm.mode": "ohem"},
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with the three files.")],
    params: Annotated[Path, typer.Option(help="Profile to vary.")] = ROOT / "params.yaml",
    out: Annotated[Path, typer.Option(help="JSON file to write, and to go on with.")] = RESULTS
    / "imbalance_settings.json",
    seeds: Annotated[int, typer.Option(help="Seeds of each variant.", min=1)] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Variants to run; by default all.")] = None,
) -> None:
    """Run the variants that the file does not have yet."""
    run_variants(VARIANTS, params=params, data=data, out=out, seeds=seeds, only=only)


if __name__ == "__main__":
    typer.run(main)
