"""Shift inside a run of a log with masks: the page is told what is legal, in the log and in the environment."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium
import lightning as L
import numpy as np
import pytest
import torch

import lightning_offrl.diagnostics.panel as panel
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.callbacks.policy_shift import PolicyShiftMonitor
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.writers.collect import collect_arrays
from tests.envs.forbidding import INFO


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    told = panel.distinguish  # which questions are asked, not how well the classifier answers
    monkeypatch.setattr(panel, "distinguish", lambda *a, **k: told(*a, **{**k, "updates": 10}))


def fitted(source: Any, callback: PolicyShiftMonitor, **options: Any) -> tuple[DiscreteCQL, Any, dict[str, float]]:
    data = OfflineDataModule(source, batch_size=8, updates_per_step=1, discount=0.9)
    algorithm = DiscreteCQL(data.spec, hidden=(8,), seed=1, **options)
    trainer = L.Trainer(max_steps=3, logger=False, callbacks=[callback], enable_progress_bar=False,
                        enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(algorithm, data)
    found = trainer.callback_metrics.items()
    return algorithm.eval(), data, {k.removeprefix("shift/"): float(v) for k, v in found if k.startswith("shift/")}


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    return collect_arrays(INFO, episodes=80, quality=0)


def best(q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return q.mean(0).masked_fill(~mask, -torch.inf).argmax(-1)


def test_values_and_divergence_by_hand(source: dict[str, Any]) -> None:
    """At the best *legal* action, from the page's own networks; the divergence from counts of the log."""
    algorithm, module, logged = fitted(source, PolicyShiftMonitor(every=0, states=10_000), critics=2)
    data, start = module.train.data, module.train.start
    action, mask = data["action"], data["action_mask"]
    with torch.no_grad():
        q = algorithm.q(data["observation"])  # [2, T, 5]
    greedy = best(q, mask)
    free = best(q, torch.ones_like(mask))
    assert not bool(mask.gather(-1, free.unsqueeze(-1)).all())  # else this would not test anything
    at = [q.gather(-1, a.expand(2, -1).unsqueeze(-1)).squeeze(-1) for a in (action, greedy)]
    assert logged["q_gap"] == pytest.approx(float((at[1] - at[0]).mean()), abs=1e-5)
    assert logged["q_mean"] == pytest.approx(float(torch.cat(at).mean()), abs=1e-5)
    assert logged["v0"] == pytest.approx(float(at[1].mean(0)[start].mean()), abs=1e-5)
    state = data["observation"].argmax(-1)
    count = torch.zeros(8, 5).index_put_((state, action), torch.ones(len(state)), accumulate=True)
    bits = -(count / count.sum(-1, keepdim=True)).log2()[state, greedy]
    assert math.isfinite(float(bits.mean()))
    assert logged["kl_bits_step"] == pytest.approx(float(bits.mean()), rel=1e-5)


def test_the_gap_is_played_with_legal_actions(source: dict[str, Any]) -> None:
    """The environment raises on any other; V at first and last observations is that of the best legal action."""
    callback = PolicyShiftMonitor(every=0, states=200, behavior="none", episodes=6)
    algorithm, _, logged = fitted(source, callback)
    environment, gaps = gymnasium.make(INFO), []

    def asked(observation: Any, info: dict[str, Any]) -> tuple[int, float]:
        mask = torch.as_tensor(info["action_mask"]).bool()[None]
        mask = mask | ~mask.any(-1, keepdim=True)
        with torch.no_grad():
            q = algorithm.q(torch.as_tensor(observation)[None])
        action = int(best(q, mask)[0])
        return action, float(q.mean(0)[0, action])

    for episode in range(6):
        observation, info = environment.reset(seed=1000 + episode)
        total, t, end, cut = 0.0, 0, False, False
        first = asked(observation, info)[1]
        while not (end or cut):
            observation, reward, end, cut, info = environment.step(asked(observation, info)[0])
            total, t = total + 0.9**t * float(reward), t + 1
        last = 0.0 if end else asked(observation, info)[1]
        gaps.append(first - 0.9**t * last - total)
    assert logged["online_gap"] == pytest.approx(np.mean(gaps), abs=1e-4)


def test_the_first_of_stacked_seeds_is_told(source: dict[str, Any]) -> None:
    single, stacked = (
        fitted(source, PolicyShiftMonitor(every=0, states=150), critics=2, **options)[2]
        for options in ({}, {"seeds": 2})
    )
    assert set(single) == set(stacked)
    for name in set(single) - {"seconds"}:
        assert single[name] == pytest.approx(stacked[name], rel=1e-3, abs=1e-4), name
