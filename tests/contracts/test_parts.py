"""What a page is made of: targets that only follow, learned numbers that are parameters, normalized observations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_offrl.training.target_update import SoftTargetUpdate, soft_update
from tests.contracts.pages import ALGORITHMS, batch_for, constant, episodes_for, every_algorithm, fit, small


def made(algorithm):
    page = algorithm(episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm))
    page.configure_optimizers()
    return page


@every_algorithm
def test_targets_are_saved_frozen_and_in_no_optimizer(algorithm):
    """A target that learns by gradient, or is missing in a checkpoint, shows in no loss curve."""
    page = made(algorithm)
    assert set(page.targets) == {name for name, _ in page.named_children() if name.endswith("_target")}
    stepped = {id(p) for name in page.optimizers_by_name for p in page.optimizer_set.parameters(name)}
    for name in page.targets:
        parameters = dict(page.get_submodule(name).named_parameters())
        assert parameters and not any(p.requires_grad or id(p) in stepped for p in parameters.values())
        assert {f"{name}.{key}" for key in parameters} <= set(page.state_dict())


@every_algorithm
def test_everything_that_learns_is_a_parameter_of_the_module_in_one_optimizer(algorithm):
    """Temperatures and multipliers too.

    One public CQL keeps its multiplier as a plain tensor: moved to a GPU it is a copy, the optimizer steps the
    original, and no checkpoint holds it.
    """
    settings = {"lagrange_gap": 5.0} if "CQL" in algorithm.__name__ and algorithm.action_kind == "box" else {}
    page = algorithm(episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm), **settings)
    page.configure_optimizers()
    owners = [id(p) for name in page.optimizers_by_name for p in page.optimizer_set.parameters(name)]
    learning = {id(p): name for name, p in page.named_parameters() if p.requires_grad}
    assert len(owners) == len(set(owners)), "a parameter has two optimizers"
    assert set(owners) == set(learning)
    assert not any(isinstance(value, torch.Tensor) and value.requires_grad for value in vars(page).values())


@every_algorithm
def test_targets_follow_what_the_optimizer_left_once_per_update(algorithm):
    """(1 - tau) old + tau *new* after each of three updates, whatever the number of optimizers."""
    page = made(algorithm)
    if not page.targets:
        pytest.skip("no targets")
    period = 2 if "policy_period" in page.hparams else 1
    page.after_update = [SoftTargetUpdate(0.25, period).on_update_end]
    batch = batch_for(page)
    for update in range(1, 4):
        before = {t: [p.clone() for p in page.get_submodule(t).parameters()] for t in page.targets}
        page.gradient_update(batch)
        for target, source in page.targets.items():
            sources = page.get_submodule(source).parameters()
            tau = 0.25 if update % period == 0 else 0.0
            for old, new, s in zip(before[target], page.get_submodule(target).parameters(), sources, strict=True):
                torch.testing.assert_close(new, (1 - tau) * old + tau * s)


def test_buffers_of_targets_are_copied():
    """A target with BatchNorm whose statistics stay at zero and one values other inputs than its source."""
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(50, 3) * 4 + 2)
    soft_update(target, source, 0.005)
    assert torch.equal(target.running_mean, source.running_mean) and target.running_mean.abs().min() > 0
    assert torch.equal(target.num_batches_tracked, source.num_batches_tracked)


def test_polyak_averages_stay_in_float32():
    """In bfloat16 a step of 0.005 from 1 towards 1.01 is lost: the target would never move."""
    page, _ = fit(ALGORITHMS["SACN"], steps=1, precision="bf16-mixed")
    assert page.q_target.mlp.linear[0].weight.dtype == torch.float32
    lost, kept = torch.ones(1, dtype=torch.bfloat16), torch.ones(1)
    assert torch.lerp(lost, lost + 0.01, 0.005) == 1.0
    torch._foreach_lerp_([kept], [kept + 0.01], 0.005)
    assert kept.item() == pytest.approx(1.00005)


@every_algorithm
def test_both_observations_are_normalized_alike(algorithm):
    """The next one with the statistics of this one: a page that forgot it would bootstrap from other states."""
    page = made(algorithm)
    page.normalizer.fit({(): (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))})
    block = batch_for(page).unsqueeze(0)
    got = page.prepare(block)
    for key in ("observation", ("next", "observation")):
        if block.get(key, None) is not None:
            want = (block[key] - torch.tensor([1.0, 2.0, 3.0])) / (torch.tensor([0.5, 1.0, 2.0]) + 1e-3)
            torch.testing.assert_close(got[key], want)
    assert got["observation"] is not block["observation"], "the columns stay raw"
