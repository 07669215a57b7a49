"""What makes pages of the documentation: from settings, docstrings, plots, and commands as they print."""
