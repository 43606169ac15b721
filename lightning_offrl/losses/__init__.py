"""Losses: pure functions, tensors in, one number per sample out."""
