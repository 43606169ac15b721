"""``offrl fit``: its command line, the words it understands, its run directories, resumption and processes."""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> int | None:
    """Run the verb. Lightning's command line is imported only now."""
    from lightning_offrl.cli.fit import command

    return command.main(list(words))
