"""Stage calibrate: probabilities from logits, reported on rows that no calibrator was fitted on."""
