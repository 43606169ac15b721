"""Values corrected by density ratios: right where either is, on solved processes, and never fitted to its own fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.dice import RatioEstimate
from lightning_offrl.ope.direct.double_reinforcement import corrected_terms, drl
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.direct.density_ratios import density_ratio
from tests.ope.doubles import Table, episodes_of, random_mdp

DISCOUNT = 0.9


def logged(ends: bool, n: int = 200, seed: int = 3):
    mdp = random_mdp(ends=ends, seed=21)
    table = mdp.behavior_policy(0.7)
    steps = mdp.sample_transitions(mdp.uniform(), n, 12, seed=seed)
    return episodes_of(steps, mdp.n_states, mdp.n_actions), torch.as_tensor(table)


def terms_of(episodes, table, ratio, q, **options):
    """From tables ``[S, A]`` of both."""
    data = episodes.data
    state, action = data["observation"].argmax(-1), data["action"]
    v = (table * q).sum(-1)
    return corrected_terms(
        episodes,
        ratio[state, action],
        q[state, action],
        v[data["next", "observation"].argmax(-1)],
        v[state[episodes.start]],
        discount=DISCOUNT,
        **options,
    )


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_right_where_either_is(ends: bool, normalized: bool) -> None:
    """On the empirical distribution, to rounding; with neither right it is off by more than a tenth."""
    episodes, table = logged(ends)
    model = EmpiricalMDP.from_episodes(episodes)
    q, ratio = model.fitted_q(table, DISCOUNT), density_ratio(model, table, DISCOUNT)
    truth = model.value(table, q)
    rng = np.random.default_rng(0)
    any_q, any_ratio = torch.as_tensor(rng.normal(size=q.shape)), torch.as_tensor(rng.uniform(0.1, 2.0, q.shape))
    how = {"normalized": normalized}
    assert terms_of(episodes, table, ratio, any_q, **how).value == pytest.approx(truth, abs=1e-10)
    assert terms_of(episodes, table, any_ratio, q, **how).value == pytest.approx(truth, abs=1e-10)
    assert abs(terms_of(episodes, table, any_ratio, any_q, **how).value - truth) > 0.1


def test_error_is_the_product_of_both_errors() -> None:
    """Halving the error of the ratio, or of Q, halves that of the estimate; unnormalized it is exactly bilinear."""
    episodes, table = logged(True)
    model = EmpiricalMDP.from_episodes(episodes)
    q, ratio = model.fitted_q(table, DISCOUNT), density_ratio(model, table, DISCOUNT)
    truth = model.value(table, q)
    rng = np.random.default_rng(1)
    dq, dr = torch.as_tensor(rng.normal(size=(2, *q.shape)))

    def error(a: float, b: float) -> float:
        return terms_of(episodes, table, ratio + a * dr, q + b * dq, normalized=False).value - truth

    assert abs(error(1.0, 1.0)) > 0.1
    assert error(0.5, 1.0) == pytest.approx(0.5 * error(1.0, 1.0), abs=1e-10)
    assert error(0.5, 0.5) == pytest.approx(0.25 * error(1.0, 1.0), abs=1e-10)


def test_standard_error_is_that_of_new_data() -> None:
    """Fits held at the exact process: spread over 150 logs within 20 % of the stated error of one of them."""
    mdp = random_mdp(ends=True, seed=21)
    big, table = logged(True, n=4000, seed=99)
    model = EmpiricalMDP.from_episodes(big)
    q, ratio = model.fitted_q(table, DISCOUNT), density_ratio(model, table, DISCOUNT)
    found = []
    for seed in range(150):
        steps = mdp.sample_transitions(mdp.uniform(), 40, 12, seed=seed)
        found.append(terms_of(episodes_of(steps, mdp.n_states, mdp.n_actions), table, ratio, q))
    spread = float(torch.tensor([terms.value for terms in found]).std())
    stated = float(torch.tensor([terms.standard_error for terms in found]).mean())
    assert stated == pytest.approx(spread, rel=0.2)


def test_no_episode_is_corrected_by_a_fit_that_saw_it() -> None:
    """With solved fits: the training sets are the complements of the folds, and the estimate is near the truth."""
    episodes, table = logged(True, n=400)
    seen = []

    def values(train):
        seen.append(train.n_episodes)
        return lstd(Table(table), train, discount=DISCOUNT)

    def ratios(train):
        tabular = density_ratio(EmpiricalMDP.from_episodes(train), table, DISCOUNT)
        estimate = RatioEstimate("dice", 0.0, torch.zeros(1), q=None, v=None)
        estimate.ratio = lambda of: tabular[of.data["observation"].argmax(-1), of.data["action"]]
        return estimate

    found = drl(Table(table), episodes, discount=DISCOUNT, folds=4, values=values, ratios=ratios)
    assert seen == [300] * 4
    truth = EmpiricalMDP.from_episodes(logged(True, n=20_000, seed=5)[0])
    value = truth.value(table, truth.fitted_q(table, DISCOUNT))
    assert abs(found.value - value) < 4.0 * found.standard_error()
    assert found.diagnostics["correction"] != 0.0 and found.diagnostics["mass"] == pytest.approx(1.0, abs=0.05)
    assert not found.flags and not found.has_values
    assert found.replicates.shape == (1000,) and found.counts.sum(-1).tolist() == [400.0] * 1000
    with pytest.raises(InputError, match="take q and v from fqe"):
        found.v(episodes.data["observation"])


def test_fitted_by_gradients_with_their_flags() -> None:
    """Short fits are flagged, by fold; the same seed gives the same number."""
    episodes, table = logged(True, n=20)
    found = drl(Table(table), episodes, discount=DISCOUNT, updates=5, n_boot=20)
    assert any(flag.startswith("dice without fold 1: ") for flag in found.flags)
    again = drl(Table(table), episodes, discount=DISCOUNT, updates=5, n_boot=20)
    assert torch.equal(found.replicates, again.replicates) and found.value == again.value


def test_refusals() -> None:
    episodes, table = logged(True, n=3)
    for arguments, said in (({"discount": 1.0}, "below 1"), ({"discount": 0.9, "folds": 4}, "4 folds of 3 episodes")):
        with pytest.raises(InputError, match=said):
            drl(Table(table), episodes, **arguments)
