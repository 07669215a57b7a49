"""Rows with a model's logit, as one stage hands them to the next, and the base rate that their logits stand for."""
