"""Metrics from logits and their standard errors; NumPy alone, without settings."""
