"""Choosing among policies: ranking, confidence sets, a plan of first real episodes."""
