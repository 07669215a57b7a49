"""Prepared files, folds of their rows, and batches of both."""
