"""What a checkpoint says of itself, and whether it can be gone on with."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm_names import public_name

FORMAT = 2
"""Raised when an older version could not read a newer checkpoint or exported policy."""
_LIBRARIES = ("lightning-offrl", "torch", "lightning", "tensordict", "numpy")


def describe(algorithm: str, spec: Spec, data: dict[str, Any] | None) -> dict[str, Any]:
    """The plain part of ``checkpoint["offrl"]``.

    Args:
        algorithm: see `training.algorithm_names.algorithm_name`.
        spec: the spaces it was built for.
        data: facts of the data module, with its name and fingerprint.
    """
    versions = {name: _version(name) for name in _LIBRARIES}
    return {"format": FORMAT, "algorithm": algorithm, "spec": spec, "data": data, "versions": versions}


def verify(checkpoint: Mapping[str, Any], algorithm: str, spec: Spec, seeds: int) -> dict[str, Any]:
    """The entry ``"offrl"`` of a checkpoint that this algorithm can load.

    Raises:
        InputError: if the checkpoint is not ours, of a newer format, or of another algorithm, other spaces or another
            number of stacked seeds.
    """
    saved = checkpoint.get("offrl")
    if saved is None:
        raise InputError("this checkpoint was not written by lightning_offrl: it lacks the entry 'offrl'")
    if saved["format"] > FORMAT:
        raise InputError(
            f"this checkpoint has format {saved['format']}, this version reads up to {FORMAT}: install a newer "
            "lightning-offrl"
        )
    if public_name(str(saved["algorithm"])) != algorithm:
        was, now = (name.rpartition(".")[2] for name in (str(saved["algorithm"]), algorithm))
        raise InputError(f"this checkpoint holds {was}, not {now}: choose the algorithm it was trained with")
    if saved["spec"] != spec:
        raise InputError(
            f"this checkpoint was trained on other spaces: {spec_difference(saved['spec'], spec)}; pass the data "
            "it was trained with"
        )
    stacked = checkpoint.get("hyper_parameters", {}).get("seeds", seeds)
    if stacked != seeds:
        raise InputError(f"this checkpoint stacks {stacked} seeds, the model {seeds}: set model.seeds={stacked}")
    return saved


def differences(saved: Mapping[str, Any], data: Mapping[str, Any] | None) -> list[str]:
    """Sentences on what differs from the run that wrote the checkpoint, without forbidding to go on."""
    said, was = [], saved["data"]
    if was and data and was["fingerprint"] != data["fingerprint"]:
        said.append(
            f"the checkpoint was trained on {was['name']} ({was['fingerprint'][:12]}), this is {data['name']} "
            f"({data['fingerprint'][:12]}) with other content: the run goes on, but is no resumption"
        )
    changed = [f"{name} {v} -> {_version(name)}" for name, v in saved["versions"].items() if v != _version(name)]
    if changed:
        said.append(f"library versions changed since the checkpoint ({', '.join(changed)}): not bit for bit")
    return said


def same_spaces(data: Spec, algorithm: Spec) -> None:
    """Raise `InputError` if the data has other spaces than the algorithm was built for."""
    if data != algorithm:
        raise InputError(
            f"the data has other spaces than the algorithm was built for: {spec_difference(data, algorithm)}; "
            "build the algorithm with this data's spec, or pass the data it was trained with"
        )


def spec_difference(one: Spec, other: Spec) -> str:
    """What differs between two descriptions of spaces, as ``key value and value``."""
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return "; ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in keys)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
