"""Stage train: fit the network on the train fold."""
