"""The trained model: a network with its schema and where it comes from, as files and as a scorer."""
