"""Reading a ``policy.pt`` or a training checkpoint as plain values, and seeing that these can be what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.training.checkpoint import FORMAT
from lightning_offrl.training.files import read_checkpoint


@dataclass(frozen=True)
class Saved:
    """What a policy file or a training checkpoint says, in one form."""

    path: Path
    algorithm: str
    hyper_parameters: dict[str, Any]
    state: dict[str, Tensor]
    spec: Spec
    seeds: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """Name, fingerprint, environment and references of the training data; empty if unknown."""
        return dict(self.info.get("data") or {})


def read_saved(path: str | Path) -> Saved:
    """What a ``policy.pt`` or ``.ckpt`` holds, without building anything.

    Raises:
        InputError: no such file, damaged, not one of ours, of a newer format, or with entries that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no policy at {path}: give a policy.pt or a .ckpt file, such as runs/NAME/policy.pt")
    content = read_checkpoint(path)
    exported = "offrl_policy" in content
    if not exported and ("offrl" not in content or "state_dict" not in content):
        raise InputError(
            f"{path} is neither a policy nor a checkpoint of lightning_offrl (it has {_few(content)}); "
            "give a policy.pt or a .ckpt file of one of its runs"
        )
    mark = content if exported else content["offrl"]
    if not isinstance(mark, Mapping):
        raise _cannot_be(path, "its entry 'offrl' is not a dictionary")
    _check_format(path, mark.get("offrl_policy" if exported else "format"))
    hyper, state, spec = content.get("hyper_parameters", {}), content.get("state_dict", {}), mark.get("spec", {})
    info: Any = content.get("info") if exported else {key: mark.get(key) for key in ("updates", "data", "versions")}
    _check_plain(path, hyper, info)
    hyper = {key: value for key, value in hyper.items() if not key.startswith("_")}
    seeds = 1 if exported else hyper.get("seeds", 1) or 1
    _check_state(path, state)
    _check_spec(path, spec, hyper)
    _check_numbers(path, hyper, seeds, state)
    return Saved(path, mark.get("algorithm", ""), hyper, dict(state), spec, seeds, dict(info))


def _check_plain(path: Path, hyper: Any, info: Any) -> None:
    """Dictionaries where dictionaries are read, numbers where numbers are."""
    if not (isinstance(hyper, Mapping) and all(isinstance(key, str) for key in hyper)):
        raise _cannot_be(path, "its hyper_parameters are not a dictionary of names")
    data = info.get("data") if isinstance(info, Mapping) else None
    if not isinstance(info, Mapping) or not isinstance(data, Mapping | None):
        raise _cannot_be(path, "what it says of its training is not a dictionary")
    if not _whole(info.get("updates") or 0, 0):
        raise _cannot_be(path, f"its number of updates is {str(info['updates'])[:40]!r}")
    references = (data or {}).get("references")
    if references is not None:
        fine = isinstance(references, list | tuple) and len(references) == 2
        if not (fine and all(_finite(x) for x in references) and references[0] < references[1]):
            raise _cannot_be(path, "its reference returns are not two numbers, low < high")


def _check_state(path: Path, state: Any) -> None:
    """Dense tensors, all of whose numbers are in the file: a view may claim any shape of a single number."""
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise _cannot_be(path, "its state_dict is not a dictionary of names")
    held: dict[int, int] = {}
    claimed = 0
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise _cannot_be(path, f"{key} in its state_dict is not a dense tensor")
        storage = value.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        claimed += value.numel() * value.element_size()
        if value.numel() * value.element_size() > storage.nbytes():
            raise _cannot_be(path, f"{key} in its state_dict claims shape {list(value.shape)} but holds fewer numbers")
    if claimed > 100 * sum(held.values()):
        raise _cannot_be(path, "the tensors of its state_dict claim more than 100 times the numbers it holds")


def _check_spec(path: Path, spec: Any, hyper: Mapping[str, Any]) -> None:
    """Spaces in the form of `lightning_offrl.envs.spaces.make_spec`."""

    def shape(value: Any) -> bool:
        if isinstance(value, Mapping):
            return bool(value) and all(isinstance(key, str) and shape(inner) for key, inner in value.items())
        return isinstance(value, list | tuple) and all(_whole(size, 1) for size in value)

    fine = isinstance(spec, Mapping) and shape(spec.get("observation_shape")) and _whole(spec.get("action_size"), 1)
    if fine and spec["action_kind"] == "box":
        size, ends = spec["action_size"], (spec.get("action_low"), spec.get("action_high"))
        fine = all(isinstance(end, list | tuple) and len(end) == size and all(map(_finite, end)) for end in ends)
    elif fine:
        fine = spec["action_kind"] == "discrete"
    if not fine:
        raise _cannot_be(path, "its spec does not describe observations and actions")
    if "spec" in hyper and hyper["spec"] != spec:
        raise _cannot_be(path, "the spec among its hyper_parameters is another than its own")


def _check_numbers(path: Path, hyper: Mapping[str, Any], seeds: Any, state: Mapping[str, Tensor]) -> None:
    """Counts that decide how often something is built or drawn, and that no weight has a shape for."""
    if not _whole(seeds, 1) or seeds > 1 and all(x.ndim == 0 or x.shape[0] != seeds for x in state.values()):
        raise _cannot_be(path, f"it says that it stacks {str(seeds)[:40]} seeds, but no weight has that many")
    if not _whole(hyper.get("seed", 0), -(2**63)):
        raise _cannot_be(path, f"its seed is {str(hyper['seed'])[:40]!r}")
    for name, value in hyper.items():
        if name.endswith("samples") and not (_whole(value, 1) and value <= 100_000):
            raise _cannot_be(path, f"its {name} is {str(value)[:40]!r}, not a number from 1 to 100,000")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cannot_be(path: Path, why: str) -> InputError:
    return InputError(f"{path} was not written by lightning_offrl as it is: {why}; get the file again from its source")


def _check_format(path: Path, number: Any) -> None:
    if not isinstance(number, int) or number > FORMAT:
        raise InputError(
            f"{path} has format {number}, this version reads up to {FORMAT}: install a newer lightning-offrl"
        )


def _few(content: Mapping[str, Any]) -> str:
    keys = sorted(str(key) for key in content)
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "no entries"
