"""Tensor to tensor, no probability."""
