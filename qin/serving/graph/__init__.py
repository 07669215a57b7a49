"""The deployed model as one graph of plain tensor operations, from raw values to probabilities, for other runtimes."""
