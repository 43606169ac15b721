"""The compiled path equals the plain path, for every algorithm, with the compiler that users get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contracts.pages import ALGORITHMS, Graphs, checkpoints, distance, every_algorithm, fit, same

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
    """50 updates: float64 to 1e-9, also where the path changes at 20; float32 losses to 1e-3.

    The two graphs (four where the policy is delayed) are all that is compiled; every later run finds them.
    """
    double = {"enable_checkpointing": True}
    plain, _ = run(algorithm, "64-true", False, callbacks=checkpoints(tmp_path / "plain"), **double)
    whole, _ = run(algorithm, "64-true", True, callbacks=checkpoints(tmp_path / "compiled"), **double)
    assert distance(plain.state_dict(), whole.state_dict()) < 1e-9

    again, _ = run(algorithm, "64-true", True, ckpt_path=tmp_path / "compiled" / "step=20.ckpt")
    assert same(whole.state_dict(), again.state_dict()), "resumed on the compiled path"
    for name, optimizer in whole.optimizers_by_name.items():
        states = (opt.state_dict()["state"].values() for opt in (optimizer, again.optimizers_by_name[name]))
        assert all(same(one, other) for one, other in zip(*states, strict=True)), name
    for before, after in (("compiled", False), ("plain", True)):
        mixed, _ = run(algorithm, "64-true", after, ckpt_path=tmp_path / before / "step=20.ckpt")
        assert distance(plain.state_dict(), mixed.state_dict()) < 1e-9, f"{before}, then the other path"

    plain, plain_losses = run(algorithm, "32-true", False)
    compiled, compiled_losses = run(algorithm, "32-true", True)
    assert relative(plain_losses, compiled_losses) < 1e-3
    record_property("float32 parameters", distance(plain.state_dict(), compiled.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL", "DiscreteCQL"])
def test_compiled_bfloat16_is_plain_bfloat16(name):
    """Autocast is part of the graph: compiled and plain are as near as float32 sums in another order allow.

    A product of bfloat16 numbers is summed in float32 either way, but a sum that falls on the other side of a rounding
    moves a number by one unit of 2^-8. The bound is one such unit for a whole loss.
    """
    _, plain = run(ALGORITHMS[name], "bf16-mixed", False)
    page, compiled = run(ALGORITHMS[name], "bf16-mixed", True)
    assert relative(plain, compiled) < 2**-8
    assert all(p.dtype == torch.float32 for p in page.parameters())
