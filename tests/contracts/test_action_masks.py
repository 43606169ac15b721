"""Every algorithm of discrete actions, with masks: illegal actions might as well not exist, for losses and policies."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from torch.testing import assert_close

from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.writers.collect import collect_arrays
from lightning_offrl.envs.make import make_environment
from lightning_offrl.envs.rollout import evaluate
from lightning_offrl.policy import export_policy, load_policy
from tests.contracts.pages import ALGORITHMS, small
from tests.envs.forbidding import ACTIONS, DICT, INFO, IllegalAction

DISCRETE = {name: kind for name, kind in ALGORITHMS.items() if kind.action_kind == "discrete"}
every_discrete = pytest.mark.parametrize("algorithm", list(DISCRETE.values()), ids=list(DISCRETE))


@pytest.fixture(scope="module", params=[INFO, DICT], ids=["info", "observation"])
def data(request) -> dict[str, Any]:
    return collect_arrays(request.param, episodes=30, quality=0)


def tempted(page: pl.LightningModule, action: int = 3) -> pl.LightningModule:
    """Make one action look best everywhere."""
    with torch.no_grad():
        for name in ("q", "q_target", "policy"):
            if hasattr(page, name):
                page.get_submodule(name).mlp.linear[-1].bias[..., action] = 1e6
    return page


def without_penalty(algorithm) -> dict[str, Any]:
    """The penalty on logits is over all of them, legal or not; every other term is over legal ones."""
    return {"logit_penalty": 0.0} if "logit_penalty" in inspect.signature(algorithm).parameters else {}


def forged(network: torch.nn.Module, method: str, batch: TensorDictBase) -> None:
    """Give illegal actions any value: each call adds large numbers where the observation's mask is False."""
    plain, generator = getattr(network, method), torch.Generator().manual_seed(0)

    def call(observation: torch.Tensor, *args: Any) -> Any:
        out = plain(observation, *args)
        now = torch.equal(observation, batch["observation"])
        mask = batch["action_mask"] if now else batch["next", "action_mask"]
        mask = mask | ~mask.any(-1, keepdim=True)  # after the end nothing is legal, and nothing is bootstrapped
        return out + (~mask) * 1e3 * torch.randn(out.shape, generator=generator)

    setattr(network, method, call)


@every_discrete
def test_the_values_of_illegal_actions_change_no_loss(algorithm, data):
    """Whatever the networks say of them, for this observation and the next: every maximum, sum and likelihood."""
    if "action_mask" in data["observations"]:
        pytest.skip("the same columns")
    module = OfflineDataModule(data)
    columns = module.columns(tuple(algorithm.needs))
    batch = columns[torch.arange(64) % columns.batch_size[0]]
    if algorithm.needs == ("observation", "action"):
        batch = batch.set(("next", "action_mask"), batch["action_mask"])
    found = []
    for forge in (False, True):
        page = algorithm(module.spec, **small(algorithm), **without_penalty(algorithm), seed=1)
        page.evaluating = True
        for name, method in (("q", "forward"), ("q_target", "forward"), ("policy", "logits")):
            if forge and hasattr(page, name):
                forged(page.get_submodule(name), method, batch)
        page.draws.begin(0)
        found.append(page.update(batch))
    for name, want in found[0].items():
        assert_close(found[1][name], want, msg=lambda m, n=name: f"{n}: {m}")
    page.evaluating = True
    free = page.update(batch.exclude("action_mask", ("next", "action_mask")))
    assert any((free[name] - want).abs() > 1.0 for name, want in found[0].items()), "a check that can fail"


@every_discrete
def test_from_the_log_to_the_exported_policy_nothing_illegal_is_done(algorithm, data, tmp_path: Path):
    """The environment raises if it is; evaluation while training, afterwards, and by the exported policy."""
    module = OfflineDataModule(data, batch_size=16)
    page = algorithm(module.spec, **small(algorithm))
    played = EvaluateEnv(episodes=3, every=5, at_start=True)
    trainer = pl.Trainer(
        max_steps=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[played], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(page, module)
    assert [point.updates for point in played.curve] == [0, 5, 10]
    tempted(page.eval())
    environment = data["environment"]
    seen = evaluate(page.act, environment, episodes=4)
    policy = load_policy(export_policy(page, tmp_path / "policy.pt"))
    assert (evaluate(policy.act_scaled, environment, episodes=4).returns == seen.returns).all()
    env = make_environment(environment)
    (observation, info), total, over = env.reset(seed=1000), 0.0, False
    while not over:
        action = policy.act(observation, info.get("action_mask"))
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + reward, terminated or truncated
    assert total == seen.returns[0]
    with pytest.raises(IllegalAction):
        evaluate(lambda batch: page.act(batch), environment, episodes=4)


@every_discrete
def test_stacked_seeds_act_on_the_same_masks(algorithm, data):
    """Each seed plays as it would alone."""
    module = OfflineDataModule(data)
    stacked = algorithm(module.spec, **small(algorithm), seeds=2).eval()
    both = evaluate(stacked.act, data["environment"], episodes=3, lead=(2,))
    for i in range(2):
        alone = algorithm(module.spec, **small(algorithm), seed=i).eval()
        assert (evaluate(alone.act, data["environment"], episodes=3).returns == both.returns[i]).all()


@every_discrete
def test_samples_of_the_policy_are_legal(algorithm, data):
    """10,000 draws of every page that has a policy to draw from."""
    module = OfflineDataModule(data)
    page = tempted(algorithm(module.spec, **small(algorithm)))
    if not hasattr(page, "policy"):
        pytest.skip("it has no policy to draw from")
    columns = module.columns(("observation", "action"))
    rows = torch.arange(10_000) % columns.batch_size[0]
    observation, mask = columns["observation"][rows], columns["action_mask"][rows]
    drawn = page.policy(observation, mask).sample(torch.rand(10_000, ACTIONS))
    assert mask.gather(-1, drawn.unsqueeze(-1)).all()
    assert (drawn == 3).any() and (drawn != 3).any(), "3 wherever it is legal"
    assert np.isneginf(page.policy(observation, mask).log_probs[~mask].detach().numpy()).all()
