"""Competitor: the same updates as one would write them by hand in one file, in plain torch; logs nothing.

python hand.py DATA.hdf5 ALGORITHM BATCH WIDTH fp32|medium|bf16
"""

from __future__ import annotations

import copy
import sys

import h5py  # noqa: I001 (after turns, which sets the number of threads)
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import Turns

DISCOUNT, TAU = 0.99, 0.005


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class Stacked(nn.Module):
    """One linear layer of several critics."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(count, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Critics(nn.Module):
    """Several critics in one batched product, ``[count, B]``."""

    def __init__(self, observation: int, action: int, width: int, count: int = 2) -> None:
        super().__init__()
        self.count = count
        self.net = nn.Sequential(
            Stacked(count, observation + action, width),
            nn.ReLU(),
            Stacked(count, width, width),
            nn.ReLU(),
            Stacked(count, width, 1),
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([observation, action], -1)
        return self.net(x.expand(self.count, *x.shape)).squeeze(-1).float()


class Loop:
    """Networks, their Adams and one update; subclasses are the algorithms."""

    critics = 2

    def __init__(self, columns: list[Tensor], batch: int, width: int) -> None:
        self.columns, self.batch, self.count = columns, batch, 0
        observation, action = columns[0].shape[1], columns[1].shape[1]
        self.sizes = observation, action, width
        self.q = Critics(observation, action, width, self.critics)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy = mlp(observation, width, self.policy_outputs(action))
        self.q_adam, self.policy_adam = self.adam(self.q.parameters()), self.adam(self.policy.parameters())

    def policy_outputs(self, action: int) -> int:
        return action

    def adam(self, parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=3e-4, fused=True)  # type: ignore[arg-type]

    def sample(self) -> list[Tensor]:
        rows = torch.randint(len(self.columns[0]), (self.batch,))
        return [column[rows] for column in self.columns]

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def average(self, target: nn.Module, source: nn.Module) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), TAU)

    def squashed(self, observation: Tensor, repeats: int = 1) -> tuple[Tensor, Tensor]:
        """Actions and log densities of SAC's policy, ``[B * repeats, A]``."""
        mean, log_std = self.policy(observation).float().repeat_interleave(repeats, 0).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.rsample()
        log_prob = normal.log_prob(u) - 2 * (0.6931471805599453 - u - F.softplus(-2 * u))
        return u.tanh(), log_prob.sum(-1)


class BC(Loop):
    def update(self) -> None:
        observation, action, *_ = self.sample()
        loss = (self.policy(observation).float().tanh() - action).square().mean()
        self.step(self.policy_adam, loss)


class TD3BC(Loop):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.policy_target = copy.deepcopy(self.policy).requires_grad_(False)

    def update(self) -> None:
        self.count += 1
        observation, action, after, reward, going = self.sample()
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            next_action = (self.policy_target(after).float().tanh() + noise).clamp(-1, 1)
            target = reward + DISCOUNT * going * self.q_target(after, next_action).amin(0)
        self.step(self.q_adam, (self.q(observation, action) - target).square().mean(-1).sum())
        if self.count % 2 == 0:
            chosen = self.policy(observation).float().tanh()
            q = self.q(observation, chosen)[0]
            self.step(self.policy_adam, (chosen - action).square().mean() - 2.5 / q.abs().mean().detach() * q.mean())
            self.average(self.q_target, self.q)
            self.average(self.policy_target, self.policy)


class IQL(Loop):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        observation, action, width = self.sizes
        self.v = mlp(observation, width, 1)
        self.log_std = nn.Parameter(torch.zeros(action))
        self.v_adam = self.adam(self.v.parameters())
        self.policy_adam = self.adam([*self.policy.parameters(), self.log_std])

    def update(self) -> None:
        observation, action, after, reward, going = self.sample()
        with torch.no_grad():
            q = self.q_target(observation, action).amin(0)
        u = q - self.v(observation).squeeze(-1).float()
        self.step(self.v_adam, ((0.7 - (u < 0).float()).abs() * u.square()).mean())
        with torch.no_grad():
            weight = (3 * (q - self.v(observation).squeeze(-1).float())).exp().clamp(max=100)
        normal = torch.distributions.Normal(self.policy(observation).float().tanh(), self.log_std.clamp(-5, 2).exp())
        self.step(self.policy_adam, -(weight * normal.log_prob(action).sum(-1)).mean())
        with torch.no_grad():
            target = reward + DISCOUNT * going * self.v(after).squeeze(-1).float()
        self.step(self.q_adam, (self.q(observation, action) - target).square().mean(-1).sum())
        self.average(self.q_target, self.q)


class SACN(Loop):
    critics = 10

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.alpha_adam = self.adam([self.log_alpha])

    def policy_outputs(self, action: int) -> int:
        return 2 * action

    def push_down(self, observation: Tensor, after: Tensor, q: Tensor) -> Tensor | float:
        """More of the critics' loss."""
        return 0.0

    def update(self) -> None:
        observation, action, after, reward, going = self.sample()
        chosen, log_prob = self.squashed(observation)
        self.step(self.alpha_adam, -(self.log_alpha * (log_prob.detach().mean() - action.shape[-1])))
        alpha = self.log_alpha.exp().detach()
        self.step(self.policy_adam, (alpha * log_prob - self.q(observation, chosen).amin(0)).mean())
        with torch.no_grad():
            next_action, next_log_prob = self.squashed(after)
            target = reward + DISCOUNT * going * (self.q_target(after, next_action).amin(0) - alpha * next_log_prob)
        q = self.q(observation, action)
        loss = (q - target).square().mean(-1).sum() + self.push_down(observation, after, q)
        self.step(self.q_adam, loss)
        self.average(self.q_target, self.q)


class CQL(SACN):
    critics = 2

    def push_down(self, observation: Tensor, after: Tensor, q: Tensor) -> Tensor:
        size = self.sizes[1]
        with torch.no_grad():
            groups = [self.squashed(observation, 10), self.squashed(after, 10)]
            anywhere = torch.rand(10 * len(observation), size) * 2 - 1
            groups.append((anywhere, torch.full(anywhere.shape[:1], -size * 0.6931471805599453)))
        exponents = [
            self.q(observation.repeat_interleave(10, 0), actions).view(2, -1, 10) - density.view(-1, 10)
            for actions, density in groups
        ]
        return 5.0 * (torch.logsumexp(torch.cat(exponents, -1), -1) - q).mean(-1).sum()


LOOPS = {"bc": BC, "td3_bc": TD3BC, "iql": IQL, "cql": CQL, "sac_n": SACN}


def main(data: str, algorithm: str, batch: int, width: int, precision: str) -> None:
    """Take turns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if precision == "medium":
        torch.set_float32_matmul_precision("medium")
    with h5py.File(data) as file:
        names = ("observations", "actions", "next_observations", "rewards")
        columns = [torch.from_numpy(file[name][:]) for name in names]
        columns.append(torch.from_numpy(~file["terminals"][:]).float())
    loop = LOOPS[algorithm](columns, batch, width)

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            loop.update()

    Turns().serve(update)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
