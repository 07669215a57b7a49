"""The buckets that every vocabulary begins with; values are hashed into those after them."""

PADDING_BUCKET, NULL_BUCKET, FIRST_VALUE_BUCKET = 0, 1, 2
