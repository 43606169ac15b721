"""Learned models of the environment: what follows an action, with its reward and whether the episode ends."""
