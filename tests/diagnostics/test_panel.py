"""What applies to which kind of policy, and that a panel says what its parts say."""

from __future__ import annotations

import math

import pytest
import torch

import lightning_offrl.diagnostics.panel as module
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.diagnostics.diagnosis import as_text
from lightning_offrl.diagnostics.panel import ShiftPanel
from lightning_offrl.diagnostics.shift import density_ratio, kl_divergence
from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import ClippedNormal, Deterministic, Discrete
from tests.diagnostics.gaussian import log_of, policy

ALWAYS = ["support_knn", "auc", "mmd2"]
EPISODES = log_of(2, 1, 600)


def names(panel: ShiftPanel, *policies: object) -> list[str]:
    return [one.name for one in panel.diagnose(*policies)]  # type: ignore[arg-type]


def test_what_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    told = module.distinguish  # which questions are asked, not how well the classifier answers
    monkeypatch.setattr(module, "distinguish", lambda *a, **k: told(*a, **{**k, "updates": 10}))
    bare = Episodes(EPISODES.data.exclude("behavior_log_prob"), EPISODES.start, EPISODES.length, EPISODES.spec)
    fixed = Deterministic(lambda o: torch.zeros(len(o), 1))
    stochastic, behavior = policy(1.0, 1), policy(0.0, 1)
    assert names(ShiftPanel(bare, vae=False), fixed) == ALWAYS
    knn = [ALWAYS[0], "kl_bits_knn", *ALWAYS[1:]]
    assert names(ShiftPanel(bare, vae=False), stochastic) == knn
    assert names(ShiftPanel(EPISODES, vae=False), stochastic) == [*knn, "ess_share"]
    known = ShiftPanel(EPISODES, behavior, vae=False)
    assert names(known, fixed) == [*ALWAYS, "surprisal_bits"]
    assert names(known, stochastic) == [ALWAYS[0], "kl_bits_traj", *knn[1:], "surprisal_bits", "ess_share"]
    # A policy that acts greedily, and the density it was trained with, clipped when it is sampled.
    clipped = ClippedNormal(stochastic.parameters)
    both = known.diagnose(fixed, clipped)
    assert [d.name for d in both] == [ALWAYS[0], "kl_bits_traj", *ALWAYS[1:], "surprisal_bits", "ess_share"]
    want = kl_divergence(EPISODES, stochastic, behavior, states=len(known.steps))
    assert both[1].value == pytest.approx(want.value, rel=1e-9)
    assert len(as_text(both).splitlines()) >= len(both)


def test_discrete_policies_of_the_sepsis_ward() -> None:
    ward = Sepsis()
    episodes = load(ward.dataset(ward.clinician(), 400))
    clinician = Discrete(lambda o: torch.as_tensor(ward.on_record(ward.clinician())(o.numpy())))
    panel = ShiftPanel(episodes, clinician, states=1_500)
    near, far = (
        {d.name: d for d in panel.diagnose(Discrete(lambda o, p=p: torch.as_tensor(ward.on_record(p)(o.numpy()))))}
        for p in (ward.policies()["as if not diabetic"], ward.policies()["protocol"])
    )
    assert set(near) == {*ALWAYS, "kl_bits_traj", "surprisal_bits", "ess_share"}
    assert near["kl_bits_traj"].level == "ok" and far["kl_bits_traj"].level == "alarm"
    assert near["auc"].value < far["auc"].value
    one, other = near["support_knn"], far["support_knn"]
    error = math.hypot(one.numbers["support_knn_error"], other.numbers["support_knn_error"])
    assert one.value - other.value > 3.0 * error
    logged = density_ratio(episodes, Discrete(lambda o: torch.as_tensor(ward.on_record(ward.clinician())(o.numpy()))))
    assert logged.value == pytest.approx(1.0, abs=1e-3)  # the clinician's own weights are all 1


def test_one_episode_is_too_few() -> None:
    with pytest.raises(InputError, match="has only one"):
        ShiftPanel(EPISODES.select([0]))
