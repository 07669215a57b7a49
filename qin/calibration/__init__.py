"""From training logits to calibrated ones: known offset, fitted method, optional shift per segment, output prior."""
