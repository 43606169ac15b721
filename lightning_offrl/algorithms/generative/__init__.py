"""Policies inside a model of the data's actions, one page each."""
