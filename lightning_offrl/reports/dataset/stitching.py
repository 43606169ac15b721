"""Stitching potential: how much better than any single episode the pieces of several, put together, could be.

Definition. Take the graph whose nodes are the sampled steps. From a step one may go on along its own episode, or, where
the next state is linked to a state of another episode (closer than half a typical step, see
`states.find_links`), change to that episode. With discount g, step t of an episode and at most m changes,

    V_0(t) = r_t + g r_{t+1} + ...                                  what was logged: the return from here on
    V_m(t) = r_t + g max( V_m(t + 1),  max over links j of V_{m-1}(j) )

so V_m is the best discounted return of a walk with at most m changes. It is exact (no iteration to convergence, no
cycles, as every change uses one up). An episode that was cut is taken to go on as it went: with the mean of its last
1 / (1 - g) rewards for ever (0 would make a cut look good wherever rewards are negative). At the first state of each
sampled episode,

    best single episode  = max of V_0 over this episode and the linked states of others
    stitched, m changes  = max of V_m over the same
    potential            = mean over the first states of (stitched - best single episode), with at most two changes

It is an optimistic estimate: it takes linked states to be the same state, each change skips up to half a step for
nothing, and where the environment is random it takes luck for skill (`Links.surprise` measures how much is random).
That is why two changes count here, not eight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.reports.dataset.states import Links

CHANGES = (1, 2, 4, 8)
COUNTED = 2
"""Changes of the potential."""


@dataclass(frozen=True)
class Stitching:
    """Values at the first states of the sampled episodes, discounted.

    Attributes:
        discount: g.
        episodes: sampled episodes E.
        steps: sampled steps.
        logged: mean of V_0, what the episodes themselves returned.
        single: mean of the best single episode from (nearly) the same start.
        changes: numbers m of changes.
        stitched: mean of the stitched value for each m.
        gain: the potential.
        gain_error: its standard error over the E starts.
        spread: standard deviation of V_0 over the starts.
        improved: share of the starts where stitching gains anything (more than a millionth of the largest value).
    """

    discount: float
    episodes: int
    steps: int
    logged: float
    single: float
    changes: tuple[int, ...]
    stitched: tuple[float, ...]
    gain: float
    gain_error: float
    spread: float
    improved: float


def stitching(links: Links, discount: float = 0.99) -> Stitching:
    """Evaluate the graph of `links`."""
    values = stitched_values(links, discount, max(CHANGES))
    start = links.episodes.start
    at_start = [torch.maximum(value, _best(value, links)[: len(value)])[start] for value in values]
    single, best = at_start[0], at_start[COUNTED]
    gain = best - single
    logged = values[0][start]
    count = len(start)
    error = float(gain.std()) / count**0.5 if count > 1 else float("nan")
    noise = 1e-6 * max(float(best.abs().max()), 1e-12)
    return Stitching(
        discount=discount,
        episodes=count,
        steps=len(links.episodes),
        logged=float(logged.mean()),
        single=float(single.mean()),
        changes=CHANGES,
        stitched=tuple(float(at_start[m].mean()) for m in CHANGES),
        gain=float(gain.mean()),
        gain_error=error,
        spread=float(logged.std()) if count > 1 else 0.0,
        improved=float((gain > noise).double().mean()),
    )


def stitched_values(links: Links, discount: float, changes: int) -> list[Tensor]:
    """``V_0`` to ``V_changes`` of every sampled step, ``[N]`` float64 each."""
    episodes = links.episodes
    start, length = episodes.start, episodes.length
    reward = episodes.data["next", "reward"].double()
    steps = int(length.max())
    # Padded [E, L + 1]: column t is step t; what lies behind the end stays 0.
    row = start[:, None] + torch.arange(steps)
    inside = torch.arange(steps) < length[:, None]
    row = torch.where(inside, row, 0)
    padded = torch.where(inside, reward[row], 0.0)
    end = torch.nn.functional.one_hot(length - 1, steps).bool()
    tail = _tail(links, discount)
    out: list[Tensor] = []
    for m in range(changes + 1):
        # What a change at the next state is worth: of step t + 1, and behind the end of a cut episode.
        change = torch.full((len(start), steps), -torch.inf, dtype=torch.float64)
        if m > 0:
            linked = _best(out[-1], links)
            change[:, :-1] = torch.where(inside[:, 1:], linked[row[:, 1:]], -torch.inf)
            behind = torch.full((len(start),), -torch.inf, dtype=torch.float64)
            behind[links.cut] = linked[len(reward) :]
            change = torch.where(end, behind[:, None], change)
        value = torch.zeros(len(start), steps + 1, dtype=torch.float64)
        for t in range(steps - 1, -1, -1):
            ahead = torch.maximum(torch.where(end[:, t], tail, value[:, t + 1]), change[:, t])
            value[:, t] = torch.where(inside[:, t], padded[:, t] + discount * ahead, 0.0)
        out.append(value[:, :steps][inside])
    return out


def _tail(links: Links, discount: float) -> Tensor:
    """What each episode is worth behind its last step, ``[E]``: 0 after a terminal state."""
    episodes = links.episodes
    reward = episodes.data["next", "reward"].double()
    window = max(1, round(1.0 / (1.0 - discount)))
    out = torch.zeros(episodes.n_episodes, dtype=torch.float64)
    for i in links.cut.tolist():
        end = int(episodes.start[i] + episodes.length[i])
        last = reward[max(int(episodes.start[i]), end - window) : end]
        out[i] = last.mean() / (1.0 - discount)
    return out


def _best(value: Tensor, links: Links) -> Tensor:
    """The largest value among the states that each state is linked to, ``[N + C]``; -inf where there is none."""
    if links.state is not None:
        best = torch.full((int(links.state.max()) + 1,), -torch.inf, dtype=torch.float64)
        best.scatter_reduce_(0, links.state[: len(value)], value, "amax")
        return best[links.state]
    found = torch.where(links.neighbors >= 0, value[links.neighbors.clamp(min=0)], -torch.inf)
    return found.max(1).values
