"""The raw log: Parquet columns, their hashes, values and segments."""
