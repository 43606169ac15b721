"""The names that results carry, with what each means; printed with every table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.doubly_robust import doubly_robust, magic
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, importance_sampling, naive, per_decision
from lightning_offrl.ope.weighting.trajectories import Trajectories

Family = Literal["baseline", "weights", "hybrid", "values", "model", "ratios"]


@dataclass(frozen=True)
class Estimator:
    """One estimator of a policy's value.

    Attributes:
        name: in tables and on the command line.
        family: what it rests on; estimates of one family share their mistakes and do not confirm each other.
        definition: one line.
        terms: from padded episodes; None for what is fitted elsewhere.
        automatic: part of "auto".
    """

    name: str
    family: Family
    definition: str
    terms: Callable[[Trajectories], PerEpisodeTerms] | None = None
    automatic: bool = True


def _magic(data: Trajectories) -> PerEpisodeTerms:
    return magic(data)[0]


ESTIMATORS = {
    e.name: e
    for e in (
        Estimator("naive", "baseline", "mean return of the log: the behavior's value, not the policy's", naive),
        Estimator("is", "weights", "mean of (weight of the episode) x return", importance_sampling, automatic=False),
        Estimator(
            "wis",
            "weights",
            "mean return, weighted by the weights of whole episodes",
            partial(importance_sampling, normalized=True),
        ),
        Estimator("pdis", "weights", "each reward times the weight up to its own step", per_decision),
        Estimator(
            "cwpdis", "weights", "pdis, each step divided by its mean weight", partial(per_decision, normalized=True)
        ),
        Estimator("dr", "hybrid", "pdis with fitted values as control variate (Jiang and Li)", doubly_robust),
        Estimator("wdr", "hybrid", "dr with normalized weights", partial(doubly_robust, normalized=True)),
        Estimator("magic", "hybrid", "blend of wdr and fitted values by estimated error", _magic, automatic=False),
        Estimator("fqe", "values", "fitted Q evaluation: value of the first states under a fitted Q"),
        Estimator("lstd", "values", "linear fitted Q, solved exactly"),
        Estimator("mb", "model", "rollouts of the policy in a fitted model of the environment"),
        Estimator("dice", "ratios", "rewards weighted by a fitted ratio of state-action distributions (experimental)"),
        Estimator("drl", "hybrid", "fqe corrected by dice, each fitted to the other half of the log (experimental)"),
    )
}
RIS = (
    "behavior estimated: the probabilities in the weights are fitted to the log (is, wis, ... are then what Hanna, "
    "Niekum and Stone, 2019, call regression importance sampling, ris)"
)
KIS = "kernel: the deterministic policy is evaluated with a Gaussian blur of its action (kis)"


def chosen(names: tuple[str, ...], has_values: bool) -> list[Estimator]:
    """The estimators of padded episodes that were asked for, `naive` always among them.

    Args:
        names: of `ESTIMATORS`; "auto" stands for those that are automatic.
        has_values: whether q and v are there; without them "auto" leaves hybrids out.

    Raises:
        InputError: an unknown name.
    """
    unknown = [name for name in names if name != "auto" and name not in ESTIMATORS]
    if unknown:
        raise InputError(f"there is no estimator {unknown[0]!r}; there are auto, {', '.join(ESTIMATORS)}")
    out = []
    for e in ESTIMATORS.values():
        automatic = "auto" in names and e.automatic and (has_values or e.family != "hybrid")
        if e.terms is not None and (e.name == "naive" or e.name in names or automatic):
            out.append(e)
    return out
