"""Weighted and stratified batches: exact shares, and still a pure function of (seed, update, rank)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.readers import load
from lightning_offrl.data.samplers import UniformSampler
from lightning_offrl.data.strata import (
    Sampling,
    StratifiedSampler,
    WeightedSampler,
    copies,
    episode_hashes,
    quantile_group,
    return_weight,
)
from lightning_offrl.errors import InputError

STRATA = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)


def weighted(batch_size: int = 8, seed: int = 3, **settings: int) -> UniformSampler:
    return WeightedSampler(torch.arange(1000.0), batch_size, seed, **settings)


def stratified(batch_size: int = 8, seed: int = 3, **settings: int) -> UniformSampler:
    return StratifiedSampler(STRATA, torch.tensor([1.0, 1.0, 2.0]), batch_size, seed, **settings)


both = pytest.mark.parametrize("make", [weighted, stratified])


@both
def test_indices_depend_on_seed_and_update_alone(make: Callable[..., UniformSampler]) -> None:
    one, other = make(), make()
    other.indices(0, 17)
    assert torch.equal(one.indices(20, 5), other.indices(20, 5))
    assert torch.equal(one.indices(20, 5)[2:], one.indices(22, 3))
    assert not torch.equal(one.indices(20, 1), make(seed=4).indices(20, 1))


@both
def test_ranks_share_the_joint_batch(make: Callable[..., UniformSampler]) -> None:
    joint = make(12, 0).indices(7, 2)
    ranks = [make(4, 0, rank=r, world=3).indices(7, 2) for r in range(3)]
    assert torch.equal(torch.cat(ranks, dim=-1), joint)


@both
def test_stacked_seeds_draw_what_single_seeds_draw(make: Callable[..., UniformSampler]) -> None:
    stacked = make(4, 5, seeds=3).indices(2, 6)
    assert stacked.shape == (6, 3, 4)
    for i in range(3):
        assert torch.equal(stacked[:, i], make(4, 5 + i).indices(2, 6))


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts.double() - expected).square() / expected).sum())


def test_rows_are_drawn_in_proportion_to_their_weight() -> None:
    """Chi-square of 200,000 draws over 50 rows with weights 1..50: mean 49, standard deviation 9.9."""
    weight = torch.cat([torch.zeros(3), torch.arange(1.0, 51.0), torch.zeros(2)])
    drawn = WeightedSampler(weight, 1000, seed=0).indices(0, 200).flatten()
    counts = torch.bincount(drawn, minlength=55)
    assert counts[weight == 0].sum() == 0
    assert 49 - 5 * 9.9 < chi_square(counts[3:53], 200_000 * weight[3:53] / weight.sum()) < 49 + 5 * 9.9


def test_every_batch_has_its_shares_exactly() -> None:
    """Shares 1 : 1 : 2 of 8 rows are 2, 2 and 4 in every update, whatever the sizes of the strata (70, 20, 10)."""
    batches = STRATA[stratified().indices(0, 500)]
    for stratum, want in ((0, 2), (1, 2), (2, 4)):
        assert ((batches == stratum).sum(-1) == want).all()


def test_shares_that_do_not_divide_the_batch_are_exact_on_average() -> None:
    """n p = 10 (0.55, 0.37, 0.08): floor or ceiling in each update, n p over many (systematic sampling)."""
    shares = torch.tensor([0.55, 0.37, 0.08], dtype=torch.float64)
    sampler = StratifiedSampler(STRATA, shares, 10, seed=1)
    counts = torch.stack([(STRATA[sampler.indices(0, 4000)] == h).sum(-1) for h in range(3)], -1).double()
    assert (counts.sum(-1) == 10).all()
    assert ((counts - 10 * shares).abs() < 1).all()
    # A count is floor(n p) + Bernoulli(n p - floor(n p)), independent between updates.
    part = 10 * shares - (10 * shares).floor()
    error = (part * (1 - part) / 4000).sqrt()
    assert ((counts.mean(0) - 10 * shares).abs() < 4 * error).all()


def test_rows_of_a_stratum_are_drawn_alike_or_by_weight() -> None:
    drawn = StratifiedSampler(STRATA, None, 300, seed=0).indices(0, 400).flatten()
    inside = torch.bincount(drawn, minlength=100)[:70]
    assert int(inside.sum()) == 40_000
    assert 69 - 5 * 11.7 < chi_square(inside, torch.full((70,), 40_000 / 70)) < 69 + 5 * 11.7
    weight = torch.ones(100)
    weight[:35] = 0.0
    weight[90:] = torch.arange(1.0, 11.0)
    drawn = StratifiedSampler(STRATA, None, 300, seed=0, weight=weight).indices(0, 400).flatten()
    counts = torch.bincount(drawn, minlength=100)
    assert counts[:35].sum() == 0 and counts[35:70].sum() == counts[70:90].sum() == counts[90:].sum() == 40_000
    assert 9 - 5 * 4.2 < chi_square(counts[90:], 40_000 * weight[90:] / 55) < 9 + 5 * 4.2


def test_an_empty_stratum_may_have_no_share() -> None:
    strata = torch.tensor([0, 0, 2])
    assert set(StratifiedSampler(strata, None, 4, seed=0).indices(0, 9).flatten().tolist()) == {0, 1, 2}
    for shares, message in (
        ([1.0, 1.0, 1.0], "stratum 1 has the share 1 but no transition"),
        ([1.0], "there are 3 strata but 1 shares"),
        ([0.0, 0.0, 0.0], "shares of strata are all zero"),
        ([1.0, 0.0, -1.0], "must be finite numbers from 0 on"),
    ):
        with pytest.raises(InputError, match=message):
            StratifiedSampler(strata, torch.tensor(shares), 4, seed=0)
    with pytest.raises(InputError, match="stratum 2 has the share 1 but only transitions of weight 0"):
        StratifiedSampler(strata, None, 4, seed=0, weight=torch.tensor([1.0, 1.0, 0.0]))


def test_weights_by_return_are_the_formula() -> None:
    """exp(G / temperature) of returns scaled to [0, 1]: 0, 1/4 and 1 weigh e^0 : e^2.5 : e^10 at 0.1."""
    weight = return_weight(torch.tensor([-4.0, -3.0, 0.0]), 0.1)
    assert (weight / weight[0]).tolist() == pytest.approx([1.0, np.exp(2.5), np.exp(10.0)])
    assert return_weight(torch.tensor([2.0, 2.0]), 0.1).tolist() == [1.0, 1.0]


def test_groups_are_as_equal_as_ties_allow() -> None:
    assert quantile_group(torch.arange(8.0), 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert quantile_group(torch.tensor([5.0, 5.0, 5.0, 9.0]), 2).tolist() == [0, 0, 0, 1]
    assert quantile_group(torch.ones(5), 3).tolist() == [1] * 5


def test_copies_count_once(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    twice = episodes.select([0, 1, 2, 1, 3, 1])
    assert copies(episode_hashes(twice)).tolist() == [1, 3, 1, 3, 1, 3]
    weight = Sampling(weight="unique").weights(twice)
    assert weight is not None
    assert weight[:20].tolist() == [1.0] * 20 and weight[20:40].tolist() == [1 / 3] * 20
    assert episode_hashes(twice)[1] == episode_hashes(episodes)[1]
    changed = load({**arrays, "rewards": arrays["rewards"] + (np.arange(120) == 30)})
    assert [a == b for a, b in zip(episode_hashes(changed), episode_hashes(episodes), strict=True)] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]


def test_what_data_is_divided_by(arrays: dict[str, Any], make_arrays: Any) -> None:
    episodes = load(arrays)
    assert Sampling(strata="ending").stratum(episodes).view(6, 20)[:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    groups = Sampling(strata="return", groups=3).stratum(episodes).view(6, 20)
    order = episodes.returns().argsort()
    assert groups[order, 0].tolist() == [0, 0, 1, 1, 2, 2] and (groups == groups[:, :1]).all()
    sparse = load({**arrays, "rewards": np.where(np.arange(120) % 7 == 0, 1.0, 0.0)})
    assert Sampling(strata="reward").stratum(sparse).sum() == 18
    batch = Sampling(strata="reward", shares=[3, 1]).sampler(sparse, 32, seed=0).indices(0, 20)
    assert ((sparse.data["next", "reward"][batch] != 0).sum(-1) == 8).all()
    discrete = load({**arrays, "actions": np.arange(120) % 3})
    assert torch.equal(Sampling(strata="action").stratum(discrete), torch.arange(120) % 3)
    with pytest.raises(InputError, match="needs discrete actions, those of arrays are continuous"):
        Sampling(strata="action").sampler(episodes, 4, 0)
    with pytest.raises(InputError, match="has 2 numbers, but arrays has 4 strata by length"):
        Sampling(strata="length", shares=[1, 1]).sampler(episodes, 4, 0)


def test_policies_come_from_a_report(arrays: dict[str, Any], tmp_path: Path) -> None:
    episodes = load(arrays)
    report = tmp_path / "report.json"
    table = {one: i % 2 for i, one in enumerate(episode_hashes(episodes))}
    report.write_text(json.dumps({"episode_policies": table}))
    sampling = Sampling(strata="policy", report=str(report))
    part = episodes.select([4, 1])  # by content: a filter or a split changes nothing
    assert sampling.stratum(part).tolist() == [0] * 20 + [1] * 20
    for text, message in (
        ("{}", "is not a dataset report"),
        ("nonsense", "is not JSON"),
        ('{"episode_policies": {}}', "6 of 6 episodes of arrays are not in the dataset report"),
    ):
        report.write_text(text)
        with pytest.raises(InputError, match=message):
            sampling.stratum(episodes)
    with pytest.raises(InputError, match="cannot be read"):
        Sampling(strata="policy", report=str(tmp_path / "none.json")).stratum(episodes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strata": "returns"}, "sampling.strata cannot be 'returns'; did you mean 'return'"),
        ({"weight": "reward"}, "sampling.weight cannot be 'reward'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"groups": 1}, "groups must be at least 2"),
        ({"shares": [1.0]}, "shares are given but strata is 'none'"),
        ({"strata": "policy"}, "needs data.sampling.report"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("sampling", [{"weight": "return"}, {"strata": "return", "shares": [1, 0, 1, 2]}])
def test_resume_equals_no_interruption(arrays: dict[str, Any], sampling: dict[str, Any], tmp_path: Path) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from lightning_offrl.algorithms.bc import BC

    def train(folder: Path, **settings: Any) -> BC:
        data = OfflineDataModule(arrays, batch_size=8, sampling=Sampling(**sampling), updates_per_step=5, seed=2)
        model = BC(data.spec, hidden=(8, 8), seed=2)
        saved = ModelCheckpoint(folder / "saved", filename="{step}", every_n_train_steps=10, save_top_k=-1)
        trainer = pl.Trainer(
            max_steps=35, callbacks=[saved], logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        trainer.fit(model, data, **settings)
        return model

    whole = train(tmp_path)
    again = train(tmp_path / "again", ckpt_path=tmp_path / "saved" / "step=20.ckpt")
    assert again.updates == 35
    other = whole.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in again.state_dict().items())
