"""Trained policies as files that act without the training code's configuration."""
