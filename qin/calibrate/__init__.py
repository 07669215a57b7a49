"""Stage calibrate: probabilities from logits, judged on rows that no calibrator was fitted on."""
