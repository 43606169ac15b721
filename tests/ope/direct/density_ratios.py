"""Density ratios of an empirical process, exact: what estimates of them and their values are compared with.

With ``P`` the counted transitions that go on, ``d`` the shares of the pairs in the data and ``m`` the first states:

    flow              zeta d = (1 - discount) m pi + discount P_pi^T (zeta d),  J = E_d[zeta r] / (1 - discount)
    DualDICE          zeta = nu - discount P_pi nu, where nu minimizes
                      1/2 E_d[(nu - discount P_pi nu)^2] - (1 - discount) E_m[nu]
                      (Nachum et al., 2019, https://arxiv.org/abs/1906.04733, with f(x) = x^2 / 2)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_offrl.ope.direct.tabular import EmpiricalMDP


def density_ratio(
    model: EmpiricalMDP, policy: Tensor, discount: float, by: Literal["flow", "dualdice"] = "flow"
) -> Tensor:
    """``zeta = d_pi / d_data`` of the pairs in the data, ``[S, A]``; 0 for others.

    ``d_pi`` is the discounted distribution ``(1 - discount) sum_t discount^t Pr(s_t, a_t)`` of steps that happen, so
    ``E_d[zeta]`` is 1 minus the discounted time after the end (and minus what leads to unseen pairs).
    """
    seen = model.data.flatten() > 0.0
    step = (model.transition.unsqueeze(-1) * policy).flatten(2).flatten(0, 1)[seen][:, seen]
    first = ((1.0 - discount) * model.start.unsqueeze(-1) * policy).flatten()[seen]
    backup = torch.eye(len(step), dtype=torch.float64) - discount * step
    share = model.data.flatten()[seen]
    if by == "flow":
        ratio = torch.linalg.solve(backup.T, first) / share
    else:
        nu = torch.linalg.solve(backup.T @ (share.unsqueeze(-1) * backup), first)
        ratio = backup @ nu
    out = torch.zeros_like(model.data).flatten()
    out[seen] = ratio
    return out.view_as(model.data)


def ratio_value(model: EmpiricalMDP, ratio: Tensor, discount: float) -> float:
    """``E_d[zeta r] / (1 - discount)``."""
    return float((model.data * ratio * model.reward).sum()) / (1.0 - discount)
