"""The behavior policy, which collected the data, estimated by maximum likelihood.

Importance sampling with the behavior regressed on the *same* data that is evaluated is `ris` (Hanna, Niekum and
Stone, 2019, https://arxiv.org/abs/1806.01347): its error is usually below that of the true behavior's weights, and it
vanishes for counts on a deterministic bandit. Fitting on other data than is evaluated destroys that effect, so the
episodes that are held out here only decide when to stop.

    tabular      counts n(s, a) / n(s)
    discrete     a network's softmax, cross entropy
    continuous   a mixture of squashed or of truncated normals, log likelihood    (DOPE: tanh of one normal, AdamW 3e-4)
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from lightning_offrl.batch import IMITATION, Spec
from lightning_offrl.data.bootstrap import EpisodeBootstrap
from lightning_offrl.data.clusters import ClusterLabels
from lightning_offrl.data.datamodule import fit_normalizer
from lightning_offrl.data.episodes import Episodes, is_tabular
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError
from lightning_offrl.networks.discrete import CategoricalPolicy
from lightning_offrl.networks.mixtures import MixturePolicy
from lightning_offrl.ope.policies.masked import log_prob
from lightning_offrl.ope.policies.target import SquashedNormal, TruncatedNormal
from lightning_offrl.rng import mix
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.fit import fit_without_trainer

Family = Literal["auto", "squashed", "truncated"]


class BehaviorDensity(OfflineAlgorithm):
    """A density of the logged actions, trained by maximum likelihood.

    Args:
        spec: The spaces, with either kind of action.
        family: Whether the components of continuous actions are tanh of normals, or truncated normals.
        components: The number of components of the mixture of continuous actions.
        learning_rate: The learning rate of AdamW (DOPE's behavior cloning: 3e-4 for far longer fits).
        weight_decay: The weight decay of AdamW.
        decay_over: The number of updates over which the learning rate falls to 0 along a cosine; None: constant.
        hidden: The widths of the hidden layers.
        normalize_observations: Whether observations are standardized.
        **common: see `OfflineAlgorithm`.
    """

    needs = IMITATION

    def __init__(
        self,
        spec: Spec,
        *,
        family: Literal["squashed", "truncated"] = "squashed",
        components: int = 1,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-5,
        decay_over: int | None = None,
        hidden: tuple[int, ...] = (256, 256),
        normalize_observations: bool = True,
        **common: Any,
    ) -> None:
        self.action_kind = spec["action_kind"]  # type: ignore[misc]  # the density of either kind, by one rule
        super().__init__(spec, normalize_observations=normalize_observations, **common)
        size = spec["action_size"]
        if self.action_kind == "discrete":
            self.policy = self.network(lambda: CategoricalPolicy(self.encoder(), size, hidden))
        else:
            self.policy = self.network(
                lambda: MixturePolicy(self.encoder(), size, hidden, components, squashed=family == "squashed")
            )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on the negative log likelihood."""
        mask = batch.get("action_mask", None)
        legal = () if mask is None else (mask,)
        loss = -self.policy(batch["observation"], *legal).log_prob(batch["action"]).mean(-1)
        self.minimize(policy=loss.sum())
        return {"nll": loss}

    def act(self, observation: Any) -> Tensor:
        """The most likely action, discrete actions only."""
        if self.action_kind != "discrete":
            raise InputError("a mixture over continuous actions has no cheap mode; sample from the BehaviorModel")
        return self.policy(self.normalizer(observation)).mode

    def configure_optimizers(self) -> Any:
        """One AdamW."""
        hp = self.hparams
        over = hp["decay_over"]
        schedules = {"policy": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=over)} if over else {}
        return self.named_optimizers(
            schedules,
            policy=torch.optim.AdamW(
                self.policy.parameters(), lr=hp["learning_rate"], weight_decay=hp["weight_decay"], fused=True
            ),
        )


class BehaviorModel:
    """An estimated behavior policy, which is itself a `TargetPolicy`.

    Args:
        kind: "counts", "categorical", "squashed" or "truncated".
        module: the fitted density, or for counts the table ``[S, A]``.
        held_out_nll: nats per action on episodes that were not fitted.

    Attributes:
        notes: sentences on what was assumed.
    """

    is_deterministic = False

    def __init__(self, kind: str, module: BehaviorDensity | Tensor, held_out_nll: float) -> None:
        self.kind, self.held_out_nll = kind, held_out_nll
        self.discrete = kind in ("counts", "categorical")
        self.notes = [f"behavior estimated from the data ({kind}), {held_out_nll:.3f} nats per action held out"]
        self._module = module

    @torch.no_grad()
    def probabilities(self, observation: Any, action_mask: Tensor | None = None) -> Tensor | None:
        """``[B, n]`` float64 of discrete actions, else None; with a mask, over legal ones."""
        if isinstance(self._module, Tensor):
            table = self._module[observation.argmax(-1)]
            return table if action_mask is None else _restricted(table, action_mask)
        if not self.discrete:
            return None
        legal = () if action_mask is None else (action_mask,)
        return self._module.policy(self._module.normalizer(observation), *legal).log_probs.double().exp()

    @torch.no_grad()
    def log_prob(self, observation: Any, action: Tensor) -> Tensor:
        """``[B]`` float64; with counts -inf for an action never taken in a state that was seen."""
        if self.discrete:
            table = self.probabilities(observation)
            assert table is not None
            return table.gather(-1, action.unsqueeze(-1)).squeeze(-1).log()
        logits, mean, std = self._mixture(observation)
        count = logits.shape[-1]
        each = self._component(mean.flatten(0, 1), std.flatten(0, 1))
        log_prob = each.log_prob(None, action.repeat_interleave(count, 0)).view(-1, count)
        return torch.logsumexp(torch.log_softmax(logits, -1) + log_prob, -1)

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]``, discrete ``[n, B]``."""
        if self.discrete:
            table = self.probabilities(observation)
            assert table is not None
            return torch.multinomial(table, n, replacement=True, generator=generator).T.contiguous()
        logits, mean, std = self._mixture(observation)
        chosen = torch.multinomial(torch.softmax(logits, -1), n, replacement=True, generator=generator).T
        row = torch.arange(len(logits)).expand_as(chosen)
        each = self._component(mean[row, chosen].flatten(0, 1), std[row, chosen].flatten(0, 1))
        return each.sample(None, 1, generator)[0].unflatten(0, chosen.shape)

    def _mixture(self, observation: Any) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(self._module, BehaviorDensity)
        found = self._module.policy(self._module.normalizer(observation))
        return found.logits.double(), found.mean.double(), found.log_std.double().exp()

    def _component(self, mean: Tensor, std: Tensor) -> SquashedNormal | TruncatedNormal:
        kind = SquashedNormal if self.kind == "squashed" else TruncatedNormal
        return kind(lambda _: (mean, std))


@torch.inference_mode(False)
def fit_behavior(
    episodes: Episodes,
    *,
    held_out: float = 0.1,
    updates: int = 10_000,
    family: Family = "auto",
    components: int = 1,
    hidden: tuple[int, ...] = (256, 256),
    learning_rate: float = 3e-3,
    batch_size: int = 256,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> BehaviorModel:
    """The policy that most likely chose the logged actions.

    Args:
        episodes: The data; for `ris` the same that is evaluated.
        held_out: The share of the episodes on which the likelihood is measured, 20 times during a fit. Networks keep
            the weights of the best measurement; counts are of all episodes, whatever is held out.
        updates: The number of gradient updates; not used for counts. More is better on locomotion: on hopper medium,
            whose true behavior has -3.09 nats per action, 5,000 reach -2.38 at 3e-3 and -2.15 at 1e-3.
        family: The density of continuous actions. "auto" takes truncated normals where more than 0.1 % of the action's
            numbers lie on a face of the box (a squashed density has no mass there), else squashed ones.
        components: The number of components of the mixture.
        hidden: The widths of the hidden layers.
        learning_rate: The learning rate of AdamW at the beginning; it falls to 0 along a cosine.
        batch_size: The number of rows for each update.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are held out.
        seed: The seed of the split, the initial weights and the batches.

    Raises:
        InputError: fewer than two episodes.
    """
    train, test = split_by_episode(episodes, held_out, seed, clusters)
    if is_tabular(episodes):
        return _counts(episodes, train, test)
    action = episodes.data["action"]
    if episodes.spec["action_kind"] == "discrete":
        kind = "categorical"
    elif family == "auto":
        kind = "truncated" if float((action.abs() >= 1.0 - 1e-6).double().mean()) > 1e-3 else "squashed"
    else:
        kind = family
    module = BehaviorDensity(
        episodes.spec,
        family="truncated" if kind == "truncated" else "squashed",
        components=components,
        learning_rate=learning_rate,
        decay_over=updates,
        hidden=hidden,
        seed=seed,
    )
    fit_normalizer(module, episodes)
    keys = (*IMITATION, "action_mask") if "action_mask" in episodes.data.keys() else IMITATION
    held = episodes.select(test).data.select(*keys)
    length = episodes.length.clone()
    length[test] = 0
    sampler = EpisodeBootstrap(episodes.start, length, batch_size, mix(seed, 0xBE1A))
    best: tuple[float, dict[str, Tensor]] = (float("inf"), {})

    def keep_the_best() -> None:
        nonlocal best
        nll = _nll(BehaviorModel(kind, module, 0.0), held)
        if nll < best[0]:
            best = nll, copy.deepcopy(module.state_dict())

    fit_without_trainer(module, episodes.data.select(*keys), sampler, updates, looks=20, look=keep_the_best)
    if best[1]:
        module.load_state_dict(best[1])
    return BehaviorModel(kind, module, best[0])


@torch.no_grad()
def _nll(model: BehaviorModel, data: TensorDict, chunk: int = 16_384) -> float:
    total = 0.0
    for i in range(0, len(data), chunk):
        rows = data[i : i + chunk]
        found = log_prob(model, rows["observation"], rows["action"], rows.get("action_mask", None))
        assert found is not None
        total -= float(found.sum())
    return total / len(data)


def _restricted(table: Tensor, mask: Tensor) -> Tensor:
    """Probabilities ``[B, n]`` over legal actions alone; where none of these was ever taken, alike."""
    kept = table * mask
    total = kept.sum(-1, keepdim=True)
    alike = mask.double() / mask.sum(-1, keepdim=True)
    return torch.where(total > 0.0, kept / total.clamp(min=torch.finfo(torch.float64).tiny), alike)


def _counts(episodes: Episodes, train: Tensor, test: Tensor) -> BehaviorModel:
    states, actions = episodes.data["observation"].shape[-1], int(episodes.spec["action_size"])

    def count(of: Tensor) -> Tensor:
        data = episodes.select(of).data
        pair = data["observation"].argmax(-1) * actions + data["action"]
        return torch.bincount(pair, minlength=states * actions).double().view(states, actions)

    # held-out actions may be new, so that likelihood adds one half to every count (Krichevsky and Trofimov, 1981)
    fitted, held = count(train) + 0.5, count(test)
    nll = -float((held * (fitted / fitted.sum(-1, keepdim=True)).log()).sum() / held.sum())
    whole = count(torch.arange(episodes.n_episodes))
    total = whole.sum(-1, keepdim=True)
    table = torch.where(total > 0.0, whole / total.clamp(min=1.0), 1.0 / actions)
    model = BehaviorModel("counts", table, nll)
    unseen = int((total == 0.0).sum())
    if unseen:
        model.notes.append(f"{unseen} states without data are given uniform actions")
    return model
