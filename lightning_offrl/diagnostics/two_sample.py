"""A classifier two-sample test: two sets of points, separated by a small network and judged on held-out points.

With equally many points of each kind its logit tends to the log density ratio, whatever the two distributions are
(Sugiyama, Suzuki and Kanamori, 2012). On held-out points it bounds from below

    TV >= share of p called p - share of q called p                                       (2 accuracy - 1)
    KL >= E_p[logit] - log E_q[exp logit]                                                 (Donsker and Varadhan, 1975)

up to sampling error: the test cannot make two policies look farther apart than they are.

The network is ours, because scikit-learn's `MLPClassifier` keeps its weights by held-out accuracy instead of held-out
loss, so that every number here would change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_offrl.networks.mlp import MLP
from lightning_offrl.rng import mix

_CHECKS = 16


@dataclass(frozen=True)
class TwoSampleResult:
    """How well the classifier separates the two sets.

    Attributes:
        auc: The probability that a point of p has a larger logit than one of q.
        tv: A lower bound of the total variation.
        kl_bits: A lower bound of ``KL(p || q)``, at least 0.
        logits_q: The logits of q, ``[N]``, each from the network that did not see its half.
    """

    auc: float
    tv: float
    kl_bits: float
    logits_q: Tensor


@torch.inference_mode(False)
def two_sample_test(
    p: Tensor,
    q: Tensor,
    group: Tensor,
    *,
    updates: int = 400,
    seed: int = 0,
) -> TwoSampleResult:
    """Train on one half and judge the other half, and the other way round.

    Args:
        p: ``[N, d]`` points, roughly standardized.
        q: ``[N, d]``, row i paired with row i of p.
        group: ``[N]`` int64; rows of one group (an episode) go to the same half. A single group is halved by row.
        updates: The number of updates of AdamW for each half; the weights with the smallest loss on a fifth of the
            training half are kept.
        seed: The seed of halves, weights and batches.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(mix(seed, 0xC1A5))
        x, y = p.detach().float(), q.detach().float()
        first = _first_half(group)
        logits = torch.zeros(2, len(x))
        for learning in (first, ~first):
            network = _learn(x[learning], y[learning], updates)
            with torch.no_grad():
                logits[0, ~learning] = network(x[~learning]).squeeze(-1)
                logits[1, ~learning] = network(y[~learning]).squeeze(-1)
    of_p, of_q = logits.double()
    halves = [half for half in (first, ~first) if bool(half.any())]
    auc = sum(area(of_p[half], of_q[half]) for half in halves) / len(halves)
    bound = sum(_donsker_varadhan(of_p[half], of_q[half]) for half in halves) / len(halves)
    tv = float((of_p > 0.0).double().mean() - (of_q > 0.0).double().mean())
    return TwoSampleResult(auc, max(tv, 0.0), max(bound / math.log(2.0), 0.0), of_q)


def area(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: P(positive > negative) + P(equal) / 2 (Mann and Whitney, 1947).

    >>> area(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    0.875
    """
    # scipy.stats.mannwhitneyu is hardly shorter, and its import takes half a second
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False) + torch.searchsorted(ordered, positive, right=True)
    return float(below.double().mean() / (2.0 * len(negative)))


def _donsker_varadhan(of_p: Tensor, of_q: Tensor) -> float:
    return float(of_p.mean() - (torch.logsumexp(of_q, 0) - math.log(len(of_q))))


def _first_half(group: Tensor) -> Tensor:
    names, row = group.unique(return_inverse=True)
    if len(names) < 2:
        return torch.arange(len(group)) < len(group) // 2
    order = torch.randperm(len(names))
    count = torch.bincount(row)[order].cumsum(0)
    chosen = order[: max(1, min(int((count <= len(group) // 2).sum()), len(names) - 1))]
    return torch.isin(row, chosen)


def _learn(p: Tensor, q: Tensor, updates: int) -> nn.Module:
    order = torch.randperm(len(p))
    held = max(len(p) // 5, 1)
    test, train = order[:held], order[held:] if len(p) > held else order
    network = MLP(p.shape[-1], (64, 64), 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    for update in range(updates):
        rows = train[torch.randint(len(train), (512,))]
        optimizer.zero_grad()
        _loss(network, p[rows], q[rows]).backward()
        optimizer.step()
        schedule.step()
        if (update + 1) % max(updates // _CHECKS, 1) == 0:
            with torch.no_grad():
                loss = float(_loss(network, p[test], q[test]))
            if loss < best[0]:
                best = loss, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best[1])
    return network


def _loss(network: nn.Module, p: Tensor, q: Tensor) -> Tensor:
    logits = network(torch.cat([p, q])).squeeze(-1)
    return F.softplus(-logits[: len(p)]).mean() + F.softplus(logits[len(p) :]).mean()
