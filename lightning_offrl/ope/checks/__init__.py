"""Whether an estimate can be relied on: weights and support."""
