"""Competitor: CORL's own scripts from a checkout, their own loops; what they import and we lack is stood in for.

    python corl.py DATA.hdf5 ALGORITHM BATCH WIDTH highest|medium CHECKOUT

Simulator, dataset reader, configuration reader and wandb are stand-ins that cost nothing. Depths of networks are as in
its scripts (SAC-N three hidden layers, CQL three in one critic), widths 256.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import h5py  # noqa: I001 (after turns, which sets the number of threads)
import numpy as np
import torch
from turns import Turns

SCRIPTS = {"bc": "any_percent_bc", "td3_bc": "td3_bc", "iql": "iql", "cql": "cql", "sac_n": "sac_n"}
EVER = 10**9


def main(data: str, algorithm: str, batch: int, width: int, products: str, checkout: str) -> None:
    """Take turns."""
    if width != 256:
        sys.exit("CORL's scripts have networks of width 256")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(products)
    turns, warm = Turns(), [20]

    def made(*_: Any, **__: Any) -> None:
        if warm[0] > 0:
            warm[0] -= 1
            if warm[0] == 0:
                turns.say(ready={})
                turns.wait()
        else:
            turns.made()

    def counted(count: int, **_: Any) -> Any:
        for i in range(int(count)):
            yield i
            if algorithm == "sac_n":  # its script logs every hundredth update only
                made()

    with h5py.File(data) as file:
        names = ("observations", "actions", "next_observations", "rewards", "terminals")
        arrays = {name: file[name][:] for name in names}
    space = types.SimpleNamespace
    env = space(
        observation_space=space(shape=arrays["observations"].shape[1:]),
        action_space=space(
            shape=arrays["actions"].shape[1:], high=np.ones(arrays["actions"].shape[1]), seed=lambda seed: None
        ),
        seed=lambda seed: None,
    )
    modules: dict[str, dict[str, Any]] = {
        "gym": {"make": lambda name: env, "Env": object, "wrappers": None},
        "d4rl": {"qlearning_dataset": lambda env: dict(arrays)},
        "pyrallis": {"wrap": lambda: lambda function: function, "dump": None},
        "wandb": {
            "log": (lambda *a, **k: None) if algorithm == "sac_n" else made,
            "init": lambda **k: None,
            "run": None,
        },
        "tqdm": {"trange": counted, "tqdm": None},
    }
    for name, contents in modules.items():
        module: Any = types.ModuleType(name)
        vars(module).update(contents)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # torch asks whether there is a tqdm
        sys.modules[name] = module
    sys.modules["wandb"].run = space(save=lambda: None)  # type: ignore[attr-defined]
    path = Path(checkout) / "algorithms" / "offline" / f"{SCRIPTS[algorithm]}.py"
    spec = importlib.util.spec_from_file_location("script", path)
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    sys.modules["script"] = script  # its dataclasses look their module up
    spec.loader.exec_module(script)
    script.wrap_env = lambda env, **_: env
    config = script.TrainConfig()
    wanted = {"device": "cpu", "batch_size": batch, "normalize": False, "normalize_reward": False, "eval_freq": EVER}
    wanted |= {"max_timesteps": EVER, "checkpoints_path": None, "num_updates_on_epoch": EVER, "frac": 1.0}
    for name, value in wanted.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if hasattr(config, "q_n_hidden_layers"):
        config.q_n_hidden_layers = 2
    script.train(config)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6])
