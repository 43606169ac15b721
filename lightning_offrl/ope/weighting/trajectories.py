"""Episodes as padded tables ``[E, H]`` of rewards and log ratios: what every estimator of `ope` reads.

After the end of an episode the ratio is 1 (its log 0), the reward 0 and the values 0. The product of ratios therefore
*stays* at its last value: an ended episode is in an absorbing state, where every policy earns nothing. Estimators that
drop ended episodes from a normalizer, or give them the weight 1 again, are biased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.data.clusters import ClusterLabels, Clusters, numbered
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.target import TargetPolicy, without_density
from lightning_offrl.training.old_code import takes_old_keywords

LOGGED = "logged"
ESTIMATED = "estimated"
NO_BEHAVIOR = (
    "the log has no probabilities of its actions (behavior_log_prob), so there are no importance weights; give a "
    "behavior policy, true or fitted to the data (ris), or use fqe or mb"
)


@dataclass(frozen=True)
class Trajectories:
    """Logged episodes, and what the target policy thinks of them.

    Attributes:
        reward: ``[E, H]`` float64, 0 after the end.
        mask: ``[E, H]`` bool, True where a step happened: a run of True from step 0 in every row.
        discount: gamma, per step, or per unit of ``elapsed``.
        log_ratio: ``[E, H]`` ``log pi(a|s) - log pi_b(a|s)``, 0 after the end; -inf where the policy never takes the
            logged action. None: no weights, and ``no_weights`` says why.
        behavior_log_prob: ``[E, H]``, 0 after the end, or None.
        target_log_prob: ``[E, H]``, 0 after the end, or None.
        q: ``[E, H]`` estimate of Q^pi(s_t, a_t), 0 after the end, or None.
        v: ``[E, H]`` estimate of V^pi(s_t), 0 after the end, or None.
        elapsed: ``[E, H]`` time since the episode began; None: the number of the step.
        behavior: "logged" (as the log says), "estimated" (regressed on data) or a name; shown with every result.
        no_weights: why there is no ``log_ratio``.
        groups: names to ``[E]`` labels, for results by group.
        clusters: ``[E]`` labels of what episodes belong to, kept as `Clusters`; None where every episode is alone.
        cut: ``[E]`` bool, the episode was cut from outside before the horizon, so that rewards are missing.
        notes: sentences on what was assumed.

    Raises:
        InputError: shapes that differ, gaps in the mask, numbers that are not finite.
    """

    reward: Tensor
    mask: Tensor
    discount: float = 1.0
    log_ratio: Tensor | None = None
    behavior_log_prob: Tensor | None = None
    target_log_prob: Tensor | None = None
    q: Tensor | None = None
    v: Tensor | None = None
    elapsed: Tensor | None = None
    behavior: str = LOGGED
    no_weights: str = NO_BEHAVIOR
    groups: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    clusters: ClusterLabels | None = None
    cut: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        mask = self.mask
        if mask.ndim != 2 or mask.dtype != torch.bool or mask.numel() == 0:
            raise InputError(f"the mask must be bool [episodes, steps], got {mask.dtype} {list(mask.shape)}")
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()) or not bool(mask[:, 0].all()):
            raise InputError("the mask must be True from the first step of every episode to its last, without gaps")
        if not 0.0 <= self.discount <= 1.0:
            raise InputError(f"discount must be in [0, 1], got {self.discount}")
        for name in ("reward", "behavior_log_prob", "target_log_prob", "log_ratio", "q", "v", "elapsed"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != mask.shape:
                raise InputError(f"{name} has shape {list(value.shape)}, expected {list(mask.shape)} as the mask")
            object.__setattr__(self, name, torch.where(mask, value.double(), 0.0))
        for name in ("reward", "q", "v", "elapsed"):
            value = getattr(self, name)
            if value is not None and not bool(value.isfinite().all()):
                raise InputError(f"{name} holds {int((~value.isfinite()).sum())} numbers that are not finite")
        if self.log_ratio is None and self.behavior_log_prob is not None and self.target_log_prob is not None:
            _check_log_probs(self.behavior_log_prob, self.target_log_prob)
            object.__setattr__(self, "log_ratio", self.target_log_prob - self.behavior_log_prob)
        if self.log_ratio is not None and bool((self.log_ratio.isnan() | (self.log_ratio == torch.inf)).any()):
            raise InputError("log_ratio holds NaN or +inf: a ratio must be a finite number, or 0 (-inf)")
        for name, labels in self.groups.items():
            if len(labels) != len(mask):
                raise InputError(f"the group column {name} has {len(labels)} labels for {len(mask)} episodes")
        object.__setattr__(self, "clusters", numbered(self.clusters, len(mask)))

    @property
    def together(self) -> Clusters | None:
        """``clusters``, numbered."""
        assert self.clusters is None or isinstance(self.clusters, Clusters)
        return self.clusters

    @property
    def n(self) -> int:
        """Number of episodes E."""
        return self.mask.shape[0]

    @property
    def horizon(self) -> int:
        """Largest number of steps H."""
        return self.mask.shape[1]

    @property
    def length(self) -> Tensor:
        """Steps of each episode, ``[E]`` int64."""
        return self.mask.sum(-1)

    @property
    def factors(self) -> Tensor:
        """Discount factors ``[E, H]``: ``gamma ** t`` with t the step, or the elapsed time."""
        steps = torch.arange(self.horizon, dtype=torch.float64).expand(self.n, -1)
        return self.discount ** (steps if self.elapsed is None else self.elapsed)

    @property
    def returns(self) -> Tensor:
        """Discounted sum of rewards, ``[E]``."""
        return (self.factors * self.reward).sum(-1)

    @property
    def log_weights(self) -> Tensor:
        """``log w_t = sum_{k <= t} log ratio_k``, ``[E, H]``; after the end it stays at its last value.

        Raises:
            InputError: there are no weights; the sentence says why and what applies instead.
        """
        if self.log_ratio is None:
            raise InputError(self.no_weights)
        return self.log_ratio.cumsum(-1)

    def select(self, index: Tensor) -> Trajectories:
        """These episodes (numbers or a bool mask), in this order."""
        rows = index.nonzero().squeeze(-1) if index.dtype == torch.bool else index
        names = ("reward", "mask", "log_ratio", "behavior_log_prob", "target_log_prob", "q", "v", "elapsed", "cut")
        taken: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x[rows] for name in names}
        groups = {name: [labels[i] for i in rows.tolist()] for name, labels in self.groups.items()}
        clusters = None if self.together is None else self.together.select(rows)
        return replace(self, **taken, groups=groups, clusters=clusters)

    def first(self, horizon: int) -> Trajectories:
        """The first ``horizon`` steps; an episode that goes on is not counted as cut, for the estimand ends there."""
        names = ("reward", "mask", "log_ratio", "behavior_log_prob", "target_log_prob", "q", "v", "elapsed")
        taken: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x[:, :horizon] for name in names}
        cut = None if self.cut is None else self.cut & (self.length < horizon)
        return replace(self, **taken, cut=cut)


def _check_log_probs(behavior: Tensor, target: Tensor) -> None:
    impossible = int((~behavior.isfinite()).sum())
    if impossible:
        raise InputError(
            f"{impossible:,} logged actions have no finite log-probability under the behavior policy, which yet took "
            "them; the log-probabilities are wrong (units, rescaled or clipped actions?), or belong to other data"
        )
    wrong = int((target.isnan() | (target == torch.inf)).sum())
    if wrong:
        raise InputError(f"the target policy's log-probability of {wrong:,} logged actions is NaN or +inf")


@takes_old_keywords
def trajectories(
    episodes: Episodes,
    policy: TargetPolicy | None = None,
    behavior: TargetPolicy | None = None,
    *,
    discount: float,
    horizon: int | None = None,
    behavior_name: str | None = None,
    elapsed: Tensor | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
    clusters: ClusterLabels | None = None,
    batch_size: int = 65536,
) -> Trajectories:
    """Pad episodes, and ask the policies for the log-probabilities of the logged actions.

    Args:
        episodes: logged data.
        policy: to evaluate; None: only what needs no weights.
        behavior: whose log-probabilities divide; None: those of the log, where it has them.
        discount: gamma, per step, or per unit of ``elapsed``.
        horizon: steps H that count; None: the longest episode. The value estimated is that of the first H steps.
        behavior_name: for the results; "logged" without ``behavior``, else "estimated" unless given.
        elapsed: ``[T]`` time of each step since its episode began, for discounting by time.
        groups: names to ``[E]`` labels.
        clusters: ``[E]`` labels of what episodes belong to.
        batch_size: rows per question to a policy.

    Raises:
        InputError: log-probabilities that cannot be, or shapes that differ.
    """
    steps = int(episodes.length.max()) if horizon is None else int(horizon)
    if steps < 1:
        raise InputError(f"the horizon must be at least one step, got {horizon}")
    steps = min(steps, int(episodes.length.max()))
    column = torch.arange(steps)
    mask = column < episodes.length.unsqueeze(-1)
    rows = torch.where(mask, episodes.start.unsqueeze(-1) + column, 0)
    used = rows[mask]

    def padded(flat: Tensor) -> Tensor:
        if flat.shape != (len(episodes),):
            raise InputError(f"expected one number per logged step, [{len(episodes)}], got {list(flat.shape)}")
        return torch.where(mask, flat[rows].double(), 0.0)

    def scattered(values: Tensor) -> Tensor:
        out = torch.zeros(mask.shape, dtype=torch.float64)
        out[mask] = values
        return out

    no_weights, target, name = NO_BEHAVIOR, None, LOGGED
    if policy is not None:
        values = log_probs(policy, episodes, used, batch_size)
        if values is None:
            no_weights = without_density(policy)
        else:
            target = scattered(values)
    logged = None
    if behavior is not None:
        name = behavior_name or ESTIMATED
        values = log_probs(behavior, episodes, used, batch_size)
        if values is None:
            raise InputError("the behavior policy has no density: " + without_density(behavior))
        logged = scattered(values)
    elif "behavior_log_prob" in episodes.data.keys():
        logged = padded(episodes.data["behavior_log_prob"])
    end = episodes.start + episodes.length - 1
    cut = episodes.data["next", "truncated"][end] & (episodes.length < steps)
    notes = []
    if bool(cut.any()):
        notes.append(
            f"{int(cut.sum()):,} of {episodes.n_episodes:,} episodes were cut from outside before the horizon of "
            f"{steps} steps; their later rewards are missing and count as 0"
        )
    return Trajectories(
        reward=padded(episodes.data["next", "reward"]),
        mask=mask,
        discount=discount,
        behavior_log_prob=logged,
        target_log_prob=target,
        elapsed=None if elapsed is None else padded(elapsed),
        behavior=name,
        no_weights=no_weights,
        groups=dict(groups or {}),
        clusters=clusters,
        cut=cut,
        notes=tuple(notes),
    )


def first_steps(episodes: Episodes, horizon: int) -> Episodes:
    """The first ``horizon`` steps of each episode, in order, as a table to ask value functions about.

    Its last steps may carry no flag, so it is no dataset to train on.
    """
    length = episodes.length.clamp(max=horizon)
    start = length.cumsum(0) - length
    rows = torch.arange(int(length.sum())) + torch.repeat_interleave(episodes.start - start, length)
    return replace(
        episodes, data=episodes.data[rows], start=start, length=length, notes=list(episodes.notes), _fingerprint=None
    )


def pad(data: Trajectories, flat: Tensor) -> Tensor:
    """One number per step of `first_steps`, as ``[E, H]`` with 0 after the end.

    Raises:
        InputError: another number of steps.
    """
    if flat.shape != (int(data.mask.sum()),):
        raise InputError(f"expected one number per step, [{int(data.mask.sum())}], got {list(flat.shape)}")
    out = torch.zeros(data.mask.shape, dtype=torch.float64)
    out[data.mask] = flat.double()
    return out


def log_probs(policy: TargetPolicy, episodes: Episodes, rows: Tensor, batch_size: int = 65536) -> Tensor | None:
    """``log pi(a|s)`` at some rows of a dataset, ``[len(rows)]`` float64, or None for a policy without density."""
    parts = []
    for chunk in rows.split(batch_size):
        data = episodes.data[chunk]
        values = legal.log_prob(policy, data["observation"], data["action"], data.get("action_mask", None))
        if values is None:
            return None
        if values.shape != (len(chunk),):
            raise InputError(f"log_prob must give one number per action, [{len(chunk)}], got {list(values.shape)}")
        parts.append(values.double())
    return torch.cat(parts)
