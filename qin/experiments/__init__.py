"""Several runs: comparing them, searching settings, drawing them."""
