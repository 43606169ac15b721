"""FQE as an algorithm: targets out of bounds, and training under a trainer."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.doubles import Table, tabular_case
from tests.ope.linear_quadratic import BEHAVIOR, TARGET


def test_it_trains_under_a_trainer_with_the_ordinary_data_module(tmp_path) -> None:
    """Same settings, same seed: the Trainer's batches differ from `fqe`'s, the fixed point does not."""
    episodes, table = tabular_case(True)
    data = OfflineDataModule(episodes, discount=0.8, batch_size=1024)
    module = FQE(episodes.spec, discount=0.8, hidden=(), learning_rate=1e-2, tau=0.03, decay=(500, 800)).of(
        Table(table)
    )
    trainer = pl.Trainer(
        max_steps=800, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, data)
    q = EmpiricalMDP.from_episodes(episodes).fitted_q(torch.as_tensor(table), 0.8)
    with torch.no_grad():
        found = module.value(torch.eye(len(q)), torch.arange(3).expand(len(q), 3))[0, :, :, 0]
    seen = q != 0.0
    torch.testing.assert_close(found[seen].double(), q[seen], rtol=0.0, atol=0.03 * float(q.max() - q.min()))
    with pytest.raises(InputError, match="discount is 0.99 and that of the evaluation 0.8"):
        trainer.fit(module, OfflineDataModule(episodes))


def test_targets_out_of_bounds_are_clipped_and_counted() -> None:
    """An untrained network far off its bounds: every target is clipped."""
    episodes = BEHAVIOR.episodes(20, 20, seed=4)
    module = FQE(episodes.spec, discount=0.9, reward_range=(0.0, 1e-6), hidden=(8,)).of(TARGET.policy())
    block = OfflineDataModule(episodes, discount=0.9).columns()[:8].unsqueeze(0)
    with torch.no_grad():
        target, _, clipped = module.targets_of(module.prepare(block)[0])
    assert float(clipped) == 1.0 and float(target.max()) <= 1e-5
