"""Several labels of one log: each stage after the split runs once for each of them."""
