"""What the binding costs: IQL through the Trainer against a bare loop of the same arithmetic, interleaved in one run.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py

All sides make the same update: 256 x 256 networks (two critics in one batched product), batches of 256 transitions
drawn with replacement, V, policy and Q each with its fused Adam, Polyak averages.

    trainer      as ``offrl fit``: metrics every 50 updates to CSV, the progress bar, checkpoints (none falls due)
    bare         plain torch, a loop by hand over the same network modules; logs nothing
    functional   as bare, without modules: each network is a list of tensors; shows what ``nn.Module`` calls cost

They take turns of a few updates in one process, so all see the same machine; a check without a clock comes first: fed
the same batches, all end at the same parameters. One thread. Numbers are CPU time per update (another process on the
core does not count, though it takes cache); wall time stands in the JSON. The target: trainer / bare at most 1.05.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import lightning.pytorch as pl
import numpy as np
import torch
from score import RESULTS, cpu_model, write
from torch import Tensor
from torch.nn import functional as F

import lightning_offrl as offrl
from lightning_offrl.callbacks.checkpoint import Checkpoint
from lightning_offrl.callbacks.progress import ProgressBar
from lightning_offrl.loggers.metrics_csv import MetricsCSV

EXPECTILE, BETA, DISCOUNT, TAU, HALF_LOG_2PI = 0.7, 3.0, 0.99, 0.005, 0.5 * math.log(2 * math.pi)
Weights = list[tuple[Tensor, Tensor]]
"""Per layer weight ``[in, out]`` (``[2, in, out]`` for two critics) and bias."""


def forward(layers: Weights, x: Tensor) -> Tensor:
    """``[B, in]`` to ``[B, out]``, or ``[2, B, out]`` where the weights are stacked."""
    for i, (weight, bias) in enumerate(layers):
        if weight.ndim == 2:
            x = F.linear(x, weight.mT, bias)
        else:
            x = torch.baddbmm(bias.unsqueeze(-2), x.expand(len(weight), *x.shape[-2:]), weight)
        if i < len(layers) - 1:
            x = F.relu(x)
    return x


class Bare:
    """IQL by hand: what a researcher would write in one file, over our network modules.

    Args:
        model: gives the networks and their initial values; its own are left alone.
        columns: flat tensors ``[T, ...]``: observation, action, next observation, reward, terminated.
    """

    def __init__(self, model: Any, columns: list[Tensor]) -> None:
        self.columns, self.generator = columns, torch.Generator().manual_seed(0)
        self.build(*(copy.deepcopy(getattr(model, name)) for name in ("q", "q_target", "v", "policy")))
        self.adams = [torch.optim.Adam(self.flat[name], lr=3e-4, fused=True) for name in ("v", "policy", "q")]

    def build(self, q: Any, q_target: Any, v: Any, policy: Any) -> None:
        """Keep the networks, and their parameters by name."""
        self.critics, self.target_critics, self.value, self.policy = q, q_target, v, policy
        modules = {"q": q, "q_target": q_target, "v": v, "policy": policy}
        self.flat = {name: list(module.parameters()) for name, module in modules.items()}

    def density(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the policy."""
        density = self.policy(observation)
        return density.mean, density.log_std

    def sample(self, size: int = 256) -> list[Tensor]:
        """A batch drawn with replacement."""
        rows = torch.randint(len(self.columns[0]), (size,), generator=self.generator)
        return [column.index_select(0, rows) for column in self.columns]

    def update(self, batch: list[Tensor]) -> None:
        """One gradient update."""
        observation, action, next_observation, reward, terminated = batch
        action = action.clamp(-1.0 + 1e-5, 1.0 - 1e-5)
        adam_v, adam_policy, adam_q = self.adams

        with torch.no_grad():
            q_min = self.target_critics(observation, action).amin(0)
        u = q_min - self.value(observation)
        loss = (torch.where(u < 0, 1.0 - EXPECTILE, EXPECTILE) * u.square()).mean()
        adam_v.zero_grad()
        loss.backward()
        adam_v.step()

        with torch.no_grad():
            advantage = q_min - self.value(observation)
        mean, log_std = self.density(observation)
        z = (action - mean) * torch.exp(-log_std)
        log_prob = (-0.5 * z.square() - log_std - HALF_LOG_2PI).sum(-1)
        loss = -(torch.exp(BETA * advantage).clamp(max=100.0) * log_prob).mean()
        adam_policy.zero_grad()
        loss.backward()
        adam_policy.step()

        with torch.no_grad():
            target = reward + DISCOUNT * (~terminated).float() * self.value(next_observation)
        loss = (self.critics(observation, action) - target).square().mean(-1).sum()
        adam_q.zero_grad()
        loss.backward()
        adam_q.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.flat["q_target"], self.flat["q"], TAU)


class Functional(Bare):
    """The same loop without modules: a network is a list of weights and biases."""

    def build(self, q: Any, q_target: Any, v: Any, policy: Any) -> None:
        """Take the parameters out of the modules."""

        def own(module: Any) -> Weights:
            return [(linear.weight, linear.bias) for linear in module.mlp.linear]

        super().build(q, q_target, v, policy)
        q_weights, target_weights, v_weights, mean_weights = own(q), own(q_target), own(v), own(policy)
        log_std = policy.log_std
        self.value = lambda observation: forward(v_weights, observation).squeeze(-1)
        self.critics = lambda o, a: forward(q_weights, torch.cat([o, a], -1)).squeeze(-1)
        self.target_critics = lambda o, a: forward(target_weights, torch.cat([o, a], -1)).squeeze(-1)
        self.density = lambda o: (torch.tanh(forward(mean_weights, o)), log_std.clamp(-5.0, 2.0))  # type: ignore[method-assign]


SIDES = {"bare": Bare, "functional": Functional}


class Turns(pl.Callback):
    """After every ``turn`` updates of the Trainer, each bare loop makes as many; all are timed.

    Args:
        others: the other sides by name.
        turn: updates per turn.
        warm: updates of each side before the clock starts.
    """

    def __init__(self, others: dict[str, Bare], turn: int, warm: int) -> None:
        self.others, self.turn, self.warm = others, turn, warm
        self.times: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("trainer", *others)}
        self.since = (0.0, 0.0)

    def note(self, side: str, updates: int) -> None:
        """Milliseconds per update since the last call, CPU and wall."""
        now = (time.process_time(), time.perf_counter())
        if updates > self.warm:
            self.times[side].append(tuple(1000 * (b - a) / self.turn for a, b in zip(self.since, now, strict=True)))
        self.since = now

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.since = (time.process_time(), time.perf_counter())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if pl_module.updates % self.turn == 0:
            self.note("trainer", pl_module.updates)
            for name, side in self.others.items():
                for _ in range(self.turn):
                    side.update(side.sample())
                self.note(name, pl_module.updates)


def synthetic(rows: int = 300_000, episode: int = 500) -> dict[str, np.ndarray]:
    """Random numbers in Hopper's shape (11 observations, 3 actions); the clock does not care what they mean."""
    rng = np.random.default_rng(0)
    path = rng.normal(size=(rows // episode, episode + 1, 11)).astype(np.float32)
    terminals = np.zeros((rows // episode, episode), dtype=bool)
    terminals[:, -1] = True
    return {
        "observations": path[:, :-1].reshape(-1, 11),
        "next_observations": path[:, 1:].reshape(-1, 11),
        "actions": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals.reshape(-1),
        "timeouts": np.zeros(rows, dtype=bool),
    }


def new_sides(source: Any) -> tuple[Any, Any, dict[str, Bare]]:
    """A data module, an IQL, and the bare loops with the same initial values and columns."""
    data = offrl.OfflineDataModule(source, batch_size=256, discount=DISCOUNT)
    model = offrl.IQL(data.spec, hidden=(256, 256), policy_schedule="constant", normalize_observations=False)
    columns = data.columns()
    keys: list[Any] = ["observation", "action", ("next", "observation"), ("next", "reward"), ("next", "terminated")]
    return data, model, {name: kind(model, [columns[key] for key in keys]) for name, kind in SIDES.items()}


def largest_gap(model: Any, bare: Bare) -> float:
    """Largest absolute difference between the two sides' parameters."""
    return max(
        float((mine - theirs).abs().max())
        for name, flat in bare.flat.items()
        for mine, theirs in zip(flat, getattr(model, name).parameters(), strict=True)
    )


def trainer(steps: int, folder: str, *callbacks: pl.Callback) -> pl.Trainer:
    """As ``offrl fit`` sets one up, writing into ``folder``."""
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=MetricsCSV(folder),
        log_every_n_steps=50,
        default_root_dir=folder,
        enable_model_summary=False,
        callbacks=[ProgressBar(), Checkpoint(every=1_000_000), *callbacks],
    )


def same_arithmetic(source: Any, updates: int = 100) -> dict[str, float]:
    """Largest difference of parameters to the Trainer's after ``updates`` updates on the same batches, by side."""
    data, model, others = new_sides(source)
    with tempfile.TemporaryDirectory() as folder:
        attached = trainer(updates, folder)
        attached.fit(model, data)
        loader = data.train_dataloader()
    for block in loader:
        for batch in block.unbind(0):
            after = batch["next"]
            for side in others.values():
                side.update(
                    [batch["observation"], batch["action"], after["observation"], after["reward"], after["terminated"]]
                )
    return {name: largest_gap(model, side) for name, side in others.items()}


def main() -> int:
    """Check, measure, write, print; returns 1 if the two sides do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="dataset to train on; by default random numbers in Hopper's shape")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--turn", type=int, default=50, help="updates per turn, a multiple of 50")
    parser.add_argument("--out", default=str(RESULTS / "overhead.json"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    source = args.data or synthetic()
    gaps = same_arithmetic(source)
    if max(gaps.values()) > 1e-4:
        print(f"parameters differ after 100 updates, by {gaps}: not the same arithmetic", file=sys.stderr)
        return 1
    data, model, others = new_sides(source)
    warm = 4
    turns = Turns(others, args.turn, warm * args.turn)
    with tempfile.TemporaryDirectory() as folder:
        trainer((args.turns + warm) * args.turn, folder, turns).fit(model, data)

    result: dict[str, Any] = {
        "what": "IQL, 256 x 256, batch 256, one thread: milliseconds per gradient update, turns interleaved in one run",
        "largest_parameter_difference_after_100_updates": gaps,
        "updates_per_turn": args.turn,
        "versions": {name: version(name) for name in ("lightning-offrl", "torch", "lightning", "tensordict")},
        "machine": {"cpu": cpu_model(), "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]},
    }
    for clock, name in enumerate(("cpu", "wall")):
        sides = {side: [turn[clock] for turn in times] for side, times in turns.times.items()}
        result[name] = {side: spread(values) for side, values in sides.items()}
        for other in others:
            ratios = [a / b for a, b in zip(sides["trainer"], sides[other], strict=True)]
            result[name][f"trainer/{other}"] = spread(ratios)
        result[name]["turns"] = {side: [round(x, 4) for x in values] for side, values in sides.items()}
    write(Path(args.out), result)
    told = ", ".join(
        f"{side} {numbers['median']:.3f} ({numbers['quartiles'][0]:.3f} to {numbers['quartiles'][2]:.3f})"
        for side, numbers in result["cpu"].items()
        if side != "turns"
    )
    print(
        f"IQL 256x256, batch 256, {args.turns} turns of {args.turn} updates, {cpu_model()}, one thread, load average "
        f"{result['machine']['load_average']:.1f}; CPU ms per update, median (quartiles): {told}"
    )
    return 0


def spread(values: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    return {"median": statistics.median(values), "quartiles": statistics.quantiles(values, n=4)}


if __name__ == "__main__":
    sys.exit(main())
