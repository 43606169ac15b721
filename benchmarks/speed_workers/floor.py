"""Not a competitor but a floor: only the matrix products of one of our updates, at their shapes and in their layouts.

    python floor.py ALGORITHM BATCH WIDTH fp32|medium|bf16

The products are written down while the page makes two updates on its plain path (TD3+BC's policy learns every second
time), and then run alone, one after the other, into memory that is there already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch  # noqa: I001 (after turns, which sets the number of threads)
from tensordict import TensorDict
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from turns import Turns

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.training.cpu import precision_to_set

NAMES = {"bc": "BC", "td3_bc": "TD3BC", "iql": "IQL", "cql": "CQL", "sac_n": "SACN"}
FACTORS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
UPDATES = 2


class Products(TorchDispatchMode):
    """Writes down the factors of every matrix product: sizes, strides and types."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in FACTORS:
            one, other = (args[i] for i in FACTORS[name])
            self.factors.append((like(one), like(other)))
        elif "mm" in name or "linear" in name or "matmul" in name:
            raise RuntimeError(f"{name} is a product that the floor does not know")
        return func(*args, **(kwargs or {}))


def like(tensor: Tensor) -> Tensor:
    """Random numbers of that size, type and layout."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.empty(reach, dtype=tensor.dtype).normal_().as_strided(tensor.shape, tensor.stride())


def written_down(algorithm: str, batch: int, width: int, autocast: bool) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The model and the factors of `UPDATES` updates."""
    spec: Any = {
        "observation_shape": [11],
        "action_kind": "box",
        "action_size": 3,
        "action_low": [-1.0] * 3,
        "action_high": [1.0] * 3,
    }
    more = {"policy_schedule": "constant"} if algorithm == "iql" else {}
    model: Any = all_algorithms()[NAMES[algorithm]](
        spec, hidden=(width, width), normalize_observations=False, compile=False, **more
    )
    rows = TensorDict(
        {
            "observation": torch.randn(batch, 11),
            "action": torch.rand(batch, 3) * 1.8 - 0.9,
            "discount": torch.full((batch,), 0.99),
            "next": {
                "observation": torch.randn(batch, 11),
                "reward": torch.randn(batch),
                "terminated": torch.zeros(batch, dtype=torch.bool),
            },
        },
        [batch],
    )
    with Products() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        for _ in range(UPDATES):
            model.gradient_update(rows)
    return model, seen.factors


def main(algorithm: str, batch: int, width: int, precision: str) -> None:
    """Take turns."""
    torch.set_num_threads(1)
    turns = Turns()
    model, factors = written_down(algorithm, batch, width, precision == "bf16")
    wanted = precision_to_set("medium" if precision == "medium" else "auto", model.parameters(), batch)
    if wanted is not None and precision != "bf16":
        torch.set_float32_matmul_precision(wanted)
    calls: list[tuple[Callable[..., Any], Tensor, Tensor, Tensor]] = []
    multiplications = 0
    for one, other in factors:
        calls.append((torch.mm if one.ndim == 2 else torch.bmm, one, other, one @ other))
        multiplications += one.numel() * other.shape[-1]

    @torch.no_grad()
    def update() -> None:
        for product, one, other, out in calls:
            product(one, other, out=out)

    def of_one() -> None:  # `calls` are those of two updates: half as often
        nonlocal odd
        odd = not odd
        if odd:
            update()

    odd = False
    turns.serve(of_one, mflop=2 * multiplications / UPDATES / 1e6, products=len(calls) / UPDATES)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
