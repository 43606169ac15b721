"""``python -m lightning_offrl`` is ``offrl``."""

import sys

from lightning_offrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
