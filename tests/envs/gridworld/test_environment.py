"""GridWorld: what its cells do, that Gymnasium's side and the exact side are one process, and its errors."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lightning_offrl.data.describe import describe
from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.collect import collect, collect_arrays
from lightning_offrl.envs.controllers import behaviors
from lightning_offrl.envs.gridworld.environment import ACTIONS, HORIZON, GridWorld, grid_id
from lightning_offrl.envs.gridworld.layouts import LAYOUTS, STITCH_POLICIES
from lightning_offrl.envs.make import environment_name, environment_spec, make_environment
from lightning_offrl.envs.play import play, reference_scores
from lightning_offrl.envs.rollout import evaluate
from lightning_offrl.errors import InputError

UP, LEFT, RIGHT, DOWN = range(4)
SMALL = """
    S>G
    .#C
"""


def chances(world: GridWorld, row: int, column: int, action: int) -> dict[tuple[int, int], float]:
    """Where a step from a cell leads."""
    line = world.mdp.transition[world.state(row, column), action]
    return {tuple(world.cells[s].tolist()): float(line[s]) for s in np.flatnonzero(line)}


def test_steps_walls_and_edges() -> None:
    world = GridWorld(SMALL, wind=0.0)
    assert world.mdp.n_states == 5 and ACTIONS == ("up", "left", "right", "down")
    assert chances(world, 0, 0, UP) == chances(world, 0, 0, LEFT) == {(0, 0): 1.0}
    assert chances(world, 0, 0, RIGHT) == {(0, 1): 1.0}
    assert chances(world, 0, 0, DOWN) == {(1, 0): 1.0}
    assert chances(world, 0, 1, DOWN) == {(0, 1): 1.0}  # the wall
    assert chances(world, 1, 0, RIGHT) == {(1, 0): 1.0}
    assert chances(world, 0, 2, DOWN) == {(0, 2): 1.0}  # the end


def test_slip_goes_to_the_sides_and_wind_takes_over() -> None:
    world = GridWorld(SMALL, slip=0.2, wind=0.0)
    assert chances(world, 0, 0, RIGHT) == pytest.approx({(0, 1): 0.8, (0, 0): 0.1, (1, 0): 0.1})
    assert chances(world, 0, 0, UP) == pytest.approx({(0, 0): 0.9, (0, 1): 0.1})
    windy = GridWorld(SMALL, slip=0.2, wind=0.5)
    assert chances(windy, 0, 0, RIGHT) == pytest.approx({(0, 1): 0.8, (0, 0): 0.1, (1, 0): 0.1})
    assert chances(windy, 0, 1, LEFT) == pytest.approx({(0, 2): 0.5, (0, 0): 0.4, (0, 1): 0.1})
    assert chances(GridWorld(SMALL, wind=1.0), 0, 1, LEFT) == {(0, 2): 1.0}


def test_rewards() -> None:
    world = GridWorld(SMALL, step_reward=-2.0, goal_reward=10.0, cliff_reward=-50.0, wind=0.0)
    assert world.mdp.reward[world.state(0, 0)].tolist() == [-2.0] * 4
    assert world.mdp.reward[world.state(0, 1), RIGHT] == 8.0
    assert world.mdp.reward[world.state(0, 2)].tolist() == [0.0] * 4
    edge = GridWorld("SC\n.G")
    assert edge.mdp.reward[0, RIGHT] == -101.0
    edge.reset()
    _, reward, terminated, truncated, _ = edge.step(RIGHT)
    assert (reward, terminated, truncated) == (-101.0, True, False)


def test_opposite_actions_are_mirror_images() -> None:
    """So a reversed behavior (n - 1 - a) walks the other way."""
    world = GridWorld("...\n.S.\n..G")
    for action in range(4):
        (there,), (back,) = chances(world, 1, 1, action), chances(world, 1, 1, 3 - action)
        assert np.add(there, back).tolist() == [2, 2]


@pytest.mark.parametrize("observation", ["one-hot", "coordinates"])
@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_wrong(observation: str) -> None:
    env = gymnasium.make("offrl/GridWorld-windy-v0", observation=observation)
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", ["offrl/GridWorld-v0", *(f"offrl/GridWorld-{layout}-v0" for layout in LAYOUTS)])
def test_registered_worlds_are_truncated_and_can_be_solved(name: str) -> None:
    env = make_environment(name)
    world = env.unwrapped
    assert env.spec.max_episode_steps == HORIZON
    assert environment_spec(env)["observation_shape"] == [world.mdp.n_states]
    best = world.mdp.optimal(0.99)
    assert world.mdp.expected_return(best.policy, HORIZON) > -HORIZON / 2
    env.reset(seed=0)
    step, truncated, terminated = 0, False, False
    while not (truncated or terminated):
        _, _, terminated, truncated, _ = env.step(UP)
        step += 1
    assert (step, terminated) == (HORIZON, False)


@pytest.mark.slow
def test_the_id_is_known_without_importing_the_module() -> None:
    code = "from lightning_offrl.envs.make import make_environment\n"
    code += "print(make_environment('offrl/GridWorld-v0').unwrapped.grid.size)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "169\n"


def test_episodes_repeat_with_their_seed() -> None:
    def episode(seed: int) -> list[tuple]:
        env = make_environment("offrl/GridWorld-windy-v0")
        out = [env.reset(seed=seed)[1]["state"]]
        return out + [env.step(a)[4]["state"] for a in [RIGHT] * 8 + [DOWN, UP] * 5]

    assert episode(1) == episode(1)
    assert len({tuple(episode(seed)) for seed in range(5)}) > 1


def test_starts_are_drawn_evenly_or_chosen() -> None:
    world = GridWorld("S.S\n.G.\nS.S")
    assert world.mdp.start.sum() == 1.0 and set(world.mdp.start.tolist()) == {0.0, 0.25}
    seen = [world.reset(seed=0)[1]["state"]] + [world.reset()[1]["state"] for _ in range(400)]
    counts = np.bincount(seen, minlength=9)
    assert (counts[[0, 2, 6, 8]] > 60).all() and counts.sum() == counts[[0, 2, 6, 8]].sum()
    observation, info = world.reset(options={"state": 5})
    assert info["state"] == 5 and observation.argmax() == 5
    for state in (4, 9, -1):
        with pytest.raises(InputError, match="no place to start"):
            world.reset(options={"state": state})


def test_steps_follow_the_transition_matrix() -> None:
    world = GridWorld(SMALL, slip=0.2, wind=0.5)
    state, n = world.state(0, 1), 3000
    world.reset(seed=0)
    seen = np.zeros(world.mdp.n_states)
    for _ in range(n):
        world.reset(options={"state": state})
        seen[world.step(LEFT)[4]["state"]] += 1.0 / n
    p = world.mdp.transition[state, LEFT]
    assert (np.abs(seen - p) <= 4.0 * np.sqrt(p * (1.0 - p) / n)).all()


def test_played_episodes_meet_the_exact_return() -> None:
    name = grid_id("cliff", slip=0.1, max_episode_steps=40)
    env = make_environment(name)
    mdp = env.unwrapped.mdp
    ((_, behavior),) = behaviors(name, environment_spec(env), quality=0.6)
    returns = np.array([play(env, behavior, seed=i).rewards.sum() for i in range(300)])
    exact = mdp.expected_return(mdp.behavior_policy(0.6), 40)
    assert abs(returns.mean() - exact) < 4.0 * returns.std(ddof=1) / math.sqrt(300)


def test_observations_tell_the_state() -> None:
    for kind in ("one-hot", "coordinates"):
        world = GridWorld("four-rooms", observation=kind)
        n = world.mdp.n_states
        assert (world.state_of(world.observations) == np.arange(n)).all()
        assert world.state_of(world.observations[:6].reshape(2, 3, -1)).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert world.controller()(world.observations[0]) == world.mdp.optimal(0.99).policy[0].argmax()
    corners = GridWorld("SG", observation="coordinates")
    assert corners.observations.tolist() == [[-1.0, -1.0], [-1.0, 1.0]]
    assert corners.state_of(corners.observations).tolist() == [0, 1]
    assert GridWorld("SG").state_of(np.eye(2)).tolist() == [0, 1]


def test_collected_probabilities_are_those_of_the_behavior_policy() -> None:
    arrays = collect_arrays("offrl/GridWorld-v0", episodes=4, quality=0.3)
    world = make_environment("offrl/GridWorld-v0").unwrapped
    policy = world.mdp.behavior_policy(0.3)
    states = world.state_of(arrays["observations"])
    np.testing.assert_allclose(arrays["behavior_log_prob"], np.log(policy[states, arrays["actions"]]), atol=1e-12)
    low, high = arrays["references"]
    assert high == -20.0 and low == world.mdp.expected_return(world.mdp.uniform(), HORIZON)
    episodes = load(arrays)
    assert episodes.n_episodes == 4 and episodes.environment == "offrl/GridWorld-v0"


def test_no_references_where_all_policies_are_equal() -> None:
    name = grid_id("SG", step_reward=0.0)
    env = make_environment(name)
    assert reference_scores(name, env, environment_spec(env)) is None


def test_a_world_of_ones_own_survives_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = grid_id("S..\n.^G", wind=0.25, max_episode_steps=15)
    done = collect(name, "test/own-v0", episodes=12, quality="mixed")
    assert "controller reversed, quality 0.6" in done.names and done.lengths.max() <= 15
    episodes = load("test/own-v0", cache_dir=tmp_path / "cache")
    again = make_environment(episodes.environment)
    assert again.spec.max_episode_steps == 15
    np.testing.assert_array_equal(again.unwrapped.mdp.transition, make_environment(name).unwrapped.mdp.transition)
    assert minari.load_dataset("test/own-v0").spec.action_space.n == 4
    seen = evaluate(lambda o: again.unwrapped.controller()(o.numpy()), episodes.environment, episodes=3)
    assert seen.terminated.all()


def test_the_command_line_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from lightning_offrl.cli import main

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    words = ["collect", "offrl/GridWorld-corridor-v0", "grid/mixed-v0", "--quality", "0.3", "--episodes", "5"]
    assert not main(words)
    said = capsys.readouterr().out
    assert "controller, quality 0.3" in said and "controller -7.0 = score 100" in said


def test_a_dataset_drawn_at_once_is_a_source() -> None:
    world = GridWorld("stitch")
    policies = [world.policy_from_text(text) for text in STITCH_POLICIES]
    for policy in policies:
        arrays = world.dataset(policy, 3)
        episodes = load(arrays)
        assert episodes.returns().tolist() == [-16.0] * 3 and not episodes.notes
        assert episodes.data["behavior_log_prob"].tolist() == [0.0] * 48
        assert (arrays["observations"].argmax(-1) == arrays["infos/state"]).all()
    # What is best in both together is better than either.
    seen = np.maximum(*[world.mdp.visits(policy, 50) > 0 for policy in policies])
    allowed = np.where(seen, world.mdp.optimal(0.99).action_value, -np.inf)
    stitched = world.mdp.deterministic(allowed.argmax(-1))
    assert world.mdp.expected_return(stitched, 50) == -10.0
    mixed = world.dataset(world.mdp.uniform(), 5, horizon=7, seed=2)
    assert load(mixed).data["next", "truncated"].sum() == 5


@pytest.mark.parametrize(
    ("arguments", "horizon", "short"),
    [
        ({}, 100, "offrl/GridWorld-v0"),
        ({"layout": "cliff"}, 100, "offrl/GridWorld-cliff-v0"),
        ({"layout": "cliff", "cliff_reward": -100.0}, 100, "offrl/GridWorld-cliff-v0"),
        ({"layout": "cliff", "cliff_reward": -20.0, "slip": 0.1}, 100, "GridWorld-cliff (cliff reward -20, slip 0.1)"),
        ({"layout": "windy", "observation": "coordinates"}, 40, "GridWorld-windy (coordinates, 40 steps)"),
        ({"layout": "S..\n.^G"}, 9, "GridWorld of 2 x 3 cells (9 steps)"),
    ],
)
def test_a_dataset_names_the_environment_that_it_came_from(arguments: dict, horizon: int, short: str) -> None:
    world = GridWorld(**arguments)
    episodes = load(world.dataset(world.mdp.uniform(), 3, horizon=horizon))
    again = make_environment(episodes.environment)
    assert again.spec.max_episode_steps == horizon
    for name in ("transition", "step_reward"):
        np.testing.assert_array_equal(getattr(again.unwrapped.mdp, name), getattr(world.mdp, name))
    np.testing.assert_array_equal(again.unwrapped.observations, world.observations)
    assert environment_name(episodes.environment) == short
    low, high = episodes.references
    assert (low, high) == reference_scores(episodes.environment, again, environment_spec(again))
    assert low == pytest.approx(world.mdp.expected_return(world.mdp.uniform(), horizon)) and low < high


def test_short_names_are_what_people_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = grid_id("S..\n.^G", wind=0.25, max_episode_steps=15)
    arrays = collect_arrays(name, episodes=3)
    done = collect(name, "test/named-v0", episodes=3)
    shown = describe("test/named-v0")
    for text in (
        arrays["name"],
        done.table,
        shown,
        minari.load_dataset("test/named-v0").storage.metadata["description"],
    ):
        assert "GridWorld of 2 x 3 cells (wind 0.25, 15 steps)" in text and "entry_point" not in text


def test_policies_as_text() -> None:
    world = GridWorld("..G\nS#.")
    policy = world.policy_from_text(">>.\n^#^")
    arrows = {">": 2, "^": 0}
    for sign, row, column in ((">", 0, 0), (">", 0, 1), ("^", 1, 0), ("^", 1, 2)):
        assert (
            policy[world.state(row, column)].argmax() == arrows[sign] and policy[world.state(row, column)].max() == 1.0
        )
    assert policy[world.state(0, 2)].tolist() == [0.25] * 4
    with pytest.raises(InputError, match="the drawing has 1 rows of 3, the grid 2 rows of 3"):
        world.policy_from_text(">>.")


def test_other_bad_input() -> None:
    for arguments, message in (
        ({"slip": 1.5}, "slip is a probability"),
        ({"wind": -0.1}, "wind is a probability"),
        ({"observation": "pixels"}, "'one-hot' or 'coordinates', got 'pixels'"),
        ({"render_mode": "human"}, "got 'human'"),
        ({"step_reward": math.nan}, "finite numbers"),
    ):
        with pytest.raises(InputError, match=message):
            GridWorld(**arguments)
    world = GridWorld("corridor")
    with pytest.raises(InputError, match="reset the environment before the first step"):
        world.step(0)
    world.reset(seed=0)
    with pytest.raises(InputError, match="integers from 0 to 3, got 4"):
        world.step(4)
    with pytest.raises(InputError, match="there is no state at row 0, column 9"):
        world.state(0, 9)
    with pytest.raises(InputError, match="no layout 'nowhere'"):
        grid_id("nowhere")
    with pytest.raises(InputError, match="nearest: offrl/GridWorld-"):
        make_environment("offrl/GridWrld-v0")
