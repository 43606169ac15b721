"""Competitor: JAX-CORL's own scripts from a checkout, in an environment of their own (``requirements-jax.txt``).

    JAX/bin/python jax_corl.py DATA.hdf5 iql|td3_bc|cql BATCH WIDTH CHECKOUT

Eight updates are one compiled function, as its scripts have it, and that function is what is timed, on one core as
everybody here. Simulator, dataset reader, progress bar and wandb are stand-ins that cost nothing. Networks are as in
its scripts, but for the width and IQL's layer normalization, which is off as with everybody here; TD3+BC's critics keep
theirs, which cannot be set.
"""

from __future__ import annotations

import functools
import itertools
import os
import runpy
import sys
import types
from pathlib import Path
from typing import Any

from turns import Turns

if hasattr(os, "sched_setaffinity"):  # the only way to keep XLA to one thread: it takes as many as there are cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import flax
import h5py
import jax
import numpy as np

SCRIPTS = {"iql": "iql", "td3_bc": "td3bc", "cql": "cql"}
WARM_CALLS = 4


def main(data: str, algorithm: str, batch: int, width: int, checkout: str) -> None:
    """Take turns."""
    if algorithm == "cql" and width != 256:
        sys.exit("JAX-CORL's CQL has networks of width 256")
    turns, calls = Turns(), itertools.count()
    jax.devices()  # the scripts set flags of their own, for GPUs: the backend has to be there before
    versions = {"jax": jax.__version__, "flax": flax.__version__}

    def jit(function: Any, **options: Any) -> Any:
        compiled = plain_jit(function, **options)
        if getattr(function, "__name__", "") != "update_n_times":
            return compiled

        @functools.wraps(function)
        def timed(state: Any, dataset: Any, key: Any, config: Any) -> Any:
            result = jax.block_until_ready(compiled(state, dataset, key, config))
            call = next(calls)
            if call == WARM_CALLS:
                turns.say(ready={"versions": versions, "block": config.n_jitted_updates})
                turns.wait()
            elif call > WARM_CALLS:
                turns.made(config.n_jitted_updates)
            return result

        return timed

    plain_jit, jax.jit = jax.jit, jit
    with h5py.File(data) as file:
        names = ("observations", "actions", "next_observations", "rewards", "terminals")
        arrays = {name: np.asarray(file[name][:]) for name in names}
    space = types.SimpleNamespace
    env = space(action_space=space(shape=arrays["actions"].shape[1:]))
    modules: dict[str, dict[str, Any]] = {
        "gym": {"make": lambda name: env, "Env": object},
        "d4rl": {"qlearning_dataset": lambda env: dict(arrays)},
        "wandb": {"init": lambda **k: None, "log": lambda *a, **k: None},
        "tqdm": {"tqdm": lambda counted, **k: counted},
    }
    for name, contents in modules.items():
        module: Any = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    words = [f"batch_size={batch}", "max_steps=8000000000", "eval_interval=8000000000"]
    words += [f"hidden_dims=[{width},{width}]"] if algorithm != "cql" else []  # there its type admits one number only
    words += ["layer_norm=false"] if algorithm == "iql" else []
    sys.argv = ["script", *words]
    runpy.run_path(str(Path(checkout) / "algos" / f"{SCRIPTS[algorithm]}.py"), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
