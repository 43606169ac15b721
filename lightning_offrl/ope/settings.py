"""What an evaluation of a policy is asked to estimate, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import Limits


@dataclass(frozen=True)
class OPESettings:
    """The settings of one evaluation; the same ones serve several policies.

    Attributes:
        discount: The discount factor per step, or per unit of time where the steps have times.
        horizon: How many first steps of an episode count; None counts whole episodes.
        estimators: Names of estimators from weights; "auto" stands for those that suit the data.
        reward_range: The lowest and the highest reward that a step can have. It gives guaranteed intervals, and bounds
            of the value that hold whatever the log lacks.
        max_weight: The largest weight that an episode can have, for guaranteed intervals of `is` and `pdis`.
        bandwidth: A deterministic continuous policy is evaluated blurred by a Gaussian of this width (kis).
        tail: The share of the worst episodes whose returns are estimated, too.
        level: The probability that each interval covers the value.
        interval: How intervals from weights are made, see `lightning_offrl.ope.weighting.intervals.METHODS`.
        n_boot: The number of bootstrap resamples.
        seed: The seed of resampling and of draws.
        limits: When an estimate from weights abstains.

    Raises:
        InputError: a number that has no meaning.
    """

    discount: float
    horizon: int | None = None
    estimators: tuple[str, ...] = ("auto",)
    reward_range: tuple[float, float] | None = None
    max_weight: float | None = None
    bandwidth: float | None = None
    tail: float | None = None
    level: float = 0.95
    interval: str = "auto"
    n_boot: int = 1000
    seed: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimators", tuple(self.estimators))
        if not 0.0 <= self.discount <= 1.0:
            raise InputError(f"discount must be from 0 to 1, got {self.discount:g}")
        for name, least in (("n_boot", 1), ("max_weight", 0), ("bandwidth", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{name} must be at least {least}, got {value:g}")
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            low, high = self.reward_range
            raise InputError(f"reward_range must be the lowest and the highest reward, got {low:g} and {high:g}")
