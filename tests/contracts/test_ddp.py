"""Two gloo processes under plain ``strategy: ddp`` equal one process on the joint batch.

Lightning's own DDP raises with two optimizers and ``manual_backward``: each loss leaves the other's parameters unused.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contracts.pages import distance, every_algorithm, fit, same

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder with the final states of both ranks: one pair of processes trains all algorithms."""
    out = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.ddp_worker"]
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", port, str(out)],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        try:
            text, _ = worker.communicate(timeout=1200)
        except subprocess.TimeoutExpired:
            for each in workers:
                each.kill()
            raise
        assert worker.returncode == 0, text
    return out


@every_algorithm
@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-10), ("32-true", 1e-4)])
def test_two_processes_equal_one_on_the_joint_batch(algorithm, precision, tolerance, two_processes):
    """100 updates, clipped gradients, batch statistics inside losses (TD3+BC's mean |Q|), delayed policies."""
    ranks = [torch.load(two_processes / f"{algorithm.__name__}-{precision}-{r}.pt", weights_only=True) for r in (0, 1)]
    assert same(*ranks), "the ranks ended with different parameters"
    one, _ = fit(algorithm, steps=100, precision=precision, data={"batch_size": 32}, model={"clip_grad_norm": 0.5})
    assert distance(ranks[0], one.state_dict()) <= tolerance
    half, _ = fit(algorithm, steps=100, precision=precision, data={"batch_size": 16}, model={"clip_grad_norm": 0.5})
    assert distance(half.state_dict(), one.state_dict()) > 1e-3, "a check that can fail: half the batch is another run"
