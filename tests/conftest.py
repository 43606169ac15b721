"""What all tests share: one thread, nothing written outside temporary folders, and small datasets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before anything imports torch, matplotlib, wandb or minari: they read these once. Processes that the tests start
# inherit them.
_SCRATCH = Path(tempfile.mkdtemp(prefix="offrl-tests-"))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["WANDB_DIR"] = str(_SCRATCH / "wandb")
os.environ["WANDB_CACHE_DIR"] = str(_SCRATCH / "wandb-cache")
os.environ["WANDB_DATA_DIR"] = str(_SCRATCH / "wandb-data")
os.environ["MINARI_DATASETS_PATH"] = str(_SCRATCH / "minari")
os.environ["OFFRL_CACHE"] = str(_SCRATCH / "cache")
os.environ["SDL_VIDEODRIVER"] = "dummy"
# Compiled graphs are shared by all processes of a session: those that pytest-xdist starts inherit this one's.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_SCRATCH / "inductor"))
# Shown once per process, and only under pytest: Python hides it from users. It would land in whichever test is first.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
for _name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "MINARI_DATASETS_PATH", "OFFRL_CACHE"):
    Path(os.environ[_name]).mkdir(parents=True)

import lightning.pytorch  # noqa: E402, F401 (its log handler keeps the stderr of its import: not one of a single test)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

REPO = Path(__file__).resolve().parents[1]
Arrays = dict[str, np.ndarray[Any, Any]]


def pytest_sessionfinish() -> None:
    """Remove this process's scratch folder."""
    import shutil

    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real datasets (D4RL files, a Minari dataset); the test is skipped where there is none."""
    folder = Path(os.environ.get("OFFRL_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set OFFRL_TEST_DATA)")
    return folder


def random_arrays(
    episodes: int = 6, length: int = 20, observation_size: int = 3, action_size: int = 2, seed: int = 0
) -> Arrays:
    """A random continuous dataset in D4RL's layout; odd episodes end in a terminal state, even ones in a timeout.

    Args:
        episodes: number of episodes, all of the same length.
        length: steps per episode.
        observation_size: D.
        action_size: A; actions lie in [-1, 1].
        seed: of the numbers.

    Returns:
        ``observations`` and ``next_observations`` ``[T, D]``, ``actions`` ``[T, A]``, ``rewards``, ``terminals`` and
        ``timeouts`` ``[T]``.
    """
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(episodes, length + 1, observation_size)).astype(np.float32)
    terminals = np.zeros((episodes, length), dtype=bool)
    timeouts = np.zeros((episodes, length), dtype=bool)
    terminals[1::2, -1] = True
    timeouts[0::2, -1] = True
    return {
        "observations": path[:, :-1].reshape(-1, observation_size),
        "next_observations": path[:, 1:].reshape(-1, observation_size),
        "actions": rng.uniform(-1, 1, size=(episodes * length, action_size)).astype(np.float32),
        "rewards": rng.normal(size=episodes * length).astype(np.float32),
        "terminals": terminals.reshape(-1),
        "timeouts": timeouts.reshape(-1),
    }


@pytest.fixture
def make_arrays() -> Callable[..., Arrays]:
    """`random_arrays`, for tests that want other sizes."""
    return random_arrays


@pytest.fixture
def arrays() -> Arrays:
    """Six random episodes of 20 steps, 3 observation numbers, 2 actions."""
    return random_arrays()
