"""Several runs: comparing them, sweeping over settings, drawing them."""
