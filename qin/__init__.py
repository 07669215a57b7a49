"""Click-through-rate models with leak-free splits, honest calibration and reproducible training."""
