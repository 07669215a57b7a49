"""Click-through-rate models with leak-free splits, honest calibration and reproducible training."""

import os

# PyTorch's OpenMP threads spin for milliseconds after each operation, on cores that the threads of `qin.model.workers`
# wait for (scoring took 1.2 times as long) and other processes too. OpenMP reads this when PyTorch is imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
