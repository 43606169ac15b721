"""One of two processes: trains every algorithm under plain DDP and saves what this rank ended with.

python -m tests.contracts.ddp_worker RANK WORLD PORT OUT      (started by test_ddp.py)
"""

import os
import sys
from pathlib import Path

import torch

from tests.contracts.pages import ALGORITHMS, fit


def main(rank: str, world: str, port: str, out: str) -> None:
    """Train all algorithms in float64 and float32."""
    torch.set_num_threads(1)
    os.environ.update(
        LOCAL_RANK=rank,
        NODE_RANK="0",
        WORLD_SIZE=world,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        GLOO_SOCKET_IFNAME="lo",
    )
    for name, algorithm in ALGORITHMS.items():
        for precision in ("64-true", "32-true"):
            page, trainer = fit(
                algorithm,
                steps=100,
                precision=precision,
                strategy="ddp",
                devices=int(world),
                data={"batch_size": 16},
                model={"clip_grad_norm": 0.5},
            )
            assert trainer.world_size == int(world)
            torch.save(page.state_dict(), Path(out) / f"{name}-{precision}-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
