"""Stage predict: calibrated probabilities of the test file."""
