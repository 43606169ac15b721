"""A two-dimensional linear-quadratic system with Gaussian policies, whose values are solved and not simulated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from tests.ope.doubles import Linear

A = np.array([[0.95, 0.15], [-0.10, 0.90]])
B = np.array([[0.10, 0.0], [0.05, 0.25]])
STATE_COST = np.diag([0.30, 0.10])
ACTION_COST = np.diag([0.05, 0.10])
NOISE = 0.10  # of the state, per step
BOX = 4.0  # actions lie in [-BOX, BOX]; far from where any is
DISCOUNT = 0.95


@dataclass
class Gaussian:
    """``a = K s + std * noise``, environment units."""

    gain: np.ndarray
    std: float

    def value(self) -> float:
        """Exact: ``V(s) = -s' P s - c``, ``P = Q + K' R K + g (A + BK)' P (A + BK)``, a discounted Lyapunov equation.

        ``c = (std^2 tr R + g std^2 tr B' P B + g noise^2 tr P) / (1 - g)``; first states are standard normal.
        """
        p = self.lyapunov()
        constant = self.std**2 * (np.trace(ACTION_COST) + DISCOUNT * np.trace(B.T @ p @ B))
        constant += DISCOUNT * NOISE**2 * np.trace(p)
        return -float(np.trace(p) + constant / (1.0 - DISCOUNT))

    def lyapunov(self) -> np.ndarray:
        """P, by vectorizing its equation."""
        closed = A + B @ self.gain
        cost = STATE_COST + self.gain.T @ ACTION_COST @ self.gain
        system = np.eye(4) - DISCOUNT * np.kron(closed.T, closed.T)
        return np.linalg.solve(system, cost.reshape(-1)).reshape(2, 2)

    def policy(self) -> Linear:
        """In scaled actions, as the evaluation sees it."""
        return Linear(self.gain / BOX, self.std / BOX)

    def episodes(self, count: int, length: int, seed: int) -> Episodes:
        """Episodes cut after ``length`` steps."""
        rng = np.random.default_rng(seed)
        s = rng.normal(size=(count, 2))
        columns: dict[str, list[np.ndarray]] = {k: [] for k in ("s", "a", "r", "n")}
        for _ in range(length):
            a = s @ self.gain.T + self.std * rng.normal(size=(count, 2))
            assert np.abs(a).max() < BOX  # nothing is clipped, or the closed form would not hold
            following = s @ A.T + a @ B.T + NOISE * rng.normal(size=(count, 2))
            cost = np.einsum("bi,ij,bj->b", s, STATE_COST, s) + np.einsum("bi,ij,bj->b", a, ACTION_COST, a)
            for key, x in zip(columns, (s, a, -cost, following), strict=True):
                columns[key].append(x)
            s = following
        flat = {k: np.stack(v, 1).reshape(count * length, *v[0].shape[1:]) for k, v in columns.items()}
        cut = np.zeros((count, length), bool)
        cut[:, -1] = True
        return from_arrays(
            {
                "observations": flat["s"].astype(np.float32),
                "actions": flat["a"].astype(np.float32),
                "rewards": flat["r"],
                "terminated": np.zeros(count * length, bool),
                "truncated": cut.reshape(-1),
                "next_observations": flat["n"].astype(np.float32),
                "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "action_space": spaces.Box(-BOX, BOX, (2,), np.float32),
            }
        )


TARGET = Gaussian(np.array([[-0.6, 0.1], [0.2, -0.9]]), 0.1)
BEHAVIOR = Gaussian(np.array([[0.0, 0.0], [0.1, -0.2]]), 0.5)
