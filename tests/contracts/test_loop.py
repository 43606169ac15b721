"""The update loop, for every algorithm: steps are updates, K changes nothing, gradients stay home."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm import OfflineAlgorithm
from tests.contracts.pages import batch_for, constant, episodes_for, every_algorithm, fit, same, small


class Counter(pl.Callback):
    """Counts calls of ``update`` as the loop makes them."""

    def __init__(self) -> None:
        self.calls = 0

    def on_update_end(self, algorithm: OfflineAlgorithm) -> None:
        """Once per gradient update."""
        self.calls += 1


@every_algorithm
@pytest.mark.parametrize("k", [1, 4, 50])
def test_a_step_is_a_gradient_update(algorithm, k):
    """max_steps=53 makes 53 updates for any K: Lightning's own count, of optimizer steps, would end after a third."""
    counter = Counter()
    page, trainer = fit(algorithm, steps=53, data={"updates_per_step": k}, callbacks=[counter])
    assert counter.calls == page.updates == trainer.global_step == 53
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == -(-53 // k)


@every_algorithm
def test_k_changes_nothing(algorithm):
    one, _ = fit(algorithm, steps=30, data={"updates_per_step": 1})
    four, _ = fit(algorithm, steps=30, data={"updates_per_step": 4})
    assert same(one.state_dict(), four.state_dict())


@every_algorithm
def test_training_moves_every_network(algorithm):
    """A check that can fail for the tests above: nothing stays where it started."""
    page, _ = fit(algorithm, steps=20)
    fresh = algorithm(page.spec, **small(algorithm))
    for name, start in fresh.state_dict().items():
        if not name.startswith("normalizer"):
            assert not torch.equal(start, page.state_dict()[name]), f"{name} did not move"


@every_algorithm
def test_gradients_stay_home(algorithm):
    """minimize(policy=...) must not move, or leave gradients on, any other network.

    The policy's loss flows through Q: public code leaves its gradient there, and trusts the next zero_grad.
    """
    page = algorithm(episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm))
    plain, seen = page.minimize, []

    def watched(**losses: torch.Tensor) -> None:
        page.optimizers_by_name or page.configure_optimizers()
        mine = {id(p) for name in losses for p in page.optimizer_set.parameters(name)}
        others = {n: p for n, p in page.named_parameters() if id(p) not in mine}
        before = {n: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for n, p in others.items()}
        moved = {n: p.detach().clone() for n, p in page.named_parameters() if id(p) in mine}
        plain(**losses)
        for name, p in others.items():
            value, grad = before[name]
            assert torch.equal(p, value), f"{name} moved"
            assert (p.grad is None) == (grad is None) and (grad is None or torch.equal(p.grad, grad)), f"{name}.grad"
        assert all(not torch.equal(p, dict(page.named_parameters())[n]) for n, p in moved.items()), (
            "a step moved nothing"
        )
        seen.extend(losses)

    page.minimize = watched  # type: ignore[method-assign]
    for _ in range(4):
        page.gradient_update(batch_for(page))
    assert set(seen) == set(page.optimizers_by_name), "every optimizer is used"


@every_algorithm
def test_stacked_seeds_equal_single_runs(algorithm):
    """Seed i of a stacked run has the initial values, batches and noise of a single run with that seed.

    In float64, so that the order of summation inside a batched product does not matter.
    """
    stacked, _ = fit(algorithm, steps=12, model={"seeds": 3, "seed": 4}, data={"seed": 4}, precision="64-true")
    for i in range(3):
        single, _ = fit(algorithm, steps=12, model={"seed": 4 + i}, data={"seed": 4 + i}, precision="64-true")
        for (name, s), (_, p) in zip(stacked.named_parameters(), single.named_parameters(), strict=True):
            torch.testing.assert_close(s[i], p, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@every_algorithm
def test_seeds_differ(algorithm):
    one, _ = fit(algorithm, steps=3, model={"seed": 0})
    two, _ = fit(algorithm, steps=3, model={"seed": 1})
    assert not same(one.state_dict(), two.state_dict())


@every_algorithm
@pytest.mark.parametrize("seeds", [1, 3])
def test_clipping_bounds_every_optimizer_and_seed(algorithm, seeds):
    """The norm after clipping is the limit, per seed, with fused Adam."""
    page = algorithm(
        episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm), clip_grad_norm=1e-3, seeds=seeds
    )
    for _ in range(2):
        page.gradient_update(batch_for(page))
    for name in page.optimizers_by_name:
        squares = [p.grad.square() for p in page.optimizer_set.parameters(name)]
        norms = torch.stack([s.reshape(*page.lead, -1).sum(-1) for s in squares]).sum(0).sqrt()
        assert (norms <= 1e-3 * 1.001).all(), name
        if len(squares) > 1:  # a single learned number may have a smaller gradient
            torch.testing.assert_close(norms, torch.full(page.lead, 1e-3), rtol=1e-2, atol=0)


@every_algorithm
def test_losses_of_held_out_episodes_change_nothing(algorithm, tmp_path):
    """Validation logs val/ losses at updates 10, 20, 30 and leaves the run as it was."""
    held = {"validation_fraction": 0.25, "updates_per_step": 5}
    logger = CSVLogger(tmp_path)
    with_val, trainer = fit(algorithm, data=held, logger=logger, val_check_interval=10, log_every_n_steps=10)
    without, _ = fit(algorithm, data=held, limit_val_batches=0)
    assert same(with_val.state_dict(), without.state_dict())
    assert any(name.startswith("val/") for name in trainer.callback_metrics)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = next(i for i, name in enumerate(rows[0].split(",")) if name.startswith("val/"))
    assert [int(r.split(",")[0]) for r in rows[1:] if r.split(",")[column]] == [10, 20, 30]
    assert trainer.val_check_interval == 10, "the trainer's period is given back"


@every_algorithm
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions_train(algorithm, precision):
    page, _ = fit(algorithm, steps=6, precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    for name, value in page.state_dict().items():
        assert value.dtype in (dtype, torch.bool) and torch.isfinite(value).all(), name


@every_algorithm
def test_act_takes_raw_observations(algorithm):
    """act normalizes by itself: shifting data and statistics alike changes nothing."""
    page, _ = fit(algorithm, steps=5, model={"normalize_observations": True})
    observation = episodes_for(algorithm).data["observation"][:4]
    with torch.no_grad():
        before = page.act(observation)
        page.normalizer.mean_0 += 3.0
        after = page.act(observation + 3.0)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    if page.action_kind == "box":
        assert before.shape == (4, 2) and before.abs().max() <= 1.0


def test_periods_that_k_does_not_divide_name_a_k_that_fits():
    algorithm = next(iter(every_algorithm.args[1]))
    with pytest.raises(InputError, match=r"log_every_n_steps is 10 updates.*updates_per_step=4.*=2"):
        fit(algorithm, data={"updates_per_step": 4}, logger=CSVLogger("unused"), log_every_n_steps=10)
    with pytest.raises(InputError, match=r"ModelCheckpoint.every is 6 updates.*=3"):
        fit(
            algorithm,
            data={"updates_per_step": 5},
            enable_checkpointing=True,
            callbacks=[ModelCheckpoint("unused", every_n_train_steps=6)],
        )


def test_the_learning_rate_is_the_one_given_and_decays_to_zero():
    from lightning_offrl.algorithms.iql import IQL

    page, trainer = fit(IQL, steps=40, model={"learning_rate": 1e-3})
    rates = {name: opt.param_groups[0]["lr"] for name, opt in page.optimizers_by_name.items()}
    assert rates["q"] == rates["v"] == 1e-3
    assert abs(rates["policy"]) < 1e-12, "cosine to 0 at max_steps gradient updates, for any K"
