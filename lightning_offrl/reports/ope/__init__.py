"""The reports of off-policy evaluation and of selection."""
