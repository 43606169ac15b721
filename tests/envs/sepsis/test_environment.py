"""Sepsis: its tables against an independent simulation, exact values against played episodes, and what is hidden."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.collect import collect, collect_arrays
from lightning_offrl.envs.controllers import behaviors, built_in_controller
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.play import reference_scores
from lightning_offrl.envs.sepsis.environment import DISCOUNT, HORIZON, Sepsis
from lightning_offrl.envs.sepsis.patient import DIED, DISCHARGED
from lightning_offrl.envs.sepsis.registration import sepsis_id
from lightning_offrl.envs.tabular import TabularMDP
from lightning_offrl.errors import InputError
from tests.envs.sepsis.rules import next_step, numbers_of, surprise

Array = np.ndarray


@pytest.fixture(scope="module")
def ward() -> Sepsis:
    return Sepsis()


def test_the_environment_steps_as_the_tables_say() -> None:
    bed = Sepsis()
    bed.reset(seed=0)
    found = []
    for state, action in ((10, 0), (100, 3), (400, 2), (500, 7)):
        counts = np.zeros(bed.mdp.n_states)
        for _ in range(1_500):
            bed.reset(options={"state": state})
            counts[bed.step(action)[4]["state"]] += 1
        found.append(surprise(counts, 1_500 * bed.mdp.transition[state, action]))
    statistic, freedom = np.sum(found, 0)
    assert freedom > 20 and abs(statistic - freedom) < 5.0 * math.sqrt(2.0 * freedom)


@pytest.mark.parametrize(
    ("name", "size"), [("offrl/Sepsis-v0", 8), ("offrl/Sepsis-confounded-v0", 7), ("offrl/Sepsis-missing-v0", 12)]
)
@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_wrong(name: str, size: int) -> None:
    env = make_environment(name)
    check_env(env.unwrapped, skip_render_check=True)
    assert environment_spec(env)["observation_shape"] == [size] and env.spec.max_episode_steps == HORIZON


def test_episodes_repeat_with_their_seed() -> None:
    def episode(seed: int) -> list:
        env = make_environment("offrl/Sepsis-missing-v0")
        out, ended = [env.reset(seed=seed)[0].tolist()], False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(len(out) % 8)
            out.append((observation.tolist(), reward, info["state"]))
            ended = terminated or truncated
        return out

    assert episode(1) == episode(1)
    assert len({str(episode(seed)) for seed in range(5)}) == 5


def test_rendering() -> None:
    env = make_environment("offrl/Sepsis-v0", render_mode="ansi")
    env.reset(seed=3, options={"state": 0})
    assert "on no treatment" in env.render()


# -- policies and values ---------------------------------------------------------------------------------------------


def simulate(ward: Sepsis, policy: Array, episodes: int, seed: int) -> Array:
    """Discounted returns of episodes played by the independent rules, all at once."""
    rng = np.random.default_rng(seed)
    state = rng.choice(ward.mdp.n_states, size=episodes, p=ward.mdp.start)
    patients, value, running = ward.patients[state].copy(), np.zeros(episodes), np.arange(episodes)
    for t in range(HORIZON):
        chosen = (policy[state].cumsum(-1) <= rng.random((len(state), 1))).sum(-1)
        end = np.empty(len(state), dtype=np.int64)
        for action in np.unique(chosen):
            rows = chosen == action
            patients[rows], end[rows] = next_step(patients[rows], int(action), rng, 0.1)
        value[running] += DISCOUNT**t * ((end == DISCHARGED) * 1.0 - (end == DIED))
        going = end < 0
        running, patients = running[going], patients[going]
        if not len(running):
            break
        state = numbers_of(ward, patients, end[going])
    return value


def test_exact_values_against_episodes_played_by_the_rules(ward: Sepsis) -> None:
    for i, (name, policy) in enumerate({"clinician": ward.clinician(), **ward.policies()}.items()):
        values = simulate(ward, policy, 4_000, i)
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - ward.value(policy)) < 4.0 * error, name


def test_what_a_policy_on_gappy_records_is_worth() -> None:
    """`as_seen` is exact: against the environment itself, acting on what it shows."""
    bed = Sepsis(missing=0.3, hidden_diabetes=True)
    act = bed.on_record(bed.policies()["protocol"])
    returns = []
    bed.reset(seed=0)
    for _ in range(1_200):
        observation, _ = bed.reset()
        value, t, ended = 0.0, 0, False
        while not ended:
            observation, reward, ended, _, _ = bed.step(int(act(observation).argmax()))
            value, t = value + DISCOUNT**t * reward, t + 1
        returns.append(value)
    exact = bed.value(bed.as_seen(act), horizon=None)
    assert abs(np.mean(returns) - exact) < 4.0 * np.std(returns) / math.sqrt(len(returns))
    full = Sepsis()
    assert exact < full.value(full.policies()["protocol"], horizon=None) - 0.03  # gaps cost lives


def test_five_policies_from_near_to_far(ward: Sepsis) -> None:
    clinician, five = ward.clinician(), ward.policies()
    assert len(five) == 5
    best = ward.optimal()
    values = {name: ward.value(policy) for name, policy in five.items()}
    assert max(values.values()) < ward.mdp.start @ best.value
    assert values["protocol"] < ward.value(clinician) < values["best if not diabetic"]
    half = ward.mdp.n_states // 2
    for policy in five.values():
        assert (policy[:half] == policy[half:]).all()  # none looks at diabetes
        np.testing.assert_allclose(policy.sum(-1), 1.0, atol=1e-12)
    finite = ward.mdp.finite_horizon_value(clinician, 7, 0.9)[0][7] @ ward.mdp.start
    assert ward.value(clinician, horizon=7, discount=0.9) == pytest.approx(finite, abs=1e-12)
    # The horizon hides nothing: what happens after it is worth less than 0.001.
    for name, policy in five.items():
        assert abs(ward.value(policy, horizon=None) - values[name]) < 1e-3
    visits = ward.mdp.visits(clinician, HORIZON).sum(-1)

    def bits(policy: Array) -> float:
        ratio = np.where(policy > 0.0, policy / clinician, 1.0)
        return float(visits @ (policy * np.log2(ratio)).sum(-1))

    near = [bits(five[name]) for name in ("blind clinician", "careful clinician", "as if not diabetic")]
    assert max(near) < 2.0 and min(bits(five["best if not diabetic"]), bits(five["protocol"])) > 5.0


def test_the_clinician_is_the_optimum_softened(ward: Sepsis) -> None:
    best = ward.optimal()
    live = ~ward.mdp.terminal
    cold = ward.clinician(1e-6, 0.0)[live]
    assert (cold[best.policy[live] == 1.0] > 0.4).all() and ward.clinician().min() >= 0.05 / 8 - 1e-12
    gap = best.action_value[5] - best.value[5]
    want = 0.95 * np.exp(gap / 0.03) / np.exp(gap / 0.03).sum() + 0.05 / 8
    np.testing.assert_allclose(ward.clinician()[5], want, atol=1e-12)


# -- what the record lacks -------------------------------------------------------------------------------------------


def test_hidden_diabetes_is_nowhere_in_the_record(ward: Sepsis) -> None:
    bed = Sepsis(hidden_diabetes=True)
    half = bed.mdp.n_states // 2
    assert (bed.observations[:, :half] == bed.observations[:, half:]).all() and bed.confounded and not ward.confounded
    assert (bed.record[:half] == bed.record[half:]).all() and bed.record.max() == half - 1
    one_hot = Sepsis(hidden_diabetes=True, observation="one-hot")
    assert one_hot.observation_space.shape == (half,)
    assert (one_hot.state_of(one_hot.observations[0]) == np.tile(np.arange(half), 2)).all()


def test_observations_tell_the_state(ward: Sepsis) -> None:
    n = ward.mdp.n_states
    assert (ward.state_of(ward.observations[0]) == np.arange(n)).all()
    one_hot = Sepsis(observation="one-hot")
    assert (one_hot.state_of(one_hot.observations[0]) == np.arange(n)).all()
    gappy = Sepsis(missing=0.2)
    assert gappy.gap_chances.sum() == pytest.approx(1.0)
    whole = gappy.gaps.sum(-1) == 0
    assert (gappy.state_of(gappy.observations[whole][0]) == np.arange(n)).all()
    glucose = np.flatnonzero((gappy.gaps == [False, False, False, True]).all(-1))[0]
    state = int(gappy._number[0, 2, 1, 1, 4, 1, 0, 0])
    row = gappy.observations[glucose, state]
    assert row.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert gappy.state_of(row) == gappy._number[0, 2, 1, 1, 2, 1, 0, 0]


def test_gaps_are_as_frequent_as_said_and_consistent() -> None:
    bed = Sepsis(missing=0.2)
    arrays = bed.dataset(bed.clinician(), 400, seed=1)
    gaps = arrays["observations"][:, -4:]
    assert np.abs(gaps.mean(0) - 0.2).max() < 4.0 * math.sqrt(0.16 / len(gaps))
    inside = ~(arrays["terminated"] | arrays["truncated"])[:-1]
    assert (arrays["observations"][1:][inside] == arrays["next_observations"][:-1][inside]).all()
    ends = arrays["next_observations"][arrays["terminated"]]
    assert (ends[:, -4:] == 0.0).all() and (ends[:, 4:7] == -1.0).all()
    assert "behavior_log_prob" not in arrays
    told = bed.dataset(bed.clinician(), 400, seed=1, log_probabilities=True)
    want = np.log(bed.clinician()[told["infos/state"], told["actions"]])
    np.testing.assert_allclose(told["behavior_log_prob"], want, atol=1e-12)


def test_an_infinite_record_is_right_without_confounding_and_wrong_with_it(ward: Sepsis) -> None:
    """Counting transitions in a record: with all states told the process comes out, without diabetes another one."""
    open_record = ward.record_process(ward.clinician())
    hidden = Sepsis(hidden_diabetes=True, diabetes=0.5)
    record = hidden.record_process(hidden.clinician())
    assert isinstance(record, TabularMDP) and record.n_states == 306
    full = Sepsis(diabetes=0.5)
    for name, policy in ward.policies().items():
        rows = np.empty_like(policy)
        rows[ward.record] = policy
        value = open_record.start @ open_record.policy_value(rows, DISCOUNT)[0]
        assert value == pytest.approx(ward.value(policy, horizon=None), abs=1e-9), name
        seen = record.start @ record.policy_value(hidden.policies()[name][hidden._first], DISCOUNT)[0]
        assert seen - full.value(full.policies()[name], horizon=None) > 0.02, name
    arrays = hidden.dataset(hidden.clinician(), 4_000, seed=3)
    number, action = hidden.record[arrays["infos/state"]], arrays["actions"]
    following = hidden.record[arrays["infos/next_state"]]
    for cell in np.unique(number * 8 + action, return_counts=True)[1].argsort()[-5:]:
        key = np.unique(number * 8 + action)[cell]
        rows = number * 8 + action == key
        share = np.bincount(following[rows], minlength=306) / rows.sum()
        expected = record.transition[key // 8, key % 8]
        assert (np.abs(share - expected) < 5.0 * np.sqrt(np.maximum(expected, 1e-3) / rows.sum())).all()


# -- datasets --------------------------------------------------------------------------------------------------------


def test_a_dataset_is_a_source(ward: Sepsis) -> None:
    arrays = ward.dataset(ward.clinician(), 300, seed=2)
    episodes = load(arrays)
    assert episodes.n_episodes == 300 and not episodes.notes
    assert set(episodes.returns().tolist()) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(
        episodes.data["behavior_log_prob"].numpy(),
        np.log(ward.clinician()[arrays["infos/state"], arrays["actions"]]),
        atol=1e-6,
    )
    cut = load(ward.dataset(ward.clinician(), 50, horizon=3))
    assert int(cut.length.max()) == 3 and bool(cut.data["next", "truncated"].any())


def test_collected_probabilities_are_those_of_the_behavior_policy() -> None:
    arrays = collect_arrays("offrl/Sepsis-v0", episodes=20, quality=0.6)
    ward = make_environment("offrl/Sepsis-v0").unwrapped
    policy = ward.mdp.behavior_policy(0.6)
    seen = ward.state_of(arrays["observations"])
    np.testing.assert_allclose(arrays["behavior_log_prob"], np.log(policy[seen, arrays["actions"]]), atol=1e-12)
    low, high = arrays["references"]
    assert low == ward.mdp.expected_return(ward.mdp.uniform(), HORIZON) and high > 0.3
    controller = built_in_controller("offrl/Sepsis-v0")
    assert (
        controller is not None and (controller(ward.observations[0]) == ward.mdp.optimal(0.99).policy.argmax(-1)).all()
    )


def test_the_clinician_at_the_bedside_sees_what_the_record_hides() -> None:
    """With quality 1 every action is the best one for the true state, which the record does not tell."""
    env = make_environment("offrl/Sepsis-confounded-v0")
    bed, name = env.unwrapped, "offrl/Sepsis-confounded-v0"
    best = bed.mdp.optimal(0.99).policy.argmax(-1)
    arrays = collect_arrays(name, episodes=60, quality=1.0)
    assert "behavior_log_prob" not in arrays
    record, action = bed.state_of(arrays["observations"]), arrays["actions"]
    half = bed.mdp.n_states // 2
    assert ((action == best[record]) | (action == best[record + half])).all()
    assert (action != best[record]).any() and (action != best[record + half]).any()
    random = collect_arrays(name, episodes=5, quality=0.0)
    assert np.allclose(random["behavior_log_prob"], -math.log(8.0))  # nothing hidden in a coin
    # A policy that is given acts on the record, so its probabilities are logged.
    assert "behavior_log_prob" in collect_arrays(name, episodes=3, quality=0.5, policy=lambda observation: 0)
    assert reference_scores(name, env, environment_spec(env)) == pytest.approx(arrays["references"])
    assert [b.reverse for _, b in behaviors(name, environment_spec(env))] == [False, True, False, False]


def test_the_command_line_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from lightning_offrl.cli import main

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert not main(["collect", "offrl/Sepsis-confounded-v0", "sepsis/few-v0", "--quality", "0.9", "--episodes", "6"])
    said = capsys.readouterr().out
    assert "controller, quality 0.9" in said and "no behavior probabilities were logged" in said
    assert "random -0.452 = score 0, controller 0.325" in said
    episodes = load("sepsis/few-v0", cache_dir=tmp_path / "cache")
    assert episodes.n_episodes == 6 and "behavior_log_prob" not in episodes.data.keys()


def test_a_bed_of_ones_own_survives_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    name = sepsis_id(missing=0.5, diabetes=0.7, max_episode_steps=9)
    assert json.loads(name)["kwargs"] == {"missing": 0.5, "diabetes": 0.7}
    done = collect(name, "test/own-v0", episodes=4, quality=0.8)
    again = make_environment(load("test/own-v0", cache_dir=tmp_path / "cache").environment)
    assert again.spec.max_episode_steps == 9 and again.unwrapped.diabetes == 0.7 and done.lengths.max() <= 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"missing": 1.5}, "missing is a probability"),
        ({"diabetes": -0.1}, "diabetes is a probability"),
        ({"transfer": 2.0}, "transfer is a probability"),
        ({"observation": "pixels"}, "'features' or 'one-hot', got 'pixels'"),
        ({"observation": "one-hot", "missing": 0.1}, "no place for what is missing"),
        ({"render_mode": "human"}, "got 'human'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sepsis(**arguments)


def test_other_bad_input(ward: Sepsis) -> None:
    bed = Sepsis()
    with pytest.raises(InputError, match="reset the environment before the first step"):
        bed.step(0)
    bed.reset(seed=0)
    with pytest.raises(InputError, match="integers from 0 to 7, got 8"):
        bed.step(8)
    with pytest.raises(InputError, match="no place to start"):
        bed.reset(options={"state": 305})
    with pytest.raises(InputError, match="temperature > 0"):
        ward.clinician(0.0)
    with pytest.raises(InputError, match="missing measurements"):
        Sepsis(missing=0.1).record_process(ward.clinician())
