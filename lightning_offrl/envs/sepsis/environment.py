"""Sepsis: a simulated intensive care bed, where the value of every policy is known exactly.

After the simulator of Oberst and Sontag, 2019 (https://arxiv.org/abs/1905.05824). A patient is four vital
signs, three treatments, and whether they are diabetic, which never changes. At every step the clinician chooses which
treatments are on. Two abnormal vital signs can be lived with; three are death (reward -1). All normal without any
treatment is discharge (reward +1). Who is neither is moved to another ward with probability ``transfer``. All else
earns 0.

    heart rate      low  normal  high             antibiotics   bring high heart rate and high pressure down
    blood pressure  low  normal  high             vasopressors  raise the pressure; in diabetics more, and the glucose
    oxygen          low  normal                   ventilation   brings low oxygen up
    glucose         lowest  low  normal  high  highest

Action ``a`` is ``antibiotics + 2 vasopressors + 4 ventilation``, so ``7 - a`` is its opposite. Probabilities are those
of the authors' code (clinicalml/gumbel-max-scm, sepsisSimDiabetes/MDP.py). Differences: there, the glucose of
non-diabetics goes to "low" where it should rise (a slip; here it rises); there nobody is transferred (``transfer=0``),
but many stays outlast 20 steps, where they are cut (here a horizon hides nothing); here all deaths are one state, and
so are all discharges.

**What the record may lack.** The clinician stands at the bedside and sees the patient. With ``hidden_diabetes`` the
record does not say who is diabetic; with ``missing`` > 0 each vital sign is missing from it with that probability,
independently at every step (and the record says which). Either way the clinician's choice depends on something that
the record lacks: the data are *confounded*.

**Where that shows, and where it cannot.** The clinician's own probabilities, given all that was seen at the bedside,
make importance sampling right in spite of it; what is learned from the record (fitted Q, models) is off, and the two
disagree. No hospital has these probabilities, so a confounded log is without them unless they are asked for. Estimates
whose probabilities were *fitted* to the record may all be off by the same amount, agree, and have small intervals.
Nothing in the record tells: worlds in which a policy's value differs can leave the same record (Namkoong et al., 2020,
https://arxiv.org/abs/2003.05623). That the past helps to predict the next action or vital sign is a hint (the mean
weight of an episode is then not 1), but only for a confounder that lasts, as diabetes does, and a poor fit looks the
same. How strong a hidden cause would have to be is asked by `lightning_offrl.ope.weighting.sensitivity`.

    ward = make_environment("offrl/Sepsis-v0").unwrapped          or Sepsis(hidden_diabetes=True)
    ward.value(ward.policies()["protocol"])                       exact; all else that is exact is in ``ward.mdp``
    ward.dataset(ward.clinician(), 5000)                          a source for a data module

Importing this package registers ``offrl/Sepsis-v0``, ``offrl/Sepsis-confounded-v0`` (diabetes hidden) and
``offrl/Sepsis-missing-v0`` (a fifth of the measurements missing), cut after 50 steps (which 1 in 2,000 reaches).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_offrl.envs.sepsis.patient import (
    ENDS,
    NORMAL,
    REWARD,
    TRANSFERRED,
    describe,
    kernels,
    process,
    solution,
    states,
    treatments_of,
)
from lightning_offrl.envs.tabular import Optimal, TabularMDP
from lightning_offrl.errors import InputError

Array = np.ndarray

HORIZON = 50
"""Steps after which the registered environments truncate; a bare `Sepsis` never does."""
DISCOUNT = 0.99
TEMPERATURE, SLIP = 0.03, 0.05
"""How the clinician errs. 8 % of the patients die, 27 % are discharged; under the best policy 1 % and 33 %."""

_HALF_RANGE = np.array([1.0, 1.0, 1.0, 2.0])  # levels from normal to an end of the scale


class Sepsis(gymnasium.Env):
    """One bed; the module's docstring says what happens in it.

    Args:
        hidden_diabetes: the record does not say who is diabetic.
        missing: probability that a vital sign is missing from the record, for each sign and step.
        observation: ``"features"``, float32: vital signs (0 normal, -1 lowest, 1 highest; 0 where missing), treatments
            (1 on), diabetes (unless hidden), and if ``missing`` > 0 four numbers that are 1 where a sign is missing;
            after the end, treatments are -1 and the heart rate is -1 (died), 0 (discharged) or 1 (transferred). Or
            ``"one-hot"``: the number of what is recorded (only if nothing is missing).
        diabetes: share of diabetics.
        transfer: probability of being moved to another ward after a step that is no end.
        render_mode: ``"ansi"`` or None.

    Raises:
        InputError: a probability outside [0, 1], an unknown observation or render mode.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        *,
        hidden_diabetes: bool = False,
        missing: float = 0.0,
        observation: str = "features",
        diabetes: float = 0.2,
        transfer: float = 0.1,
        render_mode: str | None = None,
    ):
        for name, value in (("missing", missing), ("diabetes", diabetes), ("transfer", transfer)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name} is a probability from 0 to 1, got {value}")
        if observation not in ("features", "one-hot"):
            raise InputError(f"observation must be 'features' or 'one-hot', got {observation!r}")
        if observation == "one-hot" and missing > 0.0:
            raise InputError("a one-hot observation has no place for what is missing; use observation='features'")
        if render_mode not in (None, "ansi"):
            raise InputError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        self.transfer = float(transfer)
        self.hidden_diabetes, self.missing, self.diabetes = hidden_diabetes, float(missing), float(diabetes)
        self.observation, self.render_mode = observation, render_mode
        self.patients, self._number = states()
        """``[n_states, 8]`` int64: diabetic, the level of each vital sign, each treatment (1 on)."""
        self._ends = np.flatnonzero(self.patients[:, -1] < 0).reshape(2, len(ENDS))
        self.mdp = process(self.diabetes, float(transfer))
        """The same process for exact computation. Its states know who is diabetic."""
        recorded = self.patients[:, 1:] if hidden_diabetes else self.patients
        rows, first, record = np.unique(recorded, axis=0, return_index=True, return_inverse=True)
        self.record = record.reshape(-1)
        """``[n_states]`` int64, the number of what is recorded of each state; states of one number look alike."""
        self._first = first
        self.gaps = np.array(list(product((False, True), repeat=4)) if missing > 0.0 else [(False,) * 4])
        """``[P, 4]`` bool, which vital signs are missing: all patterns that occur."""
        self.gap_chances = np.where(self.gaps, self.missing, 1.0 - self.missing).prod(-1)
        """``[P]``, the probability of each pattern."""
        self.observations = np.eye(len(rows), dtype=np.float32)[None, self.record]
        """``[P, n_states, D]``, what is observed of each state under each pattern of gaps."""
        if observation == "features":
            self.observations = self._features()
        low = 0.0 if observation == "one-hot" else -1.0
        self.observation_space = spaces.Box(low, 1.0, self.observations.shape[2:], np.float32)
        self.action_space = spaces.Discrete(self.mdp.n_actions)
        self._state: int | None = None
        self._shown: int | None = None

    @property
    def confounded(self) -> bool:
        """Whether the clinician sees what the record lacks."""
        return self.hidden_diabetes or self.missing > 0.0

    # -- Gymnasium ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Admit a patient; ``options={"state": s}`` admits one in that state. ``info["state"]`` is the state."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        if given is None:
            self._state = int(self.np_random.choice(self.mdp.n_states, p=self.mdp.start))
        elif 0 <= given < self.mdp.n_states and not self.mdp.terminal[given]:
            self._state = int(given)
        else:
            raise InputError(f"state {given} is no place to start: there are {self.mdp.n_states}, some of them the end")
        return self._observe(self._state), {"state": self._state}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, each vital sign drawn on its own; truncation is left to Gymnasium's ``TimeLimit``."""
        if self._state is None:
            raise InputError("reset the environment before the first step, and after the end of an episode")
        if not self.action_space.contains(action):
            raise InputError(f"actions are integers from 0 to {self.mdp.n_actions - 1}, got {action!r}")
        diabetic, *levels = self.patients[self._state].tolist()
        treated = treatments_of(int(action))
        vitals = [
            int((kernel[level].cumsum() <= uniform).sum())
            for kernel, level, uniform in zip(
                kernels(diabetic, tuple(levels[4:]), treated), levels[:4], self.np_random.random(4), strict=True
            )
        ]
        following = int(self._number[(diabetic, *vitals, *treated)])
        moved = self.np_random.random() < self.transfer
        if moved and not self.mdp.terminal[following]:
            following = self._ends[diabetic, TRANSFERRED]
        terminated = bool(self.mdp.terminal[following])
        reward = REWARD[self.patients[following, 1]] if terminated else 0.0
        observed = self._observe(following)
        self._state = None if terminated else following
        return observed, reward, terminated, False, {"state": following}

    def render(self) -> str | None:
        """The patient in words."""
        return None if self.render_mode != "ansi" or self._shown is None else describe(self.patients[self._shown])

    def _observe(self, state: int) -> Array:
        self._shown = state
        pattern = 0 if len(self.gaps) == 1 else int(self.np_random.choice(len(self.gaps), p=self.gap_chances))
        return self.observations[pattern, state].copy()

    # -- states ------------------------------------------------------------------------------------------------------

    def state_of(self, observation: Any) -> Array:
        """Observations ``[..., D]`` to states, int64 ``[...]``.

        A vital sign that is missing is taken as normal, and a patient whose diabetes is hidden as not diabetic.
        """
        observation = np.asarray(observation, dtype=np.float64)
        if self.observation == "one-hot":
            return self._first[observation.argmax(-1)]
        vitals = np.rint(observation[..., :4] * _HALF_RANGE + np.array(NORMAL)).astype(np.int64)
        treated = np.rint(observation[..., 4:7]).astype(np.int64)
        flag = 0 * treated[..., 0] if self.hidden_diabetes else np.rint(observation[..., 7]).astype(np.int64)
        number = self._number[(flag, *np.moveaxis(vitals, -1, 0), *np.moveaxis(np.maximum(treated, 0), -1, 0))]
        return np.where(treated[..., 0] < 0, self._ends[flag, vitals[..., 0]], number)

    # -- policies ----------------------------------------------------------------------------------------------------

    def optimal(self, discount: float = DISCOUNT) -> Optimal:
        """The optimal policy of one who knows the whole state: `TabularMDP.optimal`, computed once."""
        return solution(self.diabetes, self.transfer, discount)

    def clinician(self, temperature: float = TEMPERATURE, slip: float = SLIP, discount: float = DISCOUNT) -> Array:
        """Who makes the data: the optimal policy, softened, knowing all of the patient.

        ``(1 - slip) softmax(Q* / temperature) + slip / 8``: mistakes that matter little are common, grave ones rare.

        Returns:
            ``[n_states, 8]``.
        """
        if not (temperature > 0.0 and 0.0 <= slip <= 1.0):
            raise InputError(f"a clinician has temperature > 0 and slip from 0 to 1, got {temperature} and {slip}")
        best = self.optimal(discount)
        soft = np.exp((best.action_value - best.value[:, None]) / temperature)
        return (1.0 - slip) * soft / soft.sum(-1, keepdims=True) + slip / self.mdp.n_actions

    def policies(self, discount: float = DISCOUNT) -> dict[str, Array]:
        """Five policies to evaluate, ``[n_states, 8]`` each; the first three stay near the clinician.

        None looks at diabetes, so they are the same whether it is recorded or not, and can be evaluated either way:

        * ``blind clinician``: the clinician's probabilities, averaged over diabetes;
        * ``careful clinician``: the same of a clinician of half the temperature;
        * ``as if not diabetic``: the clinician's probabilities for patients without diabetes, for all;
        * ``best if not diabetic``: what is best for patients without diabetes, for all; deterministic;
        * ``protocol``: antibiotics for high heart rate or pressure, vasopressors for low pressure, ventilation for low
          oxygen, nothing else; deterministic.
        """
        half = self.mdp.n_states // 2  # those without diabetes come first

        def blind(policy: Array) -> Array:
            return np.tile((1.0 - self.diabetes) * policy[:half] + self.diabetes * policy[half:], (2, 1))

        clinician = self.clinician(discount=discount)
        heart, pressure, oxygen = (self.patients[:, i] for i in (1, 2, 3))
        rule = ((heart == 2) | (pressure == 2)) + 2 * (pressure == 0) + 4 * (oxygen == 0)
        return {
            "blind clinician": blind(clinician),
            "careful clinician": blind(self.clinician(TEMPERATURE / 2.0, discount=discount)),
            "as if not diabetic": np.tile(clinician[:half], (2, 1)),
            "best if not diabetic": np.tile(self.optimal(discount).policy[:half], (2, 1)),
            "protocol": self.mdp.deterministic(rule),
        }

    def on_record(self, policy: Array) -> Callable[[Any], Array]:
        """A policy ``[n_states, 8]`` as a function of observations ``[..., D]`` to probabilities ``[..., 8]``.

        What is missing is taken as normal, see `state_of`; `as_seen` is its exact table.
        """
        return lambda observation: policy[self.state_of(observation)]

    def as_seen(self, policy: Callable[[Array], Array]) -> Array:
        """The exact table of a policy that sees the record alone, ``[n_states, 8]``: averaged over what may be missing.

        Gaps are drawn anew at every step, so this table has the policy's value.

        Args:
            policy: float32 observations ``[N, D]`` to probabilities ``[N, 8]`` or to actions ``[N]``.
        """
        flat = self.observations.reshape(-1, self.observations.shape[-1])
        out = np.asarray(policy(flat))
        if out.ndim == 1:
            out = np.eye(self.mdp.n_actions)[out.astype(np.int64)]
        table = np.asarray(out, dtype=np.float64).reshape(len(self.gaps), self.mdp.n_states, self.mdp.n_actions)
        return np.einsum("p,psa->sa", self.gap_chances, table)

    def value(self, policy: Array, *, horizon: int | None = HORIZON, discount: float = DISCOUNT) -> float:
        """Exact expected discounted reward of an admission.

        Args:
            policy: ``[n_states, 8]``; `as_seen` makes one of a policy on records.
            horizon: rewards after so many steps do not count; None: no end.
            discount: The discount per step; below 1 without a horizon.
        """
        if horizon is None:
            return float(self.mdp.start @ self.mdp.policy_value(policy, discount)[0])
        where = self.mdp.state_distribution(policy, horizon)[:horizon]
        return float(discount ** np.arange(horizon) @ where @ (policy * self.mdp.reward).sum(-1))

    def record_process(self, behavior: Array, horizon: int = HORIZON) -> TabularMDP:
        """The process of the record's states ``record`` that infinitely many recorded admissions would show.

        Transition probabilities are those among all steps at which something was done: with hidden diabetes they mix
        patients in the proportions in which this behavior treats them so. A policy's value here is what models and
        fitted Q tend to, and it is wrong by exactly the confounding.

        Args:
            behavior: ``[n_states, 8]``, who made the record.
            horizon: The horizon of the record.

        Raises:
            InputError: where measurements may be missing.
        """
        if self.missing > 0.0:
            raise InputError("a record with missing measurements is no finite process of its states; use missing=0")
        kinds = int(self.record.max()) + 1
        flow = np.zeros((kinds, self.mdp.n_actions, self.mdp.n_states))
        np.add.at(flow, self.record, self.mdp.visits(behavior, horizon)[:, :, None] * self.mdp.transition)
        flow = np.stack([flow[:, :, self.record == kind].sum(-1) for kind in range(kinds)], -1)
        start = np.bincount(self.record, self.mdp.start, kinds)
        total = flow.sum(-1, keepdims=True)
        never = np.broadcast_to(np.eye(kinds)[:, None], flow.shape)  # what was never done leads nowhere
        transition = np.where(total > 0.0, flow / np.where(total > 0.0, total, 1.0), never)
        first = self._first
        return TabularMDP(transition, self.mdp.step_reward[0, 0, first], self.mdp.terminal[first], start)

    def controller(self, discount: float = DISCOUNT) -> Callable[[Any], Array]:
        """The best action as far as observations show it (see `state_of`): from ``[..., D]`` to int64 ``[...]``."""
        actions = self.optimal(discount).policy.argmax(-1)
        return lambda observation: actions[self.state_of(observation)]

    def bedside(self, discount: float = DISCOUNT) -> Callable[[Any], int]:
        """The best action for the patient in this bed now, whatever the observation shows."""
        actions = self.optimal(discount).policy.argmax(-1)
        return lambda observation: int(actions[self._shown])

    def dataset(
        self,
        policy: Array,
        episodes: int,
        *,
        horizon: int = HORIZON,
        seed: int = 0,
        log_probabilities: bool | None = None,
    ) -> dict[str, Any]:
        """Episodes drawn all at once, as the dictionary that a data module takes for its ``source``.

        Args:
            policy: ``[n_states, 8]``, of one who sees the patient.
            episodes: The number of episodes.
            horizon: episodes are truncated after so many steps.
            seed: The seed of the draws.
            log_probabilities: log the probability of each action, given all that was seen at the bedside; None: unless
                the record is confounded.

        Returns:
            ``observations``, ``next_observations``, ``actions``, ``rewards``, ``terminated``, ``truncated``, perhaps
            ``behavior_log_prob``, the states as ``infos/state`` and ``infos/next_state``, the spaces and a name.
        """
        drawn = self.mdp.sample_transitions(policy, episodes, horizon, seed)
        rng = np.random.default_rng([seed, 1])
        n, last = len(drawn["state"]), drawn["terminated"] | drawn["truncated"]
        now, end = rng.choice(len(self.gaps), size=(2, n), p=self.gap_chances)
        then = np.where(last, end, np.roll(now, -1))  # what is recorded after a step is what the next one begins with
        arrays: dict[str, Any] = {
            "observations": self.observations[now, drawn["state"]],
            "next_observations": self.observations[then, drawn["next_state"]],
            "actions": drawn["action"],
            "rewards": drawn["reward"],
            "terminated": drawn["terminated"],
            "truncated": drawn["truncated"],
            "infos/state": drawn["state"],
            "infos/next_state": drawn["next_state"],
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "name": f"Sepsis, {episodes} admissions with seed {seed}",
        }
        if not self.confounded if log_probabilities is None else log_probabilities:
            arrays["behavior_log_prob"] = drawn["log_prob"]
        return arrays

    # -- inside ------------------------------------------------------------------------------------------------------

    def _features(self) -> Array:
        vitals = (self.patients[:, 1:5] - np.array(NORMAL)) / _HALF_RANGE
        parts = []
        for gap in self.gaps[:, None] & ~self.mdp.terminal[:, None]:  # of an end nothing is missing
            columns = [np.where(gap, 0.0, vitals), self.patients[:, 5:]]
            columns += [] if self.hidden_diabetes else [self.patients[:, :1]]
            columns += [gap] if self.missing > 0.0 else []
            parts.append(np.concatenate(columns, -1))
        return np.stack(parts).astype(np.float32)
