"""Real logs with true log-probabilities: what is eligible is near simulated truths, traps abstain."""

from __future__ import annotations

import json
import math

import pytest

from lightning_offrl.data.readers import load
from lightning_offrl.ope.checks.support import far_share, unseen_share
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights
from lightning_offrl.ope.policies.files import load_gaussian
from lightning_offrl.ope.weighting.importance import importance_sampling, naive, per_decision
from lightning_offrl.ope.weighting.trajectories import trajectories

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(shared_data):
    folder = shared_data / "ope-policies" / "hopper"
    if not folder.is_dir():
        pytest.skip("the policies of the benchmark are not there")
    truth = json.loads((folder / "ground_truth.json").read_text())
    return folder, truth["policies"], load(shared_data / "d4rl" / "hopper_medium-v2.hdf5")


def evaluated(log, name, horizon):
    folder, truths, episodes = log
    policy = load_gaussian(folder / name)
    data = trajectories(episodes, policy, discount=0.99, horizon=horizon)
    truth = truths[name]["truncated_discounted"][str(horizon)]
    return policy, data, truth["mean"], truth["se"]


def test_logged_log_probabilities_are_those_of_the_policy_that_made_the_data(log):
    _, data, _, _ = evaluated(log, "sac", 50)
    assert float(data.log_ratio.abs().max()) < 1e-5
    assert importance_sampling(data).value == pytest.approx(naive(data).value, rel=1e-4)


@pytest.mark.parametrize(("name", "horizons"), [("sac_x0.95", (5, 10, 20, 50)), ("sac_x0.8", (5, 10))])
def test_eligible_estimates_are_near_the_truth(log, name, horizons):
    """Within 2.6 errors (99 %): six correlated cases with two estimators each."""
    for horizon in horizons:
        _, data, truth, error = evaluated(log, name, horizon)
        assert check_weights(data).eligible
        for normalized in (False, True):
            terms = per_decision(data, normalized=normalized)
            assert abs(terms.value - truth) <= 2.6 * math.hypot(terms.standard_error, error)


@pytest.mark.parametrize("name", ["tqc_x0.5", "ppo", "ars_std0.1", "a2c", "sac_x0.5"])
@pytest.mark.parametrize("horizon", [5, 50])
def test_policies_that_do_something_else_abstain(log, name, horizon):
    _, data, _, _ = evaluated(log, name, horizon)
    assert not check_weights(data).eligible


@pytest.mark.parametrize("horizon", [5, 20])
def test_missing_support_is_found_although_the_effective_sample_size_is_large(log, horizon):
    """One action in ten is uniform; the log has almost none of these."""
    policy, data, truth, error = evaluated(log, "sac_eps0.1", horizon)
    folder, _, episodes = log
    check = check_weights(data)
    assert check.ess > 300 and check.top_share < 0.05
    assert any("does not show" in reason for reason in check.reasons)
    assert abs(per_decision(data).value - truth) > 20 * math.hypot(per_decision(data).standard_error, error)
    # both detectors of support say so, too; one of them knows nothing but logs and policy
    assert unseen_share(episodes, policy, load_gaussian(folder / "sac"), horizon=horizon).reason(Limits().unseen_share)
    far = far_share(episodes, policy, horizon=horizon)
    assert far.reason(0.02) and 0.06 < far.share < 0.12
    assert far_share(episodes, load_gaussian(folder / "sac_x0.8"), horizon=horizon).reason(0.02) is None
