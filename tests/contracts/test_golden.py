"""A stored fingerprint of three updates per algorithm, in float64 so that it holds on every CPU.

``OFFRL_UPDATE_GOLDEN=1 pytest tests/contracts/test_golden.py`` stores those that are missing or have moved, and leaves
the others as they are. If a change moves one on purpose, list which and why under **Changes results** in CHANGELOG.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from tests.contracts.pages import batch_for, constant, episodes_for, every_algorithm, small

FILE = Path(__file__).resolve().parents[1] / "golden" / "fingerprints.json"


def fingerprint(algorithm) -> dict[str, float]:
    """Per network a fixed projection of its parameters after three updates, and the last losses."""
    page = algorithm(episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm), seed=3).double()
    batch = page.prepare(batch_for(page).unsqueeze(0))[0]
    for _ in range(3):
        metrics = page.gradient_update(batch)
    found = {f"loss.{name}": value.item() for name, value in metrics.items()}
    for name, network in page.named_children():
        flat = torch.cat([p.detach().flatten() for p in network.parameters()] or [torch.zeros(1).double()])
        weights = np.cos(np.arange(len(flat)))  # no symmetry that a permutation could hide in
        found[f"network.{name}"] = float(flat.numpy() @ weights)
    return found


@every_algorithm
def test_three_updates_have_not_changed(algorithm):
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    got, want = fingerprint(algorithm), stored.get(algorithm.__name__, {})
    same = got.keys() == want.keys() and np.allclose([got[k] for k in want], list(want.values()), 1e-9, 1e-12)
    if os.environ.get("OFFRL_UPDATE_GOLDEN") and not same:
        FILE.write_text(json.dumps({**stored, algorithm.__name__: got}, indent=1, sort_keys=True) + "\n")
        return
    assert want, "no fingerprint is stored; see this file's first lines"
    assert got.keys() == want.keys()
    np.testing.assert_allclose([got[k] for k in want], list(want.values()), rtol=1e-9, atol=1e-12)
