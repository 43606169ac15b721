"""The compiled path equals the plain path, for every algorithm, with the compiler that users get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .pages import distance, every_algorithm, fit, same
from .test_resume import checkpoints
from .test_trace import Graphs

UPDATES = 50


def losses(trainer) -> dict[str, float]:
    """Means over the whole run of every metric that is a loss, the last ones logged."""
    return {name: v.item() for name, v in trainer.callback_metrics.items() if "loss" in name and "seed" not in name}


def run(algorithm, precision, compile, **settings):
    """Train; returns the page and its logged losses."""
    graphs = Graphs()
    page, trainer = fit(
        algorithm,
        precision=precision,
        model={"compile": compile},
        callbacks=[graphs, *settings.pop("callbacks", [])],
        **{"steps": UPDATES, "log_every_n_steps": UPDATES, **settings},
    )
    assert (graphs.made > 0) == compile, "which path was taken"
    return page, losses(trainer)


def relative(one: dict[str, float], other: dict[str, float]) -> float:
    """Largest relative difference of two runs' losses."""
    assert one.keys() == other.keys() and one
    return max(abs(a - other[name]) / max(abs(a), 1e-2) for name, a in one.items())


@pytest.mark.slow
@every_algorithm
def test_compiled_equals_plain_and_resumes_bit_for_bit(algorithm, tmp_path: Path, record_property):
    """50 updates: float64 to 1e-9, float32 losses to 1e-3, bf16-mixed losses to 5e-2; then resumption, both ways."""
    plain, _ = run(algorithm, "64-true", False)
    compiled, _ = run(algorithm, "64-true", True)
    assert distance(plain.state_dict(), compiled.state_dict()) < 1e-9

    whole_plain, plain_losses = run(algorithm, "32-true", False)
    saving = {"enable_checkpointing": True}
    whole, compiled_losses = run(algorithm, "32-true", True, callbacks=checkpoints(tmp_path / "compiled"), **saving)
    assert relative(plain_losses, compiled_losses) < 1e-3
    record_property("float32 parameters", distance(whole_plain.state_dict(), whole.state_dict()))

    again, _ = run(algorithm, "32-true", True, ckpt_path=tmp_path / "compiled" / "step=20.ckpt")
    assert same(whole.state_dict(), again.state_dict()), "resumed on the compiled path"
    for name, optimizer in whole._optimizers.items():
        states = (opt.state_dict()["state"].values() for opt in (optimizer, again._optimizers[name]))
        assert all(same(one, other) for one, other in zip(*states, strict=True)), name
    page, resumed = run(algorithm, "32-true", False, ckpt_path=tmp_path / "compiled" / "step=20.ckpt")
    assert relative(compiled_losses, resumed) < 1e-3, "resumed on the plain path"

    _, plain_losses = run(algorithm, "bf16-mixed", False)
    page, compiled_losses = run(algorithm, "bf16-mixed", True)
    record_property("bf16-mixed losses", relative(plain_losses, compiled_losses))
    assert relative(plain_losses, compiled_losses) < 5e-2
    assert all(p.dtype == torch.float32 for p in page.parameters())
