"""Built-in behavior policies, with the true probability of what they did.

A behavior is a controller with noise around it. Its actions are drawn from a distribution with a density on the whole
action space, so that the logged ``behavior_log_prob`` is exact and off-policy estimates on collected data can be
checked:

    Box       quality * TruncatedNormal(mean=controller(s), std=noise * half range, on [low, high])
              + (1 - quality) * Uniform(low, high)
    Discrete  quality * [a = controller(s)] + (1 - quality) / n

Where the environment says which actions are legal, n is their number, and the controller is not followed into others.
The mixture is over whole actions (one coin per step, not per dimension). Densities are in the environment's units.
In a GridWorld and in Sepsis the controller is the optimal policy, so the behavior is
`TabularMDP.behavior_policy(quality)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.envs.action_masks import decide
from lightning_offrl.errors import InputError

Controller = Callable[[Any], Any]
"""Raw observation(s) ``[..., D]`` to action(s) in the environment's units: ``[..., A]``, or integers ``[...]``."""

_STANDARD = NormalDist()


def pendulum(observation: np.ndarray) -> np.ndarray:
    """Pendulum-v1: pump energy until the pole passes the top, then linear feedback. ``[..., 3]`` to ``[..., 1]``.

    With theta = 0 at the top the dynamics are theta'' = 15 sin(theta) + 3 u, so E = theta'^2 / 2 + 15 (cos(theta) - 1)
    is zero for resting at the top, and dE/dt = 3 u theta' (energy control: Astrom and Furuta, 2000,
    https://doi.org/10.1016/S0005-1098(99)00140-5).
    """
    cosine, sine, speed = (np.asarray(observation[..., i], dtype=np.float64) for i in range(3))
    angle = np.arctan2(sine, cosine)
    energy = 0.5 * speed**2 + 15.0 * (cosine - 1.0)
    pump = -2.0 * np.sign(energy) * np.where(speed >= 0.0, 1.0, -1.0) * np.minimum(1.0, np.abs(energy))
    hold = -(10.0 * angle + 2.5 * speed)
    near = (np.abs(angle) < 0.6) & (np.abs(5.0 * angle + speed) < 4.0)
    return np.clip(np.where(near, hold, pump), -2.0, 2.0)[..., None]


def cartpole(observation: np.ndarray) -> np.ndarray:
    """CartPole-v1: the side that linear feedback on all four states asks for. ``[..., 4]`` to int64 ``[...]``."""
    position, speed, angle, turning = (np.asarray(observation[..., i], dtype=np.float64) for i in range(4))
    return (0.2 * position + 0.6 * speed + 8.0 * angle + 2.0 * turning > 0.0).astype(np.int64)


def mountain_car(observation: np.ndarray) -> np.ndarray:
    """MountainCarContinuous-v0: push along the velocity. ``[..., 2]`` to ``[..., 1]``."""
    return np.where(np.asarray(observation[..., 1]) >= 0.0, 1.0, -1.0)[..., None]


def lunar_lander(observation: np.ndarray) -> np.ndarray:
    """LunarLander-v3: lean towards the pad, brake while falling. ``[..., 8]`` to int64 ``[...]``.

    The idea of Gymnasium's own ``heuristic``: an angle to hold, from position and drift; a height to hold, which
    shrinks with the distance to the pad; of the two errors the larger one chooses the engine.
    """
    x, y, drift, fall, angle, turning = (np.asarray(observation[..., i], dtype=np.float64) for i in range(6))
    landed = (np.asarray(observation[..., 6]) > 0.5) | (np.asarray(observation[..., 7]) > 0.5)
    lean = np.clip(0.5 * x + 1.0 * drift, -0.4, 0.4)
    turn = np.where(landed, 0.0, 0.5 * (lean - angle) - 1.0 * turning)
    lift = np.where(landed, -0.5 * fall, 0.5 * (0.55 * np.abs(x) - y) - 0.5 * fall)
    side = np.where(turn < -0.05, 3, np.where(turn > 0.05, 1, 0))
    return np.where((lift > np.abs(turn)) & (lift > 0.05), 2, side).astype(np.int64)


CONTROLLERS: dict[str, Controller] = {
    "Pendulum-v1": pendulum,
    "CartPole-v1": cartpole,
    "MountainCarContinuous-v0": mountain_car,
    "LunarLander-v3": lunar_lander,
}


def built_in_controller(environment: str) -> Controller | None:
    """The controller for an environment's id (or JSON specification), or None.

    A GridWorld and Sepsis have their optimal policy (as far as the observation tells the state).
    """
    if "GridWorld" not in environment and "Sepsis" not in environment:
        return CONTROLLERS.get(environment)
    from lightning_offrl.envs.gridworld.environment import GridWorld
    from lightning_offrl.envs.make import make_environment
    from lightning_offrl.envs.sepsis.environment import Sepsis

    try:
        world = make_environment(environment).unwrapped
    except InputError:  # of another package: those of this one are registered
        return None
    return world.controller() if isinstance(world, GridWorld | Sepsis) else None


@dataclass(frozen=True)
class Behavior:
    """One behavior policy: a controller, how often it is followed, and how precisely.

    Args:
        name: The name, for tables and the dataset's description.
        spec: the spaces.
        controller: None for uniformly random actions.
        quality: A number in [0, 1], the share of steps on which the controller is followed.
        noise: standard deviation around a continuous controller, in half ranges of the action (0.1 of [-2, 2] is
            0.2). Zero means no density exists unless ``quality`` is 0, and none is logged.
        reverse: follow the mirrored action (``low + high - a``, or ``n - 1 - a``), which is worse than random.
        recorded: Whether its choice depends only on what is recorded; otherwise its probabilities are not logged.
    """

    name: str
    spec: Spec
    controller: Controller | None
    quality: float = 1.0
    noise: float = 0.1
    reverse: bool = False
    recorded: bool = True

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` exists."""
        return self.spec["action_kind"] == "discrete" or self.noise > 0.0 or self._share == 0.0

    @property
    def _share(self) -> float:
        return 0.0 if self.controller is None else self.quality

    def intended(self, observation: Any, action_mask: np.ndarray | None = None) -> Any:
        """The action of the controller: float64 ``[A]`` inside the bounds, or an int (None if that is illegal)."""
        if self.controller is None:
            raise RuntimeError("random actions have no intention behind them")
        action = decide(self.controller, observation, action_mask)
        if self.spec["action_kind"] == "discrete":
            index = self.spec["action_size"] - 1 - int(action) if self.reverse else int(action)
            return index if action_mask is None or action_mask[index] else None
        low, high = self._bounds()
        action = np.clip(np.asarray(action, dtype=np.float64).reshape(-1), low, high)
        return low + high - action if self.reverse else action

    def sample(
        self, observation: Any, rng: np.random.Generator, action_mask: np.ndarray | None = None
    ) -> tuple[Any, float]:
        """Draw an action.

        Args:
            observation: one raw observation.
            rng: The random stream; every call draws the same number of values, whatever is chosen.
            action_mask: ``[n]`` bool, which discrete actions are legal; None: all.

        Returns:
            The action (float32 ``[A]`` in environment units, or an int), and its log density or log probability
            (nan where none exists).
        """
        intended: Any = self.intended(observation, action_mask) if self._share > 0.0 else None
        follow = rng.random() < self._share
        action: Any
        if self.spec["action_kind"] == "discrete":
            legal = np.arange(self.spec["action_size"]) if action_mask is None else np.flatnonzero(action_mask)
            action = int(legal[rng.integers(len(legal))])
            action = intended if follow and intended is not None else action
            return action, self._discrete(intended, action, len(legal))
        low, high = self._bounds()
        uniform = rng.random(len(low))
        if not follow:
            action = low + uniform * (high - low)
        elif self.noise == 0.0:
            action = intended
        else:
            action = _truncated_normal(uniform, intended, self.noise * (high - low) / 2.0, low, high)
        # The environment gets float32, so that is the action whose density is logged.
        action = np.clip(action.astype(np.float32), low.astype(np.float32), high.astype(np.float32))
        return action, self._continuous(intended, action)

    def log_prob(self, observation: Any, action: Any, action_mask: np.ndarray | None = None) -> float:
        """Log density (environment units) or log probability of ``action``; nan where no density exists."""
        intended = self.intended(observation, action_mask) if self._share > 0.0 else None
        if self.spec["action_kind"] == "discrete":
            if action_mask is not None and not action_mask[int(action)]:
                return -math.inf
            count = self.spec["action_size"] if action_mask is None else int(action_mask.sum())
            return self._discrete(intended, int(action), count)
        return self._continuous(intended, np.asarray(action).reshape(-1))

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.spec["action_low"]), np.asarray(self.spec["action_high"])

    def _discrete(self, intended: int | None, action: int, count: int) -> float:
        share = 0.0 if intended is None else self._share
        probability = (1.0 - share) / count + share * (action == intended)
        return math.log(probability) if probability > 0.0 else -math.inf

    def _continuous(self, intended: np.ndarray | None, action: np.ndarray) -> float:
        low, high = self._bounds()
        log_uniform = -float(np.log(high - low).sum())
        if self._share == 0.0:
            return log_uniform
        if self.noise == 0.0:
            return math.nan
        assert intended is not None
        log_normal = 0.0
        for x, mean, bottom, top in zip(action.tolist(), intended.tolist(), low.tolist(), high.tolist(), strict=True):
            sigma = self.noise * (top - bottom) / 2.0
            mass = _cdf((top - mean) / sigma) - _cdf((bottom - mean) / sigma)
            log_normal += -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma * math.sqrt(2.0 * math.pi) * mass)
        if self._share == 1.0:
            return log_normal
        return float(np.logaddexp(math.log(self._share) + log_normal, math.log(1.0 - self._share) + log_uniform))


def _cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _truncated_normal(
    uniform: np.ndarray, mean: np.ndarray, sigma: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Inverse CDF, dimension by dimension; ``mean`` lies inside the bounds, so the mass between them is never tiny."""
    out = np.empty_like(mean)
    for i, u in enumerate(uniform.tolist()):
        bottom, top = _cdf((low[i] - mean[i]) / sigma[i]), _cdf((high[i] - mean[i]) / sigma[i])
        p = min(max(bottom + u * (top - bottom), 1e-16), 1.0 - 1e-16)
        out[i] = mean[i] + sigma[i] * _STANDARD.inv_cdf(p)
    return np.clip(out, low, high)


def behaviors(
    environment: str,
    spec: Spec,
    *,
    quality: str | float | Sequence[float] = "mixed",
    policy: Controller | None = None,
    noise: float = 0.1,
) -> list[tuple[float, Behavior]]:
    """The behaviors of a dataset and the share of episodes that each collects.

    Args:
        environment: Gymnasium id, to find a built-in controller.
        spec: the environment's spaces.
        quality: a number, or several (equal shares), or ``"mixed"``: much that is random, noisy or the wrong way round
            and a little that is good, so that imitating all of it is bad and keeping its good parts is not.
        policy: use this in place of the built-in controller.
        noise: see `Behavior`.

    Raises:
        InputError: a quality outside [0, 1], a negative noise, or a quality above 0 without any controller.
    """
    if not noise >= 0.0:
        raise InputError(f"noise must not be negative (standard deviation in half ranges of the action), got {noise}")
    controller = policy or built_in_controller(environment)
    word = "policy" if policy is not None else "controller"
    if isinstance(quality, str):
        try:
            quality = "mixed" if quality == "mixed" else float(quality)
        except ValueError:
            raise InputError(f"quality must be 'mixed' or numbers from 0 to 1, got {quality!r}") from None
    if quality == "mixed":
        if controller is None:
            return [(1.0, Behavior("random", spec, None))]
        return [
            (0.40, Behavior("random", spec, None)),
            (0.15, Behavior(f"{word} reversed, quality 0.6", spec, controller, 0.6, noise, reverse=True)),
            (0.25, Behavior(f"{word}, quality 0.4", spec, controller, 0.4, noise)),
            (0.20, Behavior(f"{word}, quality 0.9", spec, controller, 0.9, noise)),
        ]
    levels: list[Any] = [quality] if isinstance(quality, int | float | str) else list(quality)
    if not levels or not all(isinstance(level, int | float) and 0.0 <= level <= 1.0 for level in levels):
        raise InputError(f"quality must be 'mixed' or numbers from 0 (random) to 1 (the {word}), got {quality!r}")
    if controller is None and any(level > 0.0 for level in levels):
        from lightning_offrl.envs.make import environment_name

        raise InputError(
            f"there is no built-in controller for {environment_name(environment)} (there is for "
            f"{', '.join(CONTROLLERS)}, every GridWorld and Sepsis); use quality 0 for random actions, or give an "
            "exported policy"
        )
    made = [
        Behavior(f"{word}, quality {level:g}", spec, controller, float(level), noise)
        if level > 0.0
        else Behavior("random", spec, None)
        for level in levels
    ]
    return [(1.0 / len(made), behavior) for behavior in made]
