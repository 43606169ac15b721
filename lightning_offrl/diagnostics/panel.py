"""All diagnoses of a policy's shift from a log; what is expensive and the same for all policies is done once."""

from __future__ import annotations

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.diagnostics.diagnosis import Diagnosis
from lightning_offrl.diagnostics.samples import Features, sample_steps
from lightning_offrl.diagnostics.shift import (
    density_ratio,
    discrepancy,
    distinguish,
    excess_surprisal,
    kl_divergence,
    knn_divergence,
)
from lightning_offrl.diagnostics.support import VAESupport, neighbor_support
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import ClippedNormal, TargetPolicy
from lightning_offrl.training.old_code import takes_old_keywords


class ShiftPanel:
    """Diagnoses one policy after the other (during training, or several trained ones) on the same log.

        print(as_text(ShiftPanel(episodes, behavior).diagnose(policy)))

    Args:
        episodes: The log, with two episodes or more.
        behavior: The policy that made the log, true or fitted (`ope.policies.behavior.fit_behavior`). None leaves out
            what needs its density, except weights where the log has probabilities.
        horizon: The number of first steps of each episode that count; None: all.
        states: The number of logged steps that are used.
        vae: Whether a VAE is trained for the support of continuous actions.
        features: A function to vectors, for other observations, see `samples.sample_steps`.
        seed: The seed of all random numbers.

    Raises:
        InputError: fewer than two episodes, or observations that need ``features``.
    """

    @takes_old_keywords
    def __init__(
        self,
        episodes: Episodes,
        behavior: TargetPolicy | None = None,
        *,
        horizon: int | None = None,
        states: int = 5000,
        vae: bool = True,
        features: Features | None = None,
        seed: int = 0,
    ) -> None:
        if episodes.n_episodes < 2:
            raise InputError(f"a shift is measured against other episodes, but {episodes.name} has only one")
        self.episodes, self.behavior, self.horizon, self.seed = episodes, behavior, horizon, seed
        self.discrete = episodes.spec["action_kind"] == "discrete"
        self.steps = sample_steps(episodes, horizon=horizon, states=states, features=features, seed=seed)
        """The logged steps on which every policy is diagnosed."""
        self.vae = None
        if vae and not self.discrete:
            self.vae = VAESupport(episodes, horizon=horizon, features=features, seed=seed)

    def diagnose(self, policy: TargetPolicy, density: TargetPolicy | None = None) -> list[Diagnosis]:
        """Every diagnosis that applies, support first.

        Args:
            policy: The policy as it acts.
            density: For a policy that acts greedily, the density that it was trained with, for divergence and weights;
                one that is clipped when it acts is taken as truncated. None: the policy itself.
        """
        episodes, horizon, seed, behavior = self.episodes, self.horizon, self.seed, self.behavior
        density = policy if density is None else density
        density = density.truncated() if isinstance(density, ClippedNormal) else density
        has_density = density.discrete or not density.is_deterministic
        pairs = self.steps.with_actions(policy, seed)
        found = [neighbor_support(episodes, policy, horizon=horizon, seed=seed)]
        if self.vae is not None:
            found.append(self.vae.diagnose(policy))
        if behavior is not None and has_density:
            found.append(kl_divergence(episodes, density, behavior, horizon=horizon, states=len(pairs), seed=seed))
        if not self.discrete and not policy.is_deterministic:
            found.append(knn_divergence(episodes, policy, horizon=horizon, pairs=pairs))
        found.append(distinguish(episodes, policy, horizon=horizon, seed=seed, pairs=pairs))
        found.append(discrepancy(episodes, policy, horizon=horizon, seed=seed, pairs=pairs))
        if behavior is not None:
            found.append(excess_surprisal(episodes, policy, behavior, horizon=horizon, states=len(pairs), seed=seed))
        if has_density and (behavior is not None or "behavior_log_prob" in episodes.data.keys()):
            # The log's own probabilities are exact where it has them; a fitted behavior stands in where it has none.
            logged = "behavior_log_prob" in episodes.data.keys()
            found.append(density_ratio(episodes, density, None if logged else behavior, horizon=horizon))
        return found
