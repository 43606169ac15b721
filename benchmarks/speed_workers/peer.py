"""Competitor: d3rlpy by its own training loop, in an environment of its own (``requirements-peer.txt``).

    PEER/bin/python peer.py DATA.hdf5 ALGORITHM BATCH WIDTH highest|medium

It compiles for CUDA graphs only, and has no bfloat16; ``medium`` is torch's setting for float32 products.
"""

from __future__ import annotations

import sys

import d3rlpy  # noqa: I001 (after turns, which sets the number of threads)
import h5py
import numpy as np
import torch
from turns import Turns

CONFIGS = {
    "bc": (d3rlpy.algos.BCConfig, (), {}),
    "td3_bc": (d3rlpy.algos.TD3PlusBCConfig, ("actor", "critic"), {}),
    "iql": (d3rlpy.algos.IQLConfig, ("actor", "critic", "value"), {}),
    "cql": (d3rlpy.algos.CQLConfig, ("actor", "critic"), {"alpha_learning_rate": 0.0}),  # a fixed weight, as ours
    "sac_n": (d3rlpy.algos.SACConfig, ("actor", "critic"), {"n_critics": 10}),
}


def main(path: str, algorithm: str, batch: int, width: int, products: str) -> None:
    """Take turns."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(products)
    d3rlpy.seed(0)
    turns = Turns()
    with h5py.File(path) as file:
        arrays = [file[key][:] for key in ("observations", "actions", "rewards", "terminals", "timeouts")]
    arrays[3:] = [flags.astype(np.float32) for flags in arrays[3:]]
    dataset = d3rlpy.dataset.MDPDataset(*arrays)
    config, networks, settings = CONFIGS[algorithm]
    encoder = d3rlpy.models.encoders.VectorEncoderFactory([width, width])
    encoders = {f"{name}_encoder_factory": encoder for name in networks} or {"encoder_factory": encoder}
    algo = config(batch_size=batch, gamma=0.99, **encoders, **settings).create(device="cpu:0")
    left = 20
    ready = False

    def made(*_: object) -> None:
        nonlocal left, ready
        if ready:
            turns.made()
            return
        left -= 1
        if left == 0:
            ready = True
            turns.say(ready={"versions": {"d3rlpy": d3rlpy.__version__, "torch": torch.__version__}})
            turns.wait()

    algo.fit(
        dataset,
        n_steps=10**9,
        n_steps_per_epoch=10_000,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
        callback=made,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
