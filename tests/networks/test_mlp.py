"""Stacked layers and dropout."""

import torch
from torch import nn
from torch.testing import assert_close

from lightning_offrl.networks.mlp import Dropout, StackedLayerNorm, StackedLinear
from lightning_offrl.rng import RandomStreams


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
