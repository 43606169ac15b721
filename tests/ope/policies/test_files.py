"""Policies from files of others."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.files import load_function, load_gaussian
from lightning_offrl.ope.policies.target import UniformMixture

BOX = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [0.0, -2.0],
    "action_high": [4.0, 2.0],
}


def write(folder, name="p", **changes):
    """A policy with one hidden layer and known weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        "layers.0.weight": torch.randn(4, 3, generator=generator),
        "layers.0.bias": torch.randn(4, generator=generator),
        "mean.weight": torch.randn(2, 4, generator=generator),
        "mean.bias": torch.zeros(2),
        "log_std_param": torch.tensor([-1.0, -0.5]),
        "obs_mean": torch.tensor([1.0, 0.0, -1.0]).double(),
        "obs_var": torch.tensor([4.0, 1.0, 0.25]).double(),
    }
    net = {"obs_dim": 3, "act_dim": 2, "hidden": [4], "activation": "tanh", "bias": True, "head": "mean", "norm": True}
    net |= {"norm_clip": 2.0, "norm_eps": 0.0}
    about = {
        "name": name,
        "dist": "tanh_normal",
        "std": None,
        "std_scale": 0.5,
        "squash_mean": True,
        "eps_uniform": 0.0,
    }
    (folder / f"{name}.json").write_text(json.dumps({**about, "net": net, **changes}))
    torch.save(weights, folder / f"{name}.pt")
    return weights


def test_network_by_hand(tmp_path):
    weights = write(tmp_path)
    policy = load_gaussian(tmp_path / "p")
    observation = torch.tensor([[3.0, 0.5, 5.0]])  # the last is 12 deviations away: clipped at 2
    x = torch.tensor([[1.0, 0.5, 2.0]])
    hidden = torch.tanh(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    mean, std = policy.parameters(observation)
    torch.testing.assert_close(mean.float(), hidden @ weights["mean.weight"].T)
    torch.testing.assert_close(std, 0.5 * torch.tensor([[-1.0, -0.5]]).double().exp())


@pytest.mark.parametrize(
    "changes", [{}, {"dist": "truncnorm"}, {"dist": "truncnorm", "std": 0.1}, {"eps_uniform": 0.2}]
)
def test_densities_integrate_to_one(tmp_path, changes):
    write(tmp_path, **changes)
    policy = load_gaussian(tmp_path / "p.json")
    assert isinstance(policy, UniformMixture) == bool(changes.get("eps_uniform"))
    edge = torch.linspace(-1, 1, 601, dtype=torch.float64)
    points = 0.5 * (edge[1:] + edge[:-1])
    mesh = torch.stack(torch.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    density = policy.log_prob(torch.zeros(1, 3).expand(len(mesh), 3), mesh).exp()
    assert float(density.sum()) * (2 / 600) ** 2 == pytest.approx(1.0, abs=2e-3)


def test_uniform_policy(tmp_path):
    write(tmp_path, dist="uniform")
    policy = load_gaussian(tmp_path / "p")
    assert policy.log_prob(torch.zeros(1, 3), torch.zeros(1, 2)).tolist() == pytest.approx([-2 * math.log(2)])


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(InputError, match="lacks one of them"):
        load_gaussian(tmp_path / "none")
    write(tmp_path, dist="cauchy")
    with pytest.raises(InputError, match="known: tanh_normal, truncnorm, uniform"):
        load_gaussian(tmp_path / "p")
    write(tmp_path)
    with pytest.raises(InputError, match="reads observations of 3 numbers, these have 5"):
        load_gaussian(tmp_path / "p").log_prob(torch.zeros(1, 5), torch.zeros(1, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_actions_are_scaled_from_the_units_of_the_environment(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    module.save(str(tmp_path / "p.ts"))
    observation = torch.randn(4, 3)
    raw = module(observation).detach()
    action = load_function(tmp_path / "p.ts", BOX).sample(observation, 1, torch.Generator())[0]
    torch.testing.assert_close(action, torch.stack([raw[:, 0] / 2 - 1, raw[:, 1] / 2], -1))
    same = load_function(tmp_path / "p.ts", BOX, scaled=True).sample(observation, 1, torch.Generator())[0]
    torch.testing.assert_close(same, raw)


def test_missing_or_damaged_function_files(tmp_path):
    with pytest.raises(InputError, match="no policy file"):
        load_function(tmp_path / "p.ts", BOX)
    (tmp_path / "p.ts").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read as TorchScript"):
        load_function(tmp_path / "p.ts", BOX)
