"""The buckets that every vocabulary begins with; values are hashed into those after them."""

# Part of every shard and of every embedding table: other numbers would be another format.
PADDING_BUCKET, NULL_BUCKET, FIRST_VALUE_BUCKET = 0, 1, 2
