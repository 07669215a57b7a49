"""The network: embedding, target-conditioned sparse attention, quadratic network."""
