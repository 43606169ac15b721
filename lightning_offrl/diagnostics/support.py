"""Support: does the log hold actions like the policy's, in states like these?

    `neighbor_support`  by distance to logged actions in the most similar states; nothing is fitted
    `VAESupport`         by a conditional VAE's bound on the likelihood of an action; sees shapes that distance does not

Both compare with the log's own actions: 99 % of these count as supported, so that is full coverage.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.diagnostics.diagnosis import CLOSER, Diagnosis, Level
from lightning_offrl.diagnostics.samples import Features, clustered_error, sample_steps
from lightning_offrl.errors import InputError
from lightning_offrl.losses.divergences import kl_to_standard_normal
from lightning_offrl.networks.mlp import MLP
from lightning_offrl.ope.checks.neighbors import nearest
from lightning_offrl.ope.checks.support import FAR_QUANTILE, far_share
from lightning_offrl.ope.policies.target import TargetPolicy
from lightning_offrl.rng import mix
from lightning_offrl.training.old_code import attributes_of

CAUTION_COVERAGE, ALARM_COVERAGE = 0.95, 0.75
"""Shares of the policy's actions; rules of thumb of this package."""
_BATCH_SIZE, _HIDDEN = 256, (64, 64)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

__getattr__ = attributes_of(__name__)


def coverage_level(share: float) -> Level:
    """Level of a share that is covered: alarm below 75 %, caution below 95 %."""
    if math.isnan(share):
        return "unknown"
    return "alarm" if share < ALARM_COVERAGE else "caution" if share < CAUTION_COVERAGE else "ok"


def neighbor_support(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    states: int = 1000,
    pool: int = 10_000,
    seed: int = 0,
) -> Diagnosis:
    """Share of the policy's actions that the log shows in similar states of other episodes.

    Continuous actions count if they lie as near to logged ones as 99 % of the log's own do
    (`ope.checks.support.far_share`), and discrete ones if they were taken in one of the 50 most similar states.

    Args:
        episodes: The log, with two episodes or more.
        policy: Any policy.
        horizon: The number of first steps of each episode that count; None: all.
        states: The number of states whose neighbors are searched.
        pool: The number of states among which they are searched.
        seed: The seed of all draws.

    Raises:
        InputError: fewer than two episodes.
    """
    if policy.discrete:
        share, error, own = _taken_nearby(episodes, policy, horizon, states, pool, seed)
        what = "were taken in one of the 50 most similar states of other episodes"
    else:
        far = far_share(episodes, policy, horizon=horizon, queries=states, pool=pool, seed=seed)
        share, error, own = 1.0 - far.share, far.error, 1.0 - far.base
        what = "lie as near to logged ones as those to each other"
    reading = f"{share:.1%} of the policy's actions {what} (of the log's own {own:.1%})"
    level = coverage_level(share + FAR_QUANTILE - own)
    return Diagnosis("support_knn", share, level, reading, CLOSER, {"support_knn_error": error, "support_knn_own": own})


def _taken_nearby(
    episodes: Episodes,
    policy: TargetPolicy,
    horizon: int | None,
    states: int,
    pool: int,
    seed: int,
    neighbors: int = 50,
) -> tuple[float, float, float]:
    """Share of the policy's actions, its standard error, and share of the log's actions."""
    if episodes.n_episodes < 2:
        raise InputError("support by other episodes needs at least two episodes in the log")
    steps = sample_steps(episodes, horizon=horizon, states=max(states, pool), seed=seed)
    chosen = steps.with_actions(policy, seed).chosen[:states]
    apart = steps.episode[:states], steps.episode[:pool]
    _, near = nearest(steps.state[:states], steps.state[:pool], neighbors, apart=apart)
    taken = torch.where(near >= 0, steps.action[:pool][near], -1)
    seen, own = ((taken == action[:states, None]).any(-1).double() for action in (chosen, steps.action))
    return float(seen.mean()), clustered_error(seen, steps.episode[:states]), float(own.mean())


class ActionVAE(nn.Module):
    """A conditional VAE of actions with a Gaussian decoder whose spread is learnt, so that it bounds a density.

    (`networks.generative.VAE`, which proposes actions, has none: its decoder's spread is fixed by a weight.)

    Args:
        state_size: D.
        action_size: A; the latent has 2 A numbers.
    """

    def __init__(self, state_size: int, action_size: int) -> None:
        super().__init__()
        self.latent = 2 * action_size
        self.posterior = MLP(state_size + action_size, _HIDDEN, 2 * self.latent)
        self.decoder = MLP(state_size + self.latent, _HIDDEN, action_size)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def bound(self, state: Tensor, action: Tensor, noise: Tensor, weight: float = 1.0) -> Tensor:
        """Evidence lower bound of ``log p(a|s)``, ``[B]``, averaged over the noise ``[M, B, latent]``.

        ``weight`` is that of the divergence; below 1 it is no bound, but a beginning from which the latent is not lost
        (Bowman et al., 2016, https://arxiv.org/abs/1511.06349, section 3.1).
        """
        mean, log_std = self.posterior(torch.cat([state, action], -1)).chunk(2, -1)
        log_std = log_std.clamp(-6.0, 2.0)
        latent = mean + log_std.exp() * noise
        decoded = self.decoder(torch.cat([state.expand(len(noise), *state.shape), latent], -1))
        scale = self.log_std.clamp(-4.0, 2.0)
        normal = -0.5 * ((action - decoded) * (-scale).exp()).square() - scale - _HALF_LOG_2PI
        return normal.sum(-1).mean(0) - weight * kl_to_standard_normal(mean, log_std)


class VAESupport:
    """A VAE of the log's continuous actions, trained once and used for any number of policies.

    Args:
        episodes: The log; a tenth of its episodes are held out for the 1 % quantile.
        horizon: The number of first steps of each episode that are learned from; None: all.
        features: A function to vectors, for other observations, see `samples.sample_steps`.
        states: The most logged steps that are used.
        updates: The number of updates of Adam; 1,000 take about two seconds.
        seed: The seed of all random numbers.

    Raises:
        InputError: discrete actions, or fewer than two episodes.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        horizon: int | None = None,
        features: Features | None = None,
        states: int = 20_000,
        updates: int = 1_000,
        seed: int = 0,
    ) -> None:
        if episodes.spec["action_kind"] == "discrete":
            raise InputError("a VAE is for continuous actions; use neighbor_support for discrete ones")
        self.seed = seed
        self.steps = sample_steps(episodes, horizon=horizon, states=states, features=features, seed=seed)
        _, held_out = split_by_episode(episodes, 0.1, seed)
        test = torch.isin(self.steps.episode, held_out)
        self._fit(~test, updates)
        scores = self._score(self.steps.encode(self.steps.action))
        self.threshold = float(scores[test if bool(test.any()) else ~test].quantile(1.0 - FAR_QUANTILE))
        """Bound that 99 % of held-out logged actions exceed, nats."""

    @torch.inference_mode(False)
    def _fit(self, train: Tensor, updates: int) -> None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(mix(self.seed, 0x7AE))
            state, action = self.steps.state[train].float(), self.steps.encode(self.steps.action)[train].float()
            self.module = ActionVAE(state.shape[-1], action.shape[-1])
            self.center = action.mean(0)
            optimizer = torch.optim.Adam(self.module.parameters(), lr=3e-3, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
            for update in range(updates):
                rows = torch.randint(len(state), (_BATCH_SIZE,))
                noise = torch.randn(1, _BATCH_SIZE, self.module.latent)
                weight = min(1.0, 2.0 * update / updates)
                loss = -self.module.bound(state[rows], action[rows] - self.center, noise, weight).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.module.eval().requires_grad_(False)

    def diagnose(self, policy: TargetPolicy) -> Diagnosis:
        """Share of the policy's actions whose bound exceeds the threshold."""
        chosen = self.steps.with_actions(policy, self.seed).chosen
        share = float((self._score(self.steps.encode(chosen)) >= self.threshold).double().mean())
        reading = f"{share:.1%} of the policy's actions are as likely to a VAE as 99 % of logged ones (99 % is full)"
        return Diagnosis("support_vae", share, coverage_level(share), reading, CLOSER)

    @torch.no_grad()
    def _score(self, action: Tensor, samples: int = 8) -> Tensor:
        noise = torch.randn(samples, 1, self.module.latent, generator=torch.Generator().manual_seed(self.seed))
        out = []
        for state, part in zip(self.steps.state.float().split(4096), action.float().split(4096), strict=True):
            out.append(self.module.bound(state, part - self.center, noise.expand(-1, len(state), -1)))
        return torch.cat(out)
