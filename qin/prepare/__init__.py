"""Stage prepare: the raw log as shards of fixed width."""
