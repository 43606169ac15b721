"""Soft actor-critic over many critics, one page each."""
