"""The network, pure PyTorch: it knows neither settings nor columns."""
