"""Legal actions in environments: behaviors, collecting, evaluating and filming never do what is forbidden."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.collect import collect, collect_arrays
from lightning_offrl.envs.action_masks import decide, mask_of, takes_mask
from lightning_offrl.envs.controllers import Behavior
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.rollout import evaluate
from lightning_offrl.envs.video import record
from lightning_offrl.errors import InputError
from tests.envs.forbidding import ACTIONS, DICT, INFO, STATES, IllegalAction, legal

SPEC = {"observation_shape": [STATES], "action_kind": "discrete", "action_size": ACTIONS}
MASK = np.array([False, True, True, False, True])
both = pytest.mark.parametrize("environment", [INFO, DICT])


def illegal_on_purpose(batch: Any, action_mask: torch.Tensor | None = None) -> torch.Tensor:
    """The first action that is forbidden, unless told what is legal: then the last that is not."""
    ring = batch["ring"] if not isinstance(batch, torch.Tensor) else batch
    if action_mask is None:
        return (-ring.argmax(-1)) % 3
    assert action_mask.shape == (*ring.shape[:-1], ACTIONS) and action_mask.dtype == torch.bool
    return (action_mask.long() * torch.arange(1, ACTIONS + 1)).argmax(-1)


@both
def test_the_mask_is_passed_where_a_policy_takes_one(environment: str) -> None:
    seen = evaluate(illegal_on_purpose, environment, episodes=5)
    assert seen.lengths.sum() > 20
    stacked = evaluate(illegal_on_purpose, environment, episodes=5, lead=(3,))  # some seeds end before others
    assert (stacked.returns == seen.returns).all()
    with pytest.raises(IllegalAction):
        evaluate(lambda batch: illegal_on_purpose(batch), environment, episodes=5)


@both
def test_the_mask_is_no_part_of_the_observation(environment: str) -> None:
    spec = environment_spec(make_environment(environment))
    assert spec["observation_shape"] == ([STATES] if environment == INFO else {"ring": [STATES]})


def test_probabilities_among_legal_actions_by_hand() -> None:
    """Three legal actions, quality 0.5: 1/2 + 1/6 for the intended one; if that is illegal, 1/3 each."""
    wise = Behavior("x", SPEC, lambda observation: 1, quality=0.5)
    got = [math.exp(wise.log_prob(None, action, MASK)) for action in range(ACTIONS)]
    assert got == pytest.approx([0.0, 0.5 + 0.5 / 3, 0.5 / 3, 0.0, 0.5 / 3])
    blind = Behavior("x", SPEC, lambda observation: 3, quality=0.5)
    assert [math.exp(blind.log_prob(None, a, MASK)) for a in range(ACTIONS)] == pytest.approx(
        [0, 1 / 3, 1 / 3, 0, 1 / 3]
    )
    assert math.exp(blind.log_prob(None, 3)) == pytest.approx(0.5 + 0.1), "without a mask everything is legal"


@pytest.mark.parametrize("asked", [1, 3])
def test_samples_have_these_probabilities(asked: int) -> None:
    """6,000 draws within four standard errors, the logged density that of the draw."""
    behavior, rng = Behavior("x", SPEC, lambda observation: asked, quality=0.5), np.random.default_rng(0)
    drawn = [behavior.sample(None, rng, MASK) for _ in range(6_000)]
    counts = np.bincount([action for action, _ in drawn], minlength=ACTIONS)
    for action, count in enumerate(counts):
        p = math.exp(behavior.log_prob(None, action, MASK))
        assert abs(count / 6_000 - p) <= 4 * math.sqrt(p * (1 - p) / 6_000)
    assert all(log_prob == behavior.log_prob(None, action, MASK) for action, log_prob in drawn)


def test_a_controller_that_takes_a_mask_is_told() -> None:
    told = Behavior("x", SPEC, lambda observation, action_mask: int(np.flatnonzero(action_mask)[-1]), quality=1.0)
    assert told.sample(None, np.random.default_rng(0), MASK) == (4, 0.0)


@both
def test_collected_masks_are_those_of_the_environment(environment: str) -> None:
    """Random behavior raises nothing; every mask is recomputed from the observation."""
    arrays = collect_arrays(environment, episodes=20, quality=0)
    ring, after = (arrays[key] for key in ("observations", "next_observations"))
    ring, after = (x["ring"] if isinstance(x, dict) else x for x in (ring, after))
    over = arrays["terminated"]
    for i in range(len(over)):
        assert (arrays["action_mask"][i] == legal(int(ring[i].argmax()))).all()
        assert (arrays["next_action_mask"][i] == (legal(int(after[i].argmax())) & ~over[i])).all()
    assert np.allclose(arrays["behavior_log_prob"], -np.log(arrays["action_mask"].sum(1)))
    assert over.any() and arrays["truncated"].any()


@both
def test_a_collected_dataset_holds_the_masks(environment: str) -> None:
    collect(environment, f"masks/{environment[12:-3].lower()}-v0", episodes=6, quality=0, overwrite=True)
    stored = load(f"masks/{environment[12:-3].lower()}-v0")
    direct = load(collect_arrays(environment, episodes=6, quality=0))
    for key in ("action_mask", ("next", "action_mask"), "action", ("next", "reward")):
        assert torch.equal(stored.data[key], direct.data[key]), key
    assert stored.spec == direct.spec and stored.fingerprint == direct.fingerprint


def test_the_film_is_of_legal_actions(tmp_path: Path) -> None:
    def controller(observation: Any, action_mask: Any = None) -> int:
        return int(np.flatnonzero(action_mask)[0])

    path, _, frames = record(controller, INFO, tmp_path / "x.gif")
    assert path.exists() and frames > 2


def test_what_counts_as_a_mask() -> None:
    info = {"action_mask": np.array([1, 0, 0, 1, 1], dtype=np.int8)}
    assert mask_of(np.zeros(8), info, SPEC).tolist() == [True, False, False, True, True]
    assert mask_of(np.zeros(8), {}, SPEC) is None and mask_of(np.zeros(8), info, {**SPEC, "action_kind": "box"}) is None
    nested = {**SPEC, "observation_shape": {"ring": [8]}}
    assert mask_of({"ring": 0, **info}, {}, nested).sum() == 3
    seen = {**SPEC, "observation_shape": {"ring": [8], "action_mask": [5]}}
    assert mask_of({"ring": 0, **info}, {}, seen) is None, "this policy was trained to see it"
    with pytest.raises(InputError, match=r"action_mask of shape \[2\] for 5 actions"):
        mask_of(np.zeros(8), {"action_mask": [1, 1]}, SPEC)


def test_who_takes_a_mask() -> None:
    assert takes_mask(illegal_on_purpose) and not takes_mask(lambda x: x) and not takes_mask(dict.fromkeys)
    assert decide(lambda x: x + 1, 1, MASK) == 2


def test_taxi() -> None:
    """Gymnasium's own example gives its mask in the info, of reset and of every step."""
    name = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
    env, seen = make_environment(name), []
    observation, info = env.reset(seed=0)
    for _ in range(20):
        mask = mask_of(observation, info, environment_spec(env))
        assert mask is not None and mask.tolist() == env.unwrapped.action_mask(observation).astype(bool).tolist()
        seen.append(int(mask.sum()))
        observation, _, _, _, info = env.step(int(np.flatnonzero(mask)[0]))
    assert min(seen) < 6
