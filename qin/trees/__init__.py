"""Gradient boosted trees on the rows that the network reads: a member of the model, and the row it has to beat."""
