"""``offrl version``: the versions of this package and of those that it uses."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_offrl.cli.parser import Parser

_PACKAGES = ("lightning-offrl", "lightning", "torch", "tensordict", "gymnasium", "minari", "wandb")


def main(words: Sequence[str]) -> None:
    """Print the versions."""
    import platform
    from importlib import metadata

    Parser(prog="offrl version", description="Print the versions of the packages in use.").parse_args(words)
    for name in _PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")
    print(f"python {platform.python_version()} on {platform.platform()}")
