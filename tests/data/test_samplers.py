"""Batch k is a pure function of (seed, k, rank); blocks end where they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from lightning_offrl.data.samplers import BlockLoader, SequentialBlocks, UniformSampler, gather, resident


def columns(size: int = 100) -> TensorDict:
    x = torch.arange(size, dtype=torch.float32)
    return TensorDict({"observation": x.unsqueeze(-1).expand(-1, 3).clone(), "next": {"reward": x}}, [size])


def test_indices_depend_on_seed_and_update_alone():
    one, other = UniformSampler(1000, 8, seed=3), UniformSampler(1000, 8, seed=3)
    other.indices(0, 17)
    assert torch.equal(one.indices(20, 5), other.indices(20, 5))
    assert torch.equal(one.indices(20, 5)[2:], one.indices(22, 3))
    assert not torch.equal(one.indices(20, 1), UniformSampler(1000, 8, seed=4).indices(20, 1))


def test_ranks_share_the_joint_batch():
    """A sampler seeded alike in every process draws the same batch on every rank, and N processes learn from one."""
    joint = UniformSampler(1000, 12, seed=0).indices(7, 2)
    ranks = [UniformSampler(1000, 4, seed=0, rank=r, world=3).indices(7, 2) for r in range(3)]
    assert torch.equal(torch.cat(ranks, dim=-1), joint)


def test_stacked_seeds_draw_what_single_seeds_draw():
    stacked = UniformSampler(1000, 4, seed=5, seeds=3).indices(2, 6)
    assert stacked.shape == (6, 3, 4)
    for i in range(3):
        assert torch.equal(stacked[:, i], UniformSampler(1000, 4, seed=5 + i).indices(2, 6))


def test_every_transition_is_drawn_alike():
    """Chi-square of 200,000 draws over 50 rows: mean 49, standard deviation 9.9."""
    counts = torch.bincount(UniformSampler(50, 1000, seed=0).indices(0, 200).flatten(), minlength=50).double()
    chi_square = ((counts - 4000).square() / 4000).sum().item()
    assert 49 - 5 * 9.9 < chi_square < 49 + 5 * 9.9


def test_gather_keeps_structure():
    got = gather(columns(), torch.tensor([[3, 1], [0, 99]]))
    assert got.batch_size == (2, 2) and got["next"].batch_size == (2, 2)
    assert got["next", "reward"].tolist() == [[3.0, 1.0], [0.0, 99.0]]
    assert got["observation"].shape == (2, 2, 3)


def test_columns_of_one_table_are_read_at_once(monkeypatch):
    """Every kind of column beside plain indexing: parts of two tables, nested ones, rows from the middle, one value."""
    table, other = torch.arange(700.0).view(100, 7), torch.arange(400).view(100, 4)
    sources = {
        "a": table[10:50, :2],
        "b": table[10:50, 2],
        "c": table[10:50, 3:7].unflatten(-1, (2, 2)),
        "later": table[20:60, 2:4],
        "integer": other[10:50, 1:3],
        "constant": torch.tensor(0.9).expand(40),
        "every other": table[10:50, ::2],
        "transposed": torch.arange(120.0).view(3, 40).T,
        "own": torch.arange(160.0).view(40, 4),
        "windows": torch.arange(45.0).unfold(0, 6, 1),
    }
    index = torch.tensor([[0, 39, 7], [7, 7, 20]])
    reads = []
    plain = torch.index_select
    monkeypatch.setattr(torch, "index_select", lambda *given: reads.append(given[0].shape) or plain(*given))
    got = gather(TensorDict(sources, [40]), index)
    for name, value in sources.items():
        assert torch.equal(got[name], value[index]) and got[name].is_contiguous(), name
    assert len(reads) == len(sources) - 2, "a, b and c are one"


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's list of mappings")
def test_a_mapped_table_is_paged_in_before_training(tmp_path):
    """Random rows would fault page by page; afterwards all 8 MB are there, and none of them is a private copy."""
    file = tmp_path / "table.npy"
    np.save(file, np.ones((1 << 18, 8), dtype=np.float32))
    table = torch.from_numpy(np.load(file, mmap_mode="c"))
    columns = TensorDict({"observation": table[:, :5], "next": {"reward": table[:, 5]}}, [1 << 18])

    def kilobytes() -> dict[str, int]:
        text = Path("/proc/self/smaps").read_text()
        lines = text[text.index(str(file)) :].splitlines()[1:]
        return {line.split(":")[0]: int(line.split()[1]) for line in lines[:20] if line.endswith("kB")}

    before = kilobytes()["Rss"]
    assert resident(columns, torch.device("cpu")) is columns
    after = kilobytes()
    assert before < 1024 < 8192 <= after["Rss"] and after["Anonymous"] == 0


def test_columns_move_to_a_device_that_holds_them_twice():
    """100 rows of 4 float32 are 1,600 bytes; the device "meta" stands for a GPU, and blocks are made there."""
    device = torch.device("meta")
    assert resident(columns(), torch.device("cpu")).device is None
    assert resident(columns(), device, free=3199).device is None
    moved = resident(columns(), device, free=3200)
    assert moved.device == device
    block = next(iter(BlockLoader(moved, UniformSampler(100, 4, 0), block=3, epoch=3)))
    assert block.device == device and block["observation"].shape == (3, 4, 3)
    assert all(value.device == device for value in block.values(True, True))


def sizes(loader: BlockLoader) -> list[int]:
    return [block.batch_size[0] for block in loader]


def test_the_last_block_is_cut_short():
    loader = BlockLoader(columns(), UniformSampler(100, 4, 0), block=10, epoch=33, stop=33)
    assert len(loader) == 4 and sizes(loader) == [10, 10, 10, 3]


def test_a_loader_goes_on_where_it_was_and_realigns():
    """Resumed after 33 updates, blocks end on multiples of K again, and batches are those of an uninterrupted run."""
    whole = torch.cat([b["next", "reward"] for b in BlockLoader(columns(), UniformSampler(100, 4, 0), 10, 60, 60)])
    loader = BlockLoader(columns(), UniformSampler(100, 4, 0), 10, 60, 60)
    loader.load_state_dict({"updates": 33})
    blocks = list(loader)
    assert [b.batch_size[0] for b in blocks] == [7, 10, 10]
    assert torch.equal(torch.cat([b["next", "reward"] for b in blocks]), whole[33:])
    assert loader.state_dict() == {"updates": 60} and sizes(loader) == []


def test_epochs_follow_each_other():
    loader = BlockLoader(columns(), UniformSampler(100, 4, 0), block=5, epoch=20)
    assert sizes(loader) == [5] * 4 and loader.position == 20
    assert sizes(loader) == [5] * 4 and loader.position == 40


def test_held_out_batches_come_in_order_and_spread():
    blocks = list(SequentialBlocks(columns(10), 4))
    assert [b["next", "reward"].tolist() for b in blocks] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9]]]
    assert SequentialBlocks(columns(100), 10, limit=3).starts == [0, 30, 60]
    assert next(iter(SequentialBlocks(columns(10), 4, seeds=2))).batch_size == (1, 2, 4)
