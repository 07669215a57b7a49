"""The input side: encoding, shards on disk, folds, leakage audit, loader."""
