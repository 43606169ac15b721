"""The whole update as one compiled graph; `choose` is the entry point."""
