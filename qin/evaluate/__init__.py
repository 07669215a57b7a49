"""Stage evaluate: figures, curves, slices, a baseline and the importance of fields."""
