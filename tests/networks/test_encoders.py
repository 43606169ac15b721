"""From observations to features."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.testing import assert_close

from lightning_offrl.errors import InputError
from lightning_offrl.networks.encoders import Encoder

BOX = {"action_kind": "box", "action_size": 2, "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


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
