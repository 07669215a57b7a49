"""From the artifacts to a decision: raw rows in, calibrated probabilities out, without the pipeline around them."""
