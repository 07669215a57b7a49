"""Stage split: the fold of each row, and the audit for leakage."""
