"""Policy shift: how far the policy's actions are from the log's, at the states of the log.

Only the states of the log are known. None of these numbers says where the policy would lead, and how far from the log
that is: this takes density-ratio estimation over states, or rollouts of a model. Where the log has masks of legal
actions, both policies receive them, and one that puts probability on illegal actions is refused
(`ope.policies.masked`).

    bits        `kl_divergence` (both densities), `knn_divergence` (samples), `distinguish` (a classifier's lower bound)
    surprise    `excess_surprisal`: for deterministic policies, which have no density and infinite divergence
    distance    `distinguish` (total variation, AUC), `discrepancy` (MMD)
    weights     `density_ratio`: how large, and how many episodes are left, step by step
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.diagnostics.diagnosis import (
    ALARM_AUC,
    ALARM_BITS,
    CAUTION_AUC,
    CAUTION_BITS,
    CLOSER,
    LEAST_EPISODES,
    RATIO_LIMIT_BITS,
    Diagnosis,
    Level,
    level_of,
    limit_bits,
)
from lightning_offrl.diagnostics.distances import knn_log_ratios, paired_mmd, whitened
from lightning_offrl.diagnostics.samples import Pairs, clustered_error, mean_length, sample_pairs, sample_rows
from lightning_offrl.diagnostics.two_sample import two_sample_test
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import effective_sample_size
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.target import SquashedNormal, TargetPolicy, without_density
from lightning_offrl.ope.weighting.trajectories import trajectories
from lightning_offrl.training.old_code import takes_old_keywords

SURPRISING = 0.99
"""Actions more surprising than this quantile of the log's own are counted as beyond it."""
CAUTION_BEYOND, ALARM_BEYOND = 0.05, 0.25
"""Shares beyond it; 0.01 would be none. Rules of thumb of this package."""


@takes_old_keywords
def kl_divergence(
    episodes: Episodes,
    policy: TargetPolicy,
    behavior: TargetPolicy,
    *,
    horizon: int | None = None,
    states: int = 5000,
    draws: int = 8,
    seed: int = 0,
) -> Diagnosis:
    """``KL(pi || pi_b)`` in bits per decision and per episode, from both densities.

    Exact given the states for discrete actions and for two tanh-squashed normals (the squashing cancels); else the mean
    of ``log2 pi(a|s) - log2 pi_b(a|s)`` over actions of the policy.

    Args:
        episodes: The log; its states weigh equally.
        policy: A policy with a density.
        behavior: The policy that made the log, true or fitted (`ope.policies.behavior.fit_behavior`); with a density.
        horizon: The number of first steps of each episode that count; None: all.
        states: The most logged states that are used.
        draws: The number of actions of the policy per state, where needed.
        seed: The seed of the draws.

    Raises:
        InputError: one of the policies has no density (`excess_surprisal` applies to a deterministic one), or puts
            probability on illegal actions.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = sample_rows(episodes, horizon, states, generator)
    observation = episodes.data["observation"][rows]
    nats = _divergence(policy, behavior, observation, draws, generator, legal.legal_actions(episodes, rows))
    step, error = float(nats.mean()) / math.log(2.0), clustered_error(nats, episodes.episode_index()[rows])
    total, limit = step * mean_length(episodes, horizon), limit_bits(episodes.n_episodes)
    level = level_of(total, CAUTION_BITS, ALARM_BITS)
    if math.isinf(total):
        reading = "the policy takes actions that the behavior never takes: no weight can stand for them"
    else:
        within = "enough" if total <= limit else "too far"
        reading = (
            f"{step:.3g} bits per decision, {total:.3g} per episode; importance sampling with "
            f"{episodes.n_episodes:,} episodes reaches {limit:.2g} bits: {within}"
        )
    remedy = f"{CLOSER}; or evaluate with fitted Q (fqe) or a model (mb), or count fewer steps (horizon)"
    numbers = {
        "kl_bits_step": step,
        "kl_bits_limit": limit,
        "kl_bits_step_error": error / math.log(2.0),
    }
    return Diagnosis("kl_bits_traj", total, level, reading, remedy, numbers)


def _divergence(
    policy: TargetPolicy,
    behavior: TargetPolicy,
    observation: object,
    draws: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> Tensor:
    """Nats at each state, ``[N]``."""
    if policy.discrete and behavior.discrete:
        p, q = (legal.probabilities(one, observation, mask) for one in (policy, behavior))
        return torch.where(p > 0.0, p * (p / q).log(), 0.0).sum(-1)  # inf where q is 0 and p is not
    if isinstance(policy, SquashedNormal) and isinstance(behavior, SquashedNormal):
        mean, std, other_mean, other_std = (
            x.double() for x in (*policy.parameters(observation), *behavior.parameters(observation))
        )
        ratio = (std / other_std).square()
        return 0.5 * (ratio - 1.0 - ratio.log() + ((mean - other_mean) / other_std).square()).sum(-1)
    each = []
    for action in policy.sample(observation, draws, generator):
        top, bottom = policy.log_prob(observation, action), behavior.log_prob(observation, action)
        for one, density in ((policy, top), (behavior, bottom)):
            if density is None:
                raise InputError(f"a divergence needs two densities: {without_density(one)}; see excess_surprisal")
        assert top is not None and bottom is not None
        each.append((top - bottom).double())
    return torch.stack(each).mean(0)


def knn_divergence(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> Diagnosis:
    """``KL(pi || pi_b)`` in bits per decision from samples alone, by nearest neighbors; continuous actions.

    It falls short in many dimensions, see `distances.knn_log_ratios`.

    Args:
        episodes: The log.
        policy: stochastic; of a deterministic one the divergence is infinite.
        horizon: The number of first steps of each episode that count; None: all.
        seed: The seed of the draws.
        pairs: The samples, from `samples.sample_pairs`; None: 10,000 logged steps.

    Raises:
        InputError: discrete actions, or a deterministic policy.
    """
    if policy.discrete or policy.is_deterministic:
        raise InputError(
            "a divergence by neighbors is for stochastic policies of continuous actions; use kl_divergence for "
            "discrete actions and excess_surprisal for a deterministic policy"
        )
    pairs = pairs or sample_pairs(episodes, policy, horizon=horizon, states=10_000, seed=seed)
    data, length = pairs.data, mean_length(episodes, horizon)
    terms = None
    if len(pairs) > 20:
        terms = knn_log_ratios(whitened(pairs.policy, data), whitened(data, data), paired=True)
    bits = math.nan if terms is None else float(terms.mean())
    error = math.nan if terms is None else clustered_error(terms, pairs.steps.episode[: len(terms)])
    sure = max(bits - 2.0 * error, 0.0) * length  # an error per decision is a large one per episode
    reading = (
        f"about {bits:.3g} +- {error:.2g} bits per decision, {max(bits, 0.0) * length:.3g} per episode, from "
        f"{pairs.policy.shape[-1]} dimensions"
    )
    if pairs.policy.shape[-1] > 3:
        reading += " (falls short in so many)"
    if math.isnan(bits):
        reading = "neighbors coincide or are too few: the divergence cannot be found from distances"
    level = level_of(sure, CAUTION_BITS, ALARM_BITS)
    return Diagnosis("kl_bits_knn", bits, level, reading, CLOSER, {"kl_bits_knn_error": error})


def distinguish(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> Diagnosis:
    """How well a small classifier separates the policy's actions from logged ones: AUC, total variation and bits.

    The effective sample size of its density ratio is given up to 2 bits only; beyond that it is wrong by orders.

    Args:
        episodes: The log; the classifier is judged on other episodes than it learnt from.
        policy: Any policy.
        horizon: The number of first steps of each episode that count; None: all.
        seed: The seed of all random numbers.
        pairs: The samples, from `samples.sample_pairs`; None: 5,000 logged steps.
    """
    pairs = pairs or sample_pairs(episodes, policy, horizon=horizon, seed=seed)
    result = two_sample_test(pairs.policy, pairs.data, pairs.steps.episode, seed=seed)
    numbers = {"tv": result.tv, "kl_bits_classifier": result.kl_bits}
    if result.kl_bits <= RATIO_LIMIT_BITS:
        numbers["learnt_ess_share_step"] = effective_sample_size(result.logits_q) / len(pairs)
        numbers["learnt_ratio_q999"] = float(result.logits_q.quantile(0.999).exp())
    level = level_of(result.auc, CAUTION_AUC, ALARM_AUC)
    reading = f"a classifier tells policy from log with AUC {result.auc:.2f} (total variation at least {result.tv:.2f})"
    if policy.is_deterministic and not policy.discrete:
        level = "unknown"
        reading += "; a deterministic policy can always be told from a noisy log: see surprisal and support"
    return Diagnosis("auc", result.auc, level, reading, CLOSER, numbers)


def discrepancy(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    states: int = 1000,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> Diagnosis:
    """Squared maximum mean discrepancy (MMD) between states with the policy's and with the log's actions.

    It answers whether there is a difference at all; its size depends on the kernel and is not comparable across data.

    Args:
        episodes: The log.
        policy: Any policy.
        horizon: The number of first steps of each episode that count; None: all.
        states: The most logged steps that are used; the cost grows with the square.
        seed: The seed of the draws.
        pairs: The samples, from `samples.sample_pairs`, if they exist already; the first ``states`` of them are used.
    """
    pairs = pairs or sample_pairs(episodes, policy, horizon=horizon, states=states, seed=seed)
    found, p = paired_mmd(pairs.policy[:states], pairs.data[:states], seed=seed)
    differs = p < 0.01
    reading = f"MMD^2 {found:.3g}, p {p:.3f}: the policy {'acts otherwise than' if differs else 'may act like'} the log"
    return Diagnosis("mmd2", found, "caution" if differs else "ok", reading, CLOSER, {"mmd_p": p})


@takes_old_keywords
def excess_surprisal(
    episodes: Episodes,
    policy: TargetPolicy,
    behavior: TargetPolicy,
    *,
    horizon: int | None = None,
    states: int = 5000,
    seed: int = 0,
) -> Diagnosis:
    """How much more surprising the policy's actions are to the behavior than its own, in bits per decision.

    ``E[-log2 pi_b(pi(s)|s)] - E_log[-log2 pi_b(a|s)]``, and the share of the policy's actions that surprise more than
    99 % of logged ones. Finite for deterministic policies; negative for one that takes the most likely actions.

    Args:
        episodes: The log.
        policy: Any policy.
        behavior: The policy that made the log, true or fitted; with a density. The density of a
            fitted one far from the log is that of its family.
        horizon: The number of first steps of each episode that count; None: all.
        states: The most logged steps that are used.
        seed: The seed of the draws.

    Raises:
        InputError: the behavior has no density, or one of the policies puts probability on illegal actions.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = sample_rows(episodes, horizon, states, generator)
    data = episodes.data[rows]
    mask = legal.legal_actions(episodes, rows)
    action = legal.sample(policy, data["observation"], 1, generator, mask)[0]
    chosen, logged = (legal.log_prob(behavior, data["observation"], a, mask) for a in (action, data["action"]))
    if chosen is None or logged is None:
        raise InputError(f"surprisal needs the behavior's density: {without_density(behavior)}")
    bits, own = -chosen.double() / math.log(2.0), -logged.double() / math.log(2.0)
    excess = float(bits.mean() - own.mean())
    beyond = float((bits > own.quantile(SURPRISING)).double().mean())
    reading = (
        f"the policy's actions surprise the behavior by {excess:+.3g} bits more than its own; {beyond:.1%} are beyond "
        f"the log's {SURPRISING:.0%} quantile"
    )
    numbers = {"surprisal_beyond": beyond, "surprisal_log_bits": float(own.mean())}
    level = level_of(beyond, CAUTION_BEYOND, ALARM_BEYOND)
    return Diagnosis("surprisal_bits", excess, level, reading, CLOSER, numbers)


@takes_old_keywords
def density_ratio(
    episodes: Episodes, policy: TargetPolicy, behavior: TargetPolicy | None = None, *, horizon: int | None = None
) -> Diagnosis:
    """Range of ``pi(a|s) / pi_b(a|s)`` at the logged actions, and the effective share of episodes, step by step.

    Args:
        episodes: The log.
        policy: A policy with a density.
        behavior: The policy whose density divides; None: the log's own probabilities. Give no density ratio that a
            classifier learned: beyond 2 bits its effective sample size means nothing.
        horizon: The number of first steps of each episode that count; None: all.

    Raises:
        InputError: no weights; the sentence says why.
    """
    data = trajectories(episodes, policy, behavior, discount=1.0, horizon=horizon)
    weights = data.log_weights  # raises where there are none
    assert data.log_ratio is not None
    ratios = data.log_ratio[data.mask].exp()
    cumulative = [effective_sample_size(column) / data.n for column in weights.unbind(-1)]
    single = [
        effective_sample_size(data.log_ratio[here, t]) / max(int(here.sum()), 1)
        for t, here in enumerate(data.mask.unbind(-1))
    ]
    left, share = cumulative[-1] * data.n, cumulative[-1]
    level: Level = "alarm" if left < LEAST_EPISODES or share < 0.01 else "caution" if share < 0.10 else "ok"
    reading = (
        f"ratios up to {float(ratios.max()):.3g} (99.9 %: {float(ratios.quantile(0.999)):.3g}); of {data.n:,} episodes "
        f"{left:.1f} are left in effect"
    )
    numbers = {
        "ratio_max": float(ratios.max()),
        "ratio_q999": float(ratios.quantile(0.999)),
        "ess_share_step": effective_sample_size(data.log_ratio[data.mask]) / len(ratios),
        "ess": left,
    }
    remedy = f"count fewer steps (horizon), estimate with fitted Q (fqe) or a model (mb), or {CLOSER}"
    curves = {"ess_share": tuple(cumulative), "ess_share_step": tuple(single)}
    return Diagnosis("ess_share", share, level, reading, remedy, numbers, curves)
