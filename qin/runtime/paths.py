"""Every place on disk that two files name; dvc.yaml names the same ones for the stages' outputs."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")
PREPARED = Path("data/prepared")
PREPARED_TRAIN = PREPARED / "train"
PREPARED_TEST = PREPARED / "test"
FOLDS = Path("data/split")
ARTIFACTS = Path("artifacts")
MODEL = ARTIFACTS / "model"
STATISTICS = ARTIFACTS / "statistics"
VALIDATION = ARTIFACTS / "validation"
TREES = ARTIFACTS / "trees"
TREES_VALIDATION = ARTIFACTS / "trees_validation"
MEMBERS = {"network": MODEL, "trees": TREES}
SCORED_BY = {"network": VALIDATION, "trees": TREES_VALIDATION}
BLEND = ARTIFACTS / "blend.json"
SCORED = ARTIFACTS / "scored"
CALIBRATOR = ARTIFACTS / "temperature.json"
SLICES = ARTIFACTS / "slices.json"
SUBMISSION = Path("outputs/submission.csv")
DRIFT = Path("outputs/drift.json")
REPORT = Path("outputs/report.html")
CARD = Path("outputs/model_card.md")
METRICS = Path("metrics")
EVALUATION = METRICS / "evaluate.json"
HEADLINE = METRICS / "run.json"
PLOTS = Path("plots")
PLOT_TEMPLATES = Path(".dvc/plots")
RUNS = Path("runs")
SCRATCH = Path(".qin")
CSV = SCRATCH / "csv"
PARTS = SCRATCH / "prepared"
CHECKSUMS = SCRATCH / "checksums"
TRIALS = SCRATCH / "trials"
TUNE = SCRATCH / "tune"
BACKTEST = SCRATCH / "backtest"
BACKTEST_REPORT = Path("outputs/backtest.json")
BACKTEST_PAGE = Path("outputs/backtest.html")
# Elsewhere for experiments in temporary folders, so that a killed one can go on when it is run again.
CHECKPOINTS = Path(os.environ.get("QIN_CHECKPOINTS", SCRATCH / "checkpoints"))


HELDOUT = "heldout"


def heldout_place(folder: Path, *, refit: bool) -> Path:
    """Where in an output that is being written the held-out fit goes: beside what is fitted on all rows, if that is."""
    if not refit:
        return folder
    (folder / HELDOUT).mkdir(exist_ok=True)
    return folder / HELDOUT


def heldout(folder: Path) -> Path:
    """Where an output holds what was fitted without the validation fold: inside it, where all rows were fitted too."""
    return folder / HELDOUT if (folder / HELDOUT).is_dir() else folder
