"""Which column is what: kinds, types, patterns of names, the buckets of no value."""
