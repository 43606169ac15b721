"""Direct methods: a value function or a model of the environment is fitted to the data and asked for V(s0).

No product of importance weights, so little variance; a bias that nothing in the estimate itself bounds. Fitted Q
evaluation has its own module (`lightning_offrl.ope.fqe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.draws import mix
from lightning_offrl.errors import InputError
from lightning_offrl.ope.features import Features, default_features
from lightning_offrl.ope.policy_actions import weighted_actions

if TYPE_CHECKING:
    from lightning_offrl.ope.policies import TargetPolicy


@dataclass
class DirectEstimate:
    """What a direct method says of a policy. All values are discounted returns in the data's raw rewards.

    Attributes:
        method: its name.
        value: the estimate of V, the mean of ``per_initial_state``.
        per_initial_state: ``[E]`` float64, V at the first state of each of ``episodes``. Its spread is that of first
            states, *not* the uncertainty of the value.
        q: episodes to ``[T]`` float64, Q^pi of every logged pair.
        v: raw observations ``[B, ...]`` to ``[B]`` float64, V^pi.
        replicates: ``[R]`` float64, the value of R refits to bootstrap resamples of the episodes, or None.
        per_seed: ``[seeds]`` float64, the estimates of the fits to the data itself whose mean is ``value``, or None.
        diagnostics: numbers by name.
        flags: sentences; with one, the estimate is not to be relied on.
        return_quantiles: ``[m]`` float64, quantiles ``(i + 1/2) / m`` of the discounted return, where the method has a
            distribution of it, or None.
        episodes: ``[E]`` int64, the episodes that ``per_initial_state`` belongs to; None: all, in order.
    """

    method: str
    value: float
    per_initial_state: Tensor
    q: Callable[[Episodes], Tensor]
    v: Callable[[Any], Tensor]
    replicates: Tensor | None = None
    per_seed: Tensor | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    return_quantiles: Tensor | None = None
    episodes: Tensor | None = None

    def standard_error(self) -> float | None:
        """Standard deviation of the refits; None with fewer than two."""
        if self.replicates is None or len(self.replicates) < 2:
            return None
        return float(self.replicates.std())


def first_observations(episodes: Episodes, index: Tensor | None = None) -> Any:
    """Raw first observations of the episodes (of those in ``index``), ``[E, ...]``."""
    rows = episodes.start if index is None else episodes.start[index]
    return episodes.data["observation"][rows]


def multiplicities(n_episodes: int, replicates: int, seed: int) -> Tensor:
    """How often each episode counts: once in the data itself (row 0), then in ``replicates`` bootstrap resamples.

    Returns:
        ``[1 + replicates, E]`` float64; every row adds up to E.
    """
    out = torch.ones(1 + replicates, n_episodes, dtype=torch.float64)
    for i in range(replicates):
        generator = torch.Generator().manual_seed(mix(seed, i, 0xB007))
        drawn = torch.randint(n_episodes, (n_episodes,), generator=generator)
        out[1 + i] = torch.bincount(drawn, minlength=n_episodes).double()
    return out


def lstd(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    features: Features | None = None,
    samples: int = 16,
    ridge: float = 0.0,
    replicates: int = 0,
    seed: int = 0,
) -> DirectEstimate:
    """Least-squares temporal differences for Q (Lagoudakis and Parr, 2003, LSTDQ): linear FQE without a step size.

    ``theta = A^-1 b``, ``A = sum phi (phi - discount (1 - terminated) phi_pi')^T + ridge I``, ``b = sum phi r``, where
    ``phi_pi'`` is the mean feature of the policy's actions at the next observation. A truncated step bootstraps.
    Features that the data never shows keep the weight 0; where A is singular, the smallest solution is taken.

    Args:
        policy: to evaluate.
        episodes: the data, with raw rewards.
        discount: in [0, 1]; 1 only where episodes end.
        features: of observation and action; None: one-hot for tabular data, else quadratic.
        samples: actions per next observation of a stochastic continuous policy.
        ridge: added to the diagonal of A, in the units of the mean of phi^2.
        replicates: refits to bootstrap resamples of the episodes.
        seed: of sampled actions and resamples.

    Raises:
        InputError: a discount outside [0, 1], or actions of another kind than the policy's.
    """
    check_estimand(policy, episodes, discount, largest=1.0)
    features = default_features(episodes) if features is None else features
    times = multiplicities(episodes.n_episodes, replicates, seed)
    of_row = times[:, episodes.episode_index()]
    generator = torch.Generator().manual_seed(mix(seed, 0x1577))
    data, gram, cross, moment = episodes.data, torch.zeros(()), torch.zeros(()), torch.zeros(())
    reached = torch.zeros(())
    for rows in chunks(len(episodes), samples):
        phi = features(data["observation"][rows], data["action"][rows]).double()
        following = _expected(features, policy, data["next", "observation"][rows], samples, generator)
        following = following * ~data["next", "terminated"][rows].unsqueeze(-1)
        reward, weight = data["next", "reward"][rows].double(), of_row[:, rows].unsqueeze(-1)
        gram = gram + phi.T @ (weight * phi)  # [1 + R, F, F]
        cross = cross + phi.T @ (weight * following)
        moment = moment + (weight * phi).mT @ reward
        reached = reached + following.abs().sum(0)
    seen = gram[0].diagonal() > 0.0
    solutions = [_solve(g, discount * c, b, seen, ridge) for g, c, b in zip(gram, cross, moment, strict=True)]
    theta, rank = solutions[0]
    first = _expected(features, policy, first_observations(episodes), samples, generator)
    per_state = first @ theta
    spread = torch.linalg.lstsq(gram[0][seen][:, seen], discount * cross[0][seen][:, seen], driver="gelsd").solution
    growth = float(torch.linalg.eigvals(spread).abs().max())
    total = reached + first.abs().sum(0)
    unseen = float(total[~seen].sum() / total.sum())
    diagnostics = {"features": float(len(seen)), "rank": float(rank), "growth": growth, "unsupported": unseen}
    flags = []
    if unseen > 0.01:
        flags.append(f"{unseen:.0%} of what the policy reaches was never seen in the data and counts as worth 0")
    if growth > 1.0 + 1e-9:
        flags.append(f"fitted Q iteration with these features grows by {growth:.3g} a sweep: the data do not cover pi")

    def q(of: Episodes) -> Tensor:
        table = of.data
        parts = [features(table["observation"][i], table["action"][i]).double() @ theta for i in chunks(len(of), 1)]
        return torch.cat(parts)

    def v(observation: Any) -> Tensor:
        draws = torch.Generator().manual_seed(mix(seed, 0x1578))
        rows = chunks(len(observation), samples)
        return torch.cat([_expected(features, policy, observation[i], samples, draws) @ theta for i in rows])

    starts = times[1:] / episodes.n_episodes
    refits = [float(share @ (first @ solution)) for share, (solution, _) in zip(starts, solutions[1:], strict=True)]
    return DirectEstimate(
        method="lstd",
        value=float(per_state.mean()),
        per_initial_state=per_state,
        q=q,
        v=v,
        replicates=torch.tensor(refits, dtype=torch.float64) if replicates else None,
        diagnostics=diagnostics,
        flags=flags,
    )


def check_estimand(policy: TargetPolicy, episodes: Episodes, discount: float, largest: float) -> None:
    """Refuse a discount out of range and a policy over the other kind of actions."""
    if not 0.0 <= discount <= largest:
        allowed = "in [0, 1]" if largest == 1.0 else "at least 0 and below 1"
        raise InputError(f"the discount must be {allowed}, got {discount}")
    kind = episodes.spec["action_kind"]
    if policy.discrete != (kind == "discrete"):
        name = "discrete" if policy.discrete else "continuous"
        raise InputError(f"the policy has {name} actions, but those of {episodes.name} are {kind}; check the policy")


def chunks(rows: int, each: int, size: int = 32_768) -> Iterator[slice]:
    """Slices of at most ``size / each`` rows."""
    step = max(1, size // each)
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


def _expected(
    features: Features, policy: TargetPolicy, observation: Any, samples: int, generator: torch.Generator
) -> Tensor:
    """``sum_p w_p phi(s, a_p)``, ``[B, F]``."""
    action, weight = weighted_actions(policy, observation, samples, generator)
    batch, count = weight.shape
    row = torch.arange(batch).repeat_interleave(count)
    phi = features(observation[row], action.flatten(0, 1)).double().view(batch, count, -1)
    return (weight.unsqueeze(-1) * phi).sum(1)


def _solve(gram: Tensor, cross: Tensor, moment: Tensor, seen: Tensor, ridge: float) -> tuple[Tensor, int]:
    system = (gram - cross)[seen][:, seen]
    if ridge > 0.0:
        system = system + ridge * gram.diagonal()[seen].mean() * torch.eye(len(system), dtype=system.dtype)
    found = torch.linalg.lstsq(system, moment[seen].unsqueeze(-1), driver="gelsd")
    theta = torch.zeros_like(moment)
    theta[seen] = found.solution.squeeze(-1)
    return theta, int(found.rank)
