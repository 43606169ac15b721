"""Stacked layers equal their members, encoders and the normalizer do what they say."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.testing import assert_close

from lightning_offrl.errors import InputError
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP, Dropout, StackedLayerNorm, StackedLinear
from lightning_offrl.networks.normalizer import Normalizer
from lightning_offrl.rng import RandomStreams, mix

BOX = {"action_kind": "box", "action_size": 2, "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


def test_stacked_linear_equals_one_linear_per_member():
    layer, x = StackedLinear(4, 3, (2, 5)), torch.randn(2, 5, 7, 4)
    got = layer(x)
    for s in range(2):
        for n in range(5):
            assert_close(got[s, n], x[s, n] @ layer.weight[s, n] + layer.bias[s, n])
    assert_close(layer(x[:, :2], members=2), got[:, :2])


def test_linear_starts_like_torch():
    torch.manual_seed(0)
    weight = StackedLinear(100, 200).weight
    assert weight.abs().max() <= 0.1
    assert_close(weight.std().item(), 0.1 / 3**0.5, rtol=0.02, atol=0)


def test_layer_norm_equals_torch():
    norm, x = StackedLayerNorm(6, (3,)), torch.randn(3, 4, 6)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    for n in range(3):
        assert_close(norm(x)[n], nn.functional.layer_norm(x[n], (6,), norm.weight[n], norm.bias[n]))


def test_ensemble_members_differ_and_have_no_trailing_one():
    spec = {"observation_shape": [3], **BOX}
    critics = Critics(Encoder(spec), 2, (8,), count=4)
    q = critics(torch.randn(5, 3), torch.randn(5, 2))
    assert q.shape == (4, 5)
    assert (q[0] - q[1]).abs().max() > 1e-3
    first = critics(torch.zeros(5, 3), torch.zeros(5, 2), members=1)
    assert_close(first, critics(torch.zeros(5, 3), torch.zeros(5, 2))[:1])


def test_bfloat16_stays_inside_the_network():
    net = MLP(3, (8,), 1)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert net(torch.randn(4, 3)).dtype == torch.float32


def test_dropout_is_a_function_of_seed_and_update():
    draws = RandomStreams(0)
    layer, x = Dropout(0.25, draws), torch.ones(4000, 50)
    draws.begin(3)
    first = layer(x)
    draws.begin(3)
    assert_close(layer(x), first)
    assert_close((first == 0).float().mean().item(), 0.25, rtol=0.02, atol=0)
    assert_close(first.mean().item(), 1.0, rtol=0.02, atol=0)
    assert layer.eval()(x) is x


def test_draws_of_a_rank_are_its_rows_of_the_joint_batch():
    joint, like = RandomStreams(7), torch.zeros(())
    joint.begin(5)
    whole = joint.normal((6, 2), like)
    for rank in range(3):
        mine = RandomStreams(7)
        mine.rank, mine.world = rank, 3
        mine.begin(5)
        assert_close(mine.normal((2, 2), like), whole[2 * rank : 2 * rank + 2])


def test_mix_separates_neighbors():
    seeds = {mix(seed, update) for seed in range(50) for update in range(50)}
    assert len(seeds) == 2500 and all(0 <= s < 2**63 for s in seeds)


def test_nested_observations_are_concatenated_by_name():
    spec = {"observation_shape": {"b": [2], "a": [1]}, **BOX}
    encoder = Encoder(spec)
    observation = TensorDict({"b": torch.tensor([[2.0, 3.0]]), "a": torch.tensor([[1.0]])}, [1])
    assert encoder.size == 3
    assert_close(encoder(observation), torch.tensor([[1.0, 2.0, 3.0]]))


def test_pictures_need_an_encoder_of_the_users():
    spec = {"observation_shape": [8, 8, 3], **BOX}
    with pytest.raises(InputError, match=r"shape \[8, 8, 3\] cannot be read by a plain network; pass `encoder`"):
        Encoder(spec)
    assert Encoder(spec, nn.Flatten()).size == 192


def test_a_wrong_encoder_is_explained():
    spec = {"observation_shape": [4], **BOX}
    with pytest.raises(InputError, match=r"must return \[B, features\]; for a batch of 2 it returned \[8\]"):
        Encoder(spec, nn.Flatten(0))
    with pytest.raises(InputError, match="the encoder failed on a tensor"):
        Encoder(spec, nn.Linear(3, 3))


def test_normalizer_by_hand():
    """(s - mean) / (std + epsilon), epsilon beside the deviation and not the variance; identity before it is fitted."""
    normalizer = Normalizer({"observation_shape": [2], **BOX}, epsilon=0.5)
    x = torch.tensor([[3.0, 1.0]])
    assert normalizer(x) is x
    normalizer.fit({(): (torch.tensor([1.0, 1.0]).double(), torch.tensor([1.5, 0.0]).double())})
    assert_close(normalizer(x), torch.tensor([[1.0, 0.0]]))
    other = Normalizer({"observation_shape": [2], **BOX}, epsilon=0.5)
    other(x)
    other.load_state_dict(normalizer.state_dict())
    assert_close(other(x), torch.tensor([[1.0, 0.0]]))


def test_normalizer_leaves_pictures_alone():
    spec = {"observation_shape": {"camera": [2, 2, 3], "state": [1]}, **BOX}
    normalizer = Normalizer(spec, epsilon=0.0)
    normalizer.fit({("state",): (torch.tensor([4.0]), torch.tensor([2.0]))})
    camera = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    out = normalizer(TensorDict({"camera": camera, "state": torch.tensor([[8.0]])}, [1]))
    assert_close(out["state"], torch.tensor([[2.0]]))
    assert out["camera"].dtype == torch.uint8
