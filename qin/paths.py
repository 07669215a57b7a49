"""Every place on disk that two files name; dvc.yaml names the same ones for the stages' outputs."""

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
EVALUATION = METRICS / "evaluate.json"
PLOTS = Path("plots")
SCRATCH = Path(".qin")
SWEEP_LOGS = SCRATCH / "sweep"
# Elsewhere for experiments in temporary folders, so that a killed one can go on when it is run again.
CHECKPOINTS = Path(os.environ.get("QIN_CHECKPOINTS", SCRATCH / "checkpoints"))
