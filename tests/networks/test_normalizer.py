"""Standardized observations."""

import torch
from tensordict import TensorDict
from torch.testing import assert_close

from lightning_offrl.networks.normalizer import Normalizer

BOX = {"action_kind": "box", "action_size": 2, "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


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
