"""Where stages leave what the next ones read; dvc.yaml names the same places."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PREPARED = Path("data/prepared")
PREPARED_TRAIN = PREPARED / "train"
PREPARED_TEST = PREPARED / "test"
FOLDS = Path("data/split")
MODEL = Path("artifacts/model")
VALIDATION = Path("artifacts/validation")
CALIBRATOR = Path("artifacts/temperature.json")
SLICES = Path("artifacts/slices.json")
SUBMISSION = Path("outputs/submission.csv")
METRICS = Path("metrics")
PLOTS = Path("plots")
# Elsewhere for experiments in temporary folders, so that a killed one can go on when it is run again.
CHECKPOINTS = Path(os.environ.get("QIN_CHECKPOINTS", ".qin/checkpoints"))
