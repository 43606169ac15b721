"""Policies from other projects: Gaussians as ``name.json`` + ``name.pt``, TorchScript, ONNX, and Python functions.

The Gaussian format is a description (JSON) beside a ``state_dict``:

    dist          "tanh_normal": a = tanh(u), u normal;  "truncnorm": a normal truncated to [-1, 1];  "uniform"
    std           a constant, else exp(log_std) * std_scale, log_std from a second head or a parameter, in [-20, 2]
    squash_mean   truncnorm: the mean is tanh of the head
    eps_uniform   with this probability per step, a uniform action instead
    net           sizes, activation, ``norm`` (inputs standardized, clipped at norm_clip), ``time_feature`` (a 1 added)

Actions are in [-1, 1]. Nothing is executed from these files: weights are read with ``weights_only=True``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_offrl.batch import Spec, scale_action
from lightning_offrl.envs.action_masks import takes_mask
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import (
    Deterministic,
    Discrete,
    SquashedNormal,
    TargetPolicy,
    TruncatedNormal,
    UniformMixture,
)
from lightning_offrl.training.files import read_checkpoint


class GaussianNetwork:
    """Mean and standard deviation of a policy from such a file; float32 inside, as the policies were run.

    Args:
        about: the JSON.
        weights: the state dict.
    """

    def __init__(self, about: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.about, self.net, self.weights = about, about["net"], weights

    def __call__(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, D]`` to mean and standard deviation, ``[B, A]`` float64 each."""
        net, weights, about = self.net, self.weights, self.about
        x = observation.double()
        if x.shape[-1] != net["obs_dim"]:
            raise InputError(
                f"the policy {about['name']} reads observations of {net['obs_dim']} numbers, these have {x.shape[-1]}"
            )
        if net.get("time_feature"):
            x = torch.cat([x, torch.ones_like(x[:, :1])], -1)
        if net["norm"]:
            spread = torch.sqrt(weights["obs_var"] + net["norm_eps"])
            x = ((x - weights["obs_mean"]) / spread).clamp(-net["norm_clip"], net["norm_clip"])
        hidden = x.float()
        activation = torch.relu if net["activation"] == "relu" else torch.tanh
        for i in range(len(net["hidden"])):
            hidden = activation(self._linear(f"layers.{i}", hidden))
        mean = self._linear("mean", hidden).double()
        if about["dist"] == "truncnorm" and about["squash_mean"]:
            mean = torch.tanh(mean)
        if about["std"] is not None:
            return mean, torch.full_like(mean, about["std"])
        if net["head"] == "mean_logstd":
            log_std = self._linear("log_std", hidden).clamp(-20.0, 2.0).double()
        else:
            log_std = weights["log_std_param"].double().expand_as(mean)
        return mean, log_std.exp() * about["std_scale"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))


def load_gaussian(path: str | Path) -> TargetPolicy:
    """A policy of ``path.json`` and ``path.pt``.

    Args:
        path: with or without one of the endings.

    Raises:
        InputError: a file is missing, or describes a distribution that is not known.
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix in (".json", ".pt") else stem
    description, weights = Path(f"{stem}.json"), Path(f"{stem}.pt")
    if not (description.is_file() and weights.is_file()):
        raise InputError(f"a Gaussian policy is {description.name} and {weights.name}; {stem.parent} lacks one of them")
    try:
        about = json.loads(description.read_text())
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{description} is not JSON ({problem}); export the policy again") from problem
    held = read_checkpoint(weights)
    wrong = _misfit(about, held)
    if wrong is not None:
        raise InputError(f"{description} does not describe {weights.name}: {wrong}; export the policy again")
    network = GaussianNetwork(about, held)
    size = int(about["net"]["act_dim"])
    base: TargetPolicy
    if about["dist"] == "tanh_normal":
        base = SquashedNormal(network)
    elif about["dist"] == "truncnorm":
        base = TruncatedNormal(network)
    elif about["dist"] == "uniform":
        return UniformMixture(TruncatedNormal(network), 1.0, size)
    else:
        raise InputError(
            f"{description} has the distribution {about['dist']!r}; known: tanh_normal, truncnorm, uniform"
        )
    return UniformMixture(base, about["eps_uniform"], size) if about["eps_uniform"] else base


def _misfit(about: Any, weights: dict[str, Any]) -> str | None:
    """Where description and weights disagree, or None; checked before anything of the described sizes is made."""
    try:
        net = about["net"]
        inner = list(net["hidden"])
        sizes = [net["obs_dim"], *inner, net["act_dim"]]
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
            return "obs_dim, act_dim and hidden must be whole numbers above 0"
        inputs = [net["obs_dim"] + bool(net.get("time_feature")), *inner]
        wanted = {f"layers.{i}.weight": [out, into] for i, (out, into) in enumerate(zip(inner, inputs, strict=False))}
        wanted["mean.weight"] = [net["act_dim"], inputs[-1]]
        numbers = {"eps_uniform": about["eps_uniform"]}
        if about["std"] is not None:
            numbers["std"] = about["std"]
        else:
            numbers["std_scale"] = about["std_scale"]
            alike = net["head"] == "mean_logstd"
            wanted |= {"log_std.weight": wanted["mean.weight"]} if alike else {"log_std_param": [net["act_dim"]]}
        if net["norm"]:
            numbers |= {key: net[key] for key in ("norm_eps", "norm_clip")}
            wanted |= {key: [net["obs_dim"]] for key in ("obs_mean", "obs_var")}
        texts = about["name"], about["dist"], net["activation"], about["dist"] != "truncnorm" or about["squash_mean"]
    except KeyError as problem:
        return f"it lacks {problem}"
    except TypeError as problem:
        return f"an entry is of a wrong type ({problem})"
    if not all(isinstance(text, str) for text in texts[:3]):
        return "name, dist and activation must be texts"
    for key, value in numbers.items():
        if not isinstance(value, int | float):
            return f"{key} must be a number, got {str(value)[:40]!r}"
    for key, shape in wanted.items():
        found = list(weights[key].shape) if isinstance(weights.get(key), Tensor) else "nothing"
        if found != shape:
            return f"{key} must have shape {shape} and the weights hold {found}"
    return None


def load_function(path: str | Path, spec: Spec, *, scaled: bool = False) -> TargetPolicy:
    """A policy from a TorchScript (``.pt``, ``.ts``) or ONNX (``.onnx``) file of a function as of `from_function`.

    Args:
        path: the file; ONNX needs the package ``onnxruntime``.
        spec: The spaces of the data.
        scaled: its actions are in [-1, 1] already; False: in the environment's units.

    Raises:
        InputError: no such file, a damaged one, or ``onnxruntime`` is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no policy file {path}")
    if path.suffix == ".onnx":
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as problem:
            raise InputError(f"{path.name} needs the package onnxruntime; pip install onnxruntime") from problem
        engine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = engine.get_inputs()[0].name

        def raw(observation: Tensor) -> Tensor:
            return torch.from_numpy(engine.run(None, {name: observation.float().numpy()})[0])
    else:
        try:
            with warnings.catch_warnings():  # deprecated for writing, which says nothing about reading old files
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as problem:
            raise InputError(f"{path} cannot be read as TorchScript ({str(problem).splitlines()[0]})") from problem

        def raw(observation: Tensor) -> Tensor:
            return module(observation)

    return from_function(raw, spec, scaled=scaled)


def load_callable(name: str, spec: Spec) -> TargetPolicy:
    """A policy from Python code: ``file.py:function`` or ``package.module:function``; the code is executed.

    Args:
        name: of a function from raw observations ``[B, ...]`` to actions in the environment's units, see
            `from_function`, or of an object that is a `TargetPolicy`.
        spec: The spaces of the data.

    Raises:
        InputError: no such file, module or name.
    """
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            found = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert found is not None and found.loader is not None
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        function = getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError) as problem:
        raise InputError(
            f"there is no policy {name} ({problem}); expected file.py:function or module:function"
        ) from problem
    return function if isinstance(function, TargetPolicy) else from_function(function, spec)


def from_function(function: Callable[..., Any], spec: Spec, *, scaled: bool = False) -> TargetPolicy:
    """Any function from raw observations ``[B, ...]`` to actions as a target policy.

    Args:
        function: continuous: to ``[B, A]``; discrete: to numbers of actions ``[B]``, or to probabilities ``[B, n]``.
            With an argument ``action_mask`` it receives the legal actions, ``[B, n]`` bool, where the log has them.
        spec: The spaces of the data.
        scaled: its actions are in [-1, 1] already; False: in the environment's units.
    """
    masked = takes_mask(function)

    def raw(observation: Any, mask: Tensor | None) -> Tensor:
        legal = {"action_mask": mask} if masked and mask is not None else {}
        return torch.as_tensor(function(observation, **legal))

    def act(observation: Any) -> Tensor:
        action = raw(observation, None)
        return action if scaled else scale_action(action, spec)

    def table(observation: Any, action_mask: Tensor | None = None) -> Tensor:
        out = raw(observation, action_mask)
        if out.ndim == 2 and out.shape[-1] == spec["action_size"] and out.is_floating_point():
            return out
        return functional.one_hot(out.reshape(len(observation)).long(), spec["action_size"]).double()

    return Discrete(table) if spec["action_kind"] == "discrete" else Deterministic(act)
