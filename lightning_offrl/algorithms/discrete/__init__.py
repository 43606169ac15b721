"""Algorithms for discrete actions, one page each."""
