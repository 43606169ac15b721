"""One page per algorithm. The package is walked, so there is no list to extend."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from lightning_offrl.training.algorithm import OfflineAlgorithm


def all_algorithms() -> dict[str, type[OfflineAlgorithm]]:
    """Every algorithm of the package by its class name."""
    found: dict[str, type[OfflineAlgorithm]] = {}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        for name, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, OfflineAlgorithm) and member.__module__ == module.__name__:
                found[name] = member
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
