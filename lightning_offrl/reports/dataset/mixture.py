"""How many policies made the data, and how random they were.

Definition. The episodes are taken as a mixture: each was made by one of K policies, chosen with probabilities w. With K
chosen as below, the *effective number of policies* is exp(H(w)), H the entropy in nats: K if all made the same number
of episodes, near 1 if one made nearly all. Policies are told apart only where they act differently in the same states.

Continuous actions: first what all policies have in common is removed, a = f(s) + r, with f a ridge regression on random
Fourier features (Rahimi and Recht, 2007; width and ridge are those that predict the other half of the episodes best).
Then policy k says ``r ~ Normal(W_k phi(s), diag(v_k))`` with a smaller set of features phi. Discrete actions: policy k
is a table of probabilities, one row for each state where states repeat, else for each of `CELLS` cells (k-means). Both
are fitted by expectation maximization over whole episodes, from sufficient statistics of each. Steps of an episode are
not independent: in the posterior over policies its log-likelihood is divided by the autocorrelation time of r (less a
linear fit of each episode, so that what a policy does steadily does not count as noise).

K maximizes the held-out log-likelihood per decision (fitted on one half of the episodes, evaluated on the other, both
ways) minus a price for each policy: `PRICE` nats, or half of it per action dimension where that is more; half of it
for discrete actions. Two policies in equal shares pay it when their mean actions differ by about 0.6 standard
deviations of the noise (the gain is d^2 / 8 nats for a difference of d). It is a threshold of ours, between what a
misfit of the model earns and what a policy earns: data of a single trained policy (hopper medium) gains 0.01 at most
for a second one at a price of 0.06, data of two (hopper medium-expert) 0.08. A policy that made few of the steps does
not pay and is not seen; one that switches between extremes may count as two.

The *spread* of the actions in a state is the noise that remains when states become equal, by the Gamma test (Evans and
Jones, 2002, https://doi.org/10.1098/rspa.2002.1010): half the squared difference between the actions of a state and of
its k-th nearest state in another episode, regressed over k on the squared distance of the two; the intercept is the
variance given the state. Discrete actions go in as one-hot vectors, whose variances add up to the probability that two
actions in the same state differ. Where the log says which actions were legal, random means random among these. The
entropy is that of the logged probabilities where there are any (of the policy
that acted), else of the Gaussian with that spread, or of the tables.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.reports.dataset.states import Scale, noise_variance, row_hashes

MOST = 6
"""Policies that are told apart at most."""
PRICE = 0.04
CELLS = 48
_STATES = 128
_COMMON, _OWN = 256, 32
_STEPS = 40_000
_FITTED = 400


@dataclass(frozen=True)
class Policies:
    """What the mixture says.

    Attributes:
        number: K.
        effective: exp(H(w)).
        shares: ``[K]`` w, largest first.
        at_most: K is the largest that was tried: there may be more.
        of_episode: ``[E]`` int64, the most probable policy of each episode, 0 the most frequent.
        gain: nats per decision that K policies gain over one, for each K that was tried, held out.
        price: nats per decision that each further policy has to gain.
        entropy: nats per decision, of the actions given the state; at most ``uniform_entropy``.
        entropy_error: its standard error over episodes where it is from logged probabilities, else nan.
        uniform_entropy: the same of uniformly random (legal) actions, the largest possible.
        logged: the entropy is from logged probabilities.
        spread: continuous: standard deviation of the actions given the state, in half ranges, per dimension; else None.
        disagreement: discrete: probability that two actions in the same state differ; else None.
        randomness: 0 for one action per state, 1 for uniformly random actions: the spread (root mean square over
            dimensions) over that of uniform actions, 1 / sqrt 3; or the disagreement over its largest, the mean of
            1 - 1 / n, with n actions being legal.
        predictable: share of the variance of the actions that the state explains, with the same variances.
        steps: decisions that the mixture was fitted on.
    """

    number: int
    effective: float
    shares: tuple[float, ...]
    at_most: bool
    of_episode: Tensor
    gain: tuple[float, ...]
    price: float
    entropy: float
    entropy_error: float
    uniform_entropy: float
    logged: bool
    spread: tuple[float, ...] | None
    disagreement: float | None
    randomness: float
    predictable: float
    steps: int


def find_policies(episodes: Episodes, scale: Scale, seed: int = 0) -> Policies:
    """Fit mixtures of 1 to `MOST` policies to (at most 40,000 evenly spread steps of) all episodes."""
    generator = torch.Generator().manual_seed(seed)
    rows, number = _steps(episodes)
    action = episodes.data["action"][rows]
    count = episodes.n_episodes
    fold = torch.randperm(count, generator=generator) % 2
    left, total = noise_variance(episodes, scale, seed)
    spread = disagreement = None
    model: _Tables | _Gaussians
    if episodes.spec["action_kind"] == "discrete":
        size = int(episodes.spec["action_size"])
        cell = _cells(episodes, scale, rows, generator)
        model = _Tables(cell, action, number, count, size)
        choices = _choices(episodes, size)
        uniform, price = float(choices.log().mean()), PRICE / 2
        disagreement, largest = float(left.sum()), float((1.0 - 1.0 / choices).mean())
        randomness = min(1.0, disagreement / largest) if largest > 0.0 else 0.0
    else:
        x = scale(episodes.data["observation"], rows)
        width = _width(x, generator)
        residual = _residual(x, action, fold[number] == 0, width, generator)
        model = _Gaussians(_features(x, width, _OWN, generator), residual, number, count)
        spread = tuple(left.sqrt().tolist())
        randomness = min(1.0, math.sqrt(3.0 * float(left.mean())))
        uniform, price = action.shape[1] * math.log(2.0), max(PRICE, PRICE / 2 * action.shape[1])
    # The number is chosen on some of the episodes, then every episode is given its policy.
    some = torch.randperm(count, generator=generator)[:_FITTED].sort().values
    part, half = model.take(some), fold[some]
    halves = [half == 0, half == 1] if len(set(half.tolist())) == 2 else [torch.ones(len(some), dtype=torch.bool)]
    single, gain = 0.0, []
    for k in range(min(MOST, max(1, len(some) // 4))):
        score = 0.0
        for test in halves:
            fitted = fit(part, k + 1, (~test if len(halves) == 2 else test).double(), generator)
            score += float(torch.logsumexp(part.log_likelihood(fitted), 1)[test].sum()) * model.tempering
        single = single if k else score
        gain.append((score - single) / float(part.steps.sum()))
        best = max(range(k + 1), key=lambda i: gain[i] - price * i)
        if k >= best + 2:  # two more that did not pay
            break
    fitted = fit(part, best + 1, torch.ones(len(some), dtype=torch.float64), generator, restarts=6)
    posterior = torch.softmax(model.log_likelihood(fitted), 1)
    order = posterior.mean(0).argsort(descending=True)
    shares = posterior.mean(0)[order]
    of_episode = order.argsort()[posterior.argmax(1)]
    error, logged = math.nan, "behavior_log_prob" in episodes.data.keys()
    if logged:
        value = torch.zeros(count, dtype=torch.float64)
        value.index_add_(0, episodes.episode_index(), -episodes.data["behavior_log_prob"].double())
        entropy, error = _mean(value, episodes.length.double())
    elif spread is None:
        entropy = min(uniform, -single / float(part.steps.sum()))
    else:
        gaussian = sum(0.5 * math.log(2.0 * math.pi * math.e * max(s * s, 1e-12)) for s in spread)
        entropy = min(uniform, gaussian)
    return Policies(
        number=best + 1,
        effective=float(torch.exp(-(shares * shares.clamp(min=1e-300).log()).sum())),
        shares=tuple(shares.tolist()),
        at_most=best + 1 == MOST,
        of_episode=of_episode,
        gain=tuple(gain),
        price=price,
        entropy=entropy,
        entropy_error=error,
        uniform_entropy=uniform,
        logged=logged,
        spread=spread,
        disagreement=disagreement,
        randomness=randomness,
        predictable=max(0.0, 1.0 - float(left.sum() / total.sum())) if float(total.sum()) > 0 else 1.0,
        steps=len(rows),
    )


def _choices(episodes: Episodes, size: int) -> Tensor:
    """``[T]`` float64: how many of the discrete actions were legal."""
    mask = episodes.data.get("action_mask", None)
    return torch.full((len(episodes),), float(size), dtype=torch.float64) if mask is None else mask.sum(-1).double()


def _mean(total: Tensor, steps: Tensor) -> tuple[float, float]:
    """Mean per decision and its standard error (a ratio of sums over episodes, linearized)."""
    mean = float(total.sum() / steps.sum())
    if len(total) < 2:
        return mean, float("nan")
    residual = total - mean * steps
    return mean, float(residual.std() * len(total) ** 0.5 / steps.sum())


def _steps(episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Rows spread evenly over each episode, and the episode of each."""
    most = max(8, _STEPS // episodes.n_episodes)
    taken = episodes.length.clamp(max=most)
    number = torch.repeat_interleave(torch.arange(episodes.n_episodes), taken)
    within = torch.arange(int(taken.sum())) - torch.repeat_interleave(taken.cumsum(0) - taken, taken)
    return episodes.start[number] + within * episodes.length[number] // taken[number], number


def _width(x: Tensor, generator: torch.Generator) -> float:
    """Median distance between states."""
    some = x[torch.randint(len(x), (min(len(x), 600),), generator=generator)]
    return max(float(torch.pdist(some).median()) if len(some) > 1 else 1.0, 1e-3)


def _features(x: Tensor, width: float, size: int, generator: torch.Generator) -> Tensor:
    """A constant, the numbers themselves (the 8 directions of largest variance where ``size`` is small), and waves."""
    weight = torch.randn(x.shape[1], size, generator=generator) / width
    phase = 2.0 * math.pi * torch.rand(size, generator=generator)
    waves = torch.cos(x @ weight + phase).mul_((2.0 / size) ** 0.5)
    linear = x
    if size < x.shape[1] + _OWN and x.shape[1] > 8:
        linear = x @ torch.linalg.eigh((x.T @ x).double())[1][:, -8:].float()
    return torch.cat([torch.ones(len(x), 1), linear, waves], 1)


def _residual(x: Tensor, action: Tensor, train: Tensor, width: float, generator: torch.Generator) -> Tensor:
    """Actions less what the state predicts, ``[n, A]``: one regression for all episodes.

    Its width and ridge are those that predict the other half of the *episodes* best, so that it does not learn what is
    particular to one of them, which is what has to be left over.
    """
    best: tuple[float, Tensor, float] | None = None
    halves = bool(train.any()) and not bool(train.all())
    for relative in (0.5, 1.0, 2.0):
        features = _features(x, relative * width, _COMMON, generator)
        for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            fitted = train if halves else ~train | train
            error = action - features @ _ridge(features[fitted], action[fitted], ridge)
            size = float(error[~train if halves else train | ~train].double().square().mean())
            if best is None or size < best[0]:
                best = (size, features, ridge)
    assert best is not None
    return action - best[1] @ _ridge(best[1], action, best[2])


def _ridge(features: Tensor, action: Tensor, ridge: float) -> Tensor:
    gram = (features.T @ features).double()
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram, (features.T @ action).double()).float()


def _cells(episodes: Episodes, scale: Scale, rows: Tensor, generator: torch.Generator) -> Tensor:
    """``[n]``: the number of the state where few states repeat, else of the nearest of `CELLS` centers."""
    x = scale(episodes.data["observation"], rows)
    state, cell = torch.unique(row_hashes(x), return_inverse=True)
    if len(state) <= _STATES:
        return cell
    center = x[torch.randperm(len(x), generator=generator)[:CELLS]]
    for _ in range(8):
        cell = torch.cat([torch.cdist(part, center).argmin(1) for part in x.split(8192)])
        count = torch.bincount(cell, minlength=len(center)).clamp(min=1)
        center = torch.zeros_like(center).index_add_(0, cell, x) / count[:, None]
    return cell


class _Tables:
    """Policies as tables of probabilities; the statistics of an episode are counts ``[C, A]``."""

    def __init__(self, cell: Tensor, action: Tensor, number: Tensor, episodes: int, size: int) -> None:
        cells = int(cell.max()) + 1
        flat = (number * cells + cell) * size + action
        self.counts = torch.bincount(flat, minlength=episodes * cells * size).double().view(episodes, cells, size)
        self.steps = self.counts.sum((1, 2))
        pooled = self.counts.sum(0) + 0.5 / size
        self.prior = 0.5 * size * pooled / pooled.sum(1, keepdim=True)  # shrinks towards what all policies do
        self.tempering = 1.0

    def take(self, index: Tensor) -> _Tables:
        """These episodes alone."""
        out = copy.copy(self)
        out.counts, out.steps = self.counts[index], self.steps[index]
        return out

    def maximize(self, weight: Tensor) -> tuple[Tensor, ...]:
        table = torch.einsum("ek,eca->kca", weight, self.counts) + self.prior
        return weight.sum(0).clamp(min=1e-9) / weight.sum(), table / table.sum(-1, keepdim=True)

    def log_likelihood(self, fitted: tuple[Tensor, ...]) -> Tensor:
        share, table = fitted
        return torch.einsum("eca,kca->ek", self.counts, table.log()) / self.tempering + share.log()


class _Gaussians:
    """Policies as linear Gaussians on features; the statistics of an episode are second moments."""

    def __init__(self, features: Tensor, residual: Tensor, number: Tensor, episodes: int) -> None:
        self.steps = torch.bincount(number, minlength=episodes).double()
        ends = self.steps.long().cumsum(0).tolist()
        size, actions = features.shape[1], residual.shape[1]
        self.gram = torch.empty(episodes, size, size)
        self.cross = torch.empty(episodes, size, actions, dtype=torch.float64)
        self.square = torch.empty(episodes, actions, dtype=torch.float64)
        linear = size - _OWN
        alone = torch.empty_like(residual)
        first = 0
        for i, last in enumerate(ends):
            f, r = features[first:last], residual[first:last]
            self.gram[i], self.square[i] = f.T @ f, r.double().square().sum(0)
            self.cross[i] = f.double().T @ r.double()
            own = self.gram[i, :linear, :linear] + torch.eye(linear)
            alone[first:last] = r - f[:, :linear] @ torch.linalg.solve(own, self.cross[i, :linear].float())
            first = last
        self.pooled = self.square.sum(0) / self.steps.sum() + 1e-6
        self.ridge = 10.0 * torch.eye(size, dtype=torch.float64)
        self.tempering = _autocorrelation_time(alone, number)

    def take(self, index: Tensor) -> _Gaussians:
        """These episodes alone."""
        out = copy.copy(self)
        out.gram, out.cross, out.square = self.gram[index], self.cross[index], self.square[index]
        out.steps = self.steps[index]
        return out

    def maximize(self, weight: Tensor) -> tuple[Tensor, ...]:
        count, size = weight.shape[1], self.gram.shape[1]
        gram = (weight.T.float() @ self.gram.view(len(weight), -1)).double().view(count, size, size) + self.ridge
        slope = torch.linalg.solve(gram, torch.einsum("ek,efa->kfa", weight, self.cross))
        steps = weight.T @ self.steps
        # Ten steps' worth of the pooled variance keep the variance of a small part from collapsing.
        variance = (torch.einsum("ek,eka->ka", weight, self._squares(slope)) + 10.0 * self.pooled) / (
            steps[:, None] + 10.0
        )
        return weight.sum(0).clamp(min=1e-9) / weight.sum(), slope, variance.maximum(1e-3 * self.pooled)

    def log_likelihood(self, fitted: tuple[Tensor, ...]) -> Tensor:
        share, slope, variance = fitted
        error = (self._squares(slope) / variance).sum(-1)
        constant = torch.log(2.0 * math.pi * variance).sum(-1)
        return -0.5 * (error + self.steps[:, None] * constant) / self.tempering + share.log()

    def _squares(self, slope: Tensor) -> Tensor:
        """Sums of squared errors of each episode under each policy, ``[E, K, A]``."""
        out = []
        for one in slope:
            quadratic = ((self.gram @ one.float()) * one.float()).sum(1).double()
            out.append(self.square - 2.0 * (self.cross * one).sum(1) + quadratic)
        return torch.stack(out, 1).clamp(min=0.0)


def _autocorrelation_time(residual: Tensor, number: Tensor) -> float:
    """``1 + 2 sum of autocorrelations`` of the residuals within episodes, up to the first below 0.05."""
    z = (residual - residual.mean(0)) / residual.std(0, correction=0).clamp(min=1e-6)
    total = 1.0
    for lag in range(1, 100):
        same = number[lag:] == number[:-lag]
        if int(same.sum()) < 100:
            break
        value = float((z[lag:][same] * z[:-lag][same]).mean())
        if value < 0.05:
            break
        total += 2.0 * value
    return total


def fit(
    model: _Tables | _Gaussians, number: int, mask: Tensor, generator: torch.Generator, restarts: int = 3
) -> tuple[Tensor, ...]:
    """Expectation maximization over the episodes of ``mask``; the best of some short starts is carried on."""
    starts = []
    for _ in range(restarts if number > 1 else 1):
        weight = torch.ones(len(mask), number, dtype=torch.float64)
        if number > 1:
            weight = torch.softmax(model.log_likelihood(model.maximize(_seeds(model, number, mask, generator))), 1)
        starts.append(_iterate(model, weight, mask, 8 if number > 1 else 1))
    best = max(starts, key=lambda start: start[0])
    return _iterate(model, best[1], mask, 40)[2] if number > 1 else best[2]


def _seeds(model: _Tables | _Gaussians, number: int, mask: Tensor, generator: torch.Generator) -> Tensor:
    """One episode for each policy, ``[E, K]``: the first at random, the others where those before explain least."""
    alone = torch.zeros(len(mask), number, dtype=torch.float64)
    alone[torch.multinomial(mask, 1, generator=generator), 0] = 1.0
    for k in range(1, number):
        so_far = model.log_likelihood(model.maximize(alone[:, :k])).max(1).values / model.steps
        gap = (so_far.max() - so_far) * mask
        chance = gap if float(gap.sum()) > 0 else mask
        alone[torch.multinomial(chance, 1, generator=generator), k] = 1.0
    return alone


def _iterate(
    model: _Tables | _Gaussians, weight: Tensor, mask: Tensor, most: int
) -> tuple[float, Tensor, tuple[Tensor, ...]]:
    """Log-likelihood, posterior ``[E, K]`` and parameters after at most so many iterations."""
    last = -math.inf
    for _ in range(most):
        fitted = model.maximize(weight * mask[:, None])
        likelihood = model.log_likelihood(fitted)
        total = float((torch.logsumexp(likelihood, 1) * mask).sum())
        weight = torch.softmax(likelihood, 1)
        if total - last < 1e-5 * abs(total):
            break
        last = total
    return total, weight, fitted
