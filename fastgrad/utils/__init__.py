"""Utilities around tensors and training."""
