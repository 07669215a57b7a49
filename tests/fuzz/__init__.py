"""Seeded mutations of all that a user hands the pipeline, and of what lies between its stages."""
