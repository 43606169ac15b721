"""Five policies on a simulated sepsis ward: estimates from its records against exact values, with and without
something that the record hides.

    python benchmarks/sepsis.py                  about five minutes on one core
    python benchmarks/sepsis.py --plot           the page and the picture again, from the stored numbers

Half of the patients are diabetic, and the clinician sees who. Two wards: in one the record says so, in the other it
does not; all else is the same. From each, one log to learn from and another to evaluate on. Behavior probabilities
are the clinician's own, given all that was seen at the bedside, or fitted to the record. Every estimate is set against
the exact value, solved from the ward's transition probabilities. `results/sepsis.{json,md,png}`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import lightning.pytorch as pl
import numpy as np
import torch
from sepsis_page import write

import lightning_offrl as offrl
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.envs.sepsis.environment import DISCOUNT, HORIZON, Sepsis
from lightning_offrl.ope.checks.weight_diagnostics import check_weights
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.ope.policies.target import Discrete, TargetPolicy
from lightning_offrl.ope.policies.trained import from_algorithm
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.sensitivity import sensitivity, tipping_point, unrecorded_cause
from lightning_offrl.ope.weighting.trajectories import Trajectories, trajectories

RESULTS = Path(__file__).resolve().parent / "results"
DIABETES = 0.5
TEMPERATURE, SLIP = 0.05, 0.2
"""Of the clinician: less decided than `Sepsis.clinician` by default, so that weights exist for several policies."""
ESTIMATORS = ("wis", "pdis", "cwpdis", "dr", "wdr")
GAMMAS = (1.0, 1.1, 1.25, 1.5, 2.0)


def learn(name: str, data: Episodes, updates: int, **settings: Any) -> Any:
    """A page, trained through the public API."""
    module = offrl.OfflineDataModule(data, batch_size=256, discount=DISCOUNT)
    algorithm = getattr(offrl, name)(module.spec, hidden=(64, 64), learning_rate=1e-3, **settings)
    targets = [] if name == "DiscreteBC" else [offrl.SoftTargetUpdate(tau=0.05)]
    trainer = pl.Trainer(
        max_steps=updates, accelerator="cpu", callbacks=targets, logger=False, log_every_n_steps=50,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(algorithm, module)
    return algorithm.eval()


def known(ward: Sepsis, table: np.ndarray) -> TargetPolicy:
    """A table ``[n_states, 8]`` as a policy that sees the record."""
    act = ward.on_record(table)
    return Discrete(lambda observation: torch.as_tensor(act(observation.numpy())))


def blind(ward: Sepsis) -> np.ndarray:
    """The clinician's probabilities, averaged over diabetes, ``[n_states, 8]``."""
    clinician, half = ward.clinician(TEMPERATURE, SLIP), ward.mdp.n_states // 2
    return np.tile((1.0 - DIABETES) * clinician[:half] + DIABETES * clinician[half:], (2, 1))


def near(ward: Sepsis) -> dict[str, np.ndarray]:
    """Three policies near the clinician that do not look at diabetes; their values are the same on both wards."""
    half = ward.mdp.n_states // 2
    best = np.tile(ward.optimal().policy[:half], (2, 1))
    return {
        "blind clinician": blind(ward),
        "as if not diabetic": np.tile(ward.clinician(TEMPERATURE, SLIP)[:half], (2, 1)),
        "half best if not diabetic": 0.5 * blind(ward) + 0.5 * best,
    }


def mixed(first: TargetPolicy, second: TargetPolicy) -> TargetPolicy:
    """A coin decides at every step who chooses."""
    return Discrete(lambda o: 0.5 * first.probabilities(o) + 0.5 * second.probabilities(o))


def five_policies(ward: Sepsis, data: Episodes, updates: int) -> dict[str, TargetPolicy]:
    """What is evaluated; the learned ones see what the record says."""
    clinician = blind(ward) if ward.hidden_diabetes else ward.clinician(TEMPERATURE, SLIP)
    nothing = ward.mdp.deterministic(np.zeros(ward.mdp.n_states, dtype=np.int64))
    imitation = learn("DiscreteBC", data, updates // 2)
    learned = from_algorithm(learn("DiscreteCQL", data, updates, weight=0.03))
    return {
        "clinician": known(ward, clinician),
        "no treatment": known(ward, nothing),
        "BC": from_algorithm(imitation, stochastic=True),
        "CQL": learned,
        "half CQL": mixed(learned, known(ward, clinician)),
    }


def measured(result: OPEResult, value: float) -> dict[str, Any]:
    """What is kept of an evaluation."""
    rows = {}
    for row in result.rows:
        usable = row.interval is not None and row.interval.usable
        rows[row.name] = {
            "value": row.value,
            "interval": [row.interval.low, row.interval.high] if usable else None,
            "covers": bool(row.interval.contains(value)) if usable else None,
            "status": row.status,
            "ess": row.ess,
            "reasons": list(row.reasons),
        }
    verdict = result.verdict
    return {
        "rows": rows,
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "assumption": verdict.assumption,
        "conservative": verdict.conservative,
        "against_data": verdict.against_data,
    }


def ward_of(hidden: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of behavior probabilities on one ward."""
    began = time.process_time()
    ward = Sepsis(hidden_diabetes=hidden, diabetes=DIABETES)
    clinician = ward.clinician(TEMPERATURE, SLIP)
    teaching = load(ward.dataset(clinician, options.episodes, seed=1, log_probabilities=False))
    told = load(ward.dataset(clinician, options.episodes, seed=2, log_probabilities=True))
    untold = load(ward.dataset(clinician, options.episodes, seed=2, log_probabilities=False))
    fitted = fit_behavior(untold, updates=options.updates, hidden=(128, 128))
    cause = unrecorded_cause(told)
    out: dict[str, Any] = {
        "clinician": ward.value(clinician),
        "steps": len(told),
        "held_out_nll": fitted.held_out_nll,
        "clinician_nll": -float(told.data["behavior_log_prob"].mean()),
        "unrecorded_cause": None if cause is None else str(cause),
        "policies": {},
    }
    for name, policy in five_policies(ward, teaching, options.updates).items():
        table = ward.as_seen(lambda o, pi=policy: pi.probabilities(torch.as_tensor(o)).numpy())
        value = ward.value(table)
        direct = fqe(
            policy, untold, discount=DISCOUNT, updates=options.fqe_updates, replicates=options.refits,
            settings=FQESettings(hidden=(64, 64), learning_rate=3e-3, batch_size=256, tau=0.15),
        )  # fmt: skip
        kept = {}
        for source, log, behavior in (("logged", told, None), ("fitted", untold, fitted)):
            result = evaluate(
                policy, log, discount=DISCOUNT, behavior=behavior, estimators=ESTIMATORS, direct=[direct], name=name
            )
            kept[source] = measured(result, value)
        data = trajectories(untold, policy, fitted, discount=DISCOUNT)
        out["policies"][name] = {"exact": value, **kept, "sensitivity": strength(data, value)}
        print(f"{'hidden' if hidden else 'recorded'} {name}: {time.process_time() - began:.0f} s", flush=True)
    return out


def strength(data: Trajectories, value: float) -> dict[str, Any]:
    """Bounds of wis for some gammas, and the gamma that it takes to hold the exact value."""
    found: dict[str, Any] = {}
    for decisions in (1, None):
        bounds = [sensitivity(data, gamma, decisions=decisions, n_boot=400) for gamma in GAMMAS]
        found["all" if decisions is None else str(decisions)] = {
            "bounds": [[b.low, b.high] for b in bounds],
            "intervals": [[b.interval.low, b.interval.high] for b in bounds],
            "tipping": tipping_point(data, value, decisions=decisions),
        }
    return found


# -- many logs ----------------------------------------------------------------------------------------------------


def marginal(ward: Sepsis) -> np.ndarray:
    """The clinician's probabilities given the record, ``[n_states, 8]``: what a perfect fit to it would find."""
    visits = ward.mdp.visits(ward.clinician(TEMPERATURE, SLIP), HORIZON)
    total = np.zeros((int(ward.record.max()) + 1, visits.shape[1]))
    np.add.at(total, ward.record, visits)
    total = total[ward.record]
    count = total.sum(-1, keepdims=True)
    return np.where(count > 0.0, total / np.where(count > 0.0, count, 1.0), 1.0 / visits.shape[1])


def coverage(logs: int, episodes: int) -> dict[str, Any]:
    """How often 95 % intervals hold the exact value over independent logs, by whose probabilities the weights use."""
    ward, bed = (Sepsis(hidden_diabetes=hidden, diabetes=DIABETES) for hidden in (False, True))
    clinician, policies = ward.clinician(TEMPERATURE, SLIP), near(ward)
    behaviors = {"own": clinician, "hidden": marginal(bed)}
    values = {name: ward.value(policy) for name, policy in policies.items()}
    found: dict[str, dict[str, list[tuple[float, bool, bool]]]] = {
        name: {key: [] for key in ("naive", *behaviors)} for name in policies
    }
    for log in range(logs):
        drawn = ward.mdp.sample_transitions(clinician, episodes, HORIZON, 1000 + log)
        end = np.flatnonzero(drawn["terminated"] | drawn["truncated"])
        length = np.diff(np.concatenate([[-1], end]))
        mask = torch.arange(int(length.max())) < torch.as_tensor(length).unsqueeze(-1)

        def padded(flat: np.ndarray, mask: torch.Tensor = mask) -> torch.Tensor:
            out = torch.zeros(mask.shape, dtype=torch.float64)
            out[mask] = torch.as_tensor(flat, dtype=torch.float64)
            return out

        at, reward = (drawn["state"], drawn["action"]), padded(drawn["reward"])
        below = {key: padded(np.log(behavior[at])) for key, behavior in behaviors.items()}
        for name, policy in policies.items():
            target = padded(np.log(policy[at]))
            for key, log_prob in {"naive": target, **below}.items():
                data = Trajectories(reward, mask, DISCOUNT, log_ratio=target - log_prob)
                terms = importance_sampling(data, normalized=True)
                held = abs(terms.value - values[name]) <= 1.96 * terms.standard_error
                found[name][key].append((terms.value, held, check_weights(data).eligible))
    return {
        name: {
            "exact": values[name],
            "wis": {
                key: {
                    "mean": float(np.mean([value for value, _, _ in each])),
                    "sd": float(np.std([value for value, _, _ in each], ddof=1)),
                    "covers": sum(held for _, held, _ in each),
                    "eligible": sum(usable for _, _, usable in each),
                    "eligible_covers": sum(held and usable for _, held, usable in each),
                }
                for key, each in found[name].items()
            },
            "limits": {
                place: dict(zip(("wis", "mean_weight", "fqe"), limits(one, policies[name]), strict=True))
                for place, one in (("recorded", ward), ("hidden", bed))
            },
        }
        for name in policies
    }


def limits(ward: Sepsis, policy: np.ndarray) -> tuple[float, float, float]:
    """What estimates tend to with infinitely many records, exactly, for a policy ``[n_states, 8]`` on the record.

    Returns:
        wis with the best fit to the record, the mean weight of an episode there, and fitted Q.
    """
    mdp = ward.mdp
    ratio = ward.clinician(TEMPERATURE, SLIP) * policy / marginal(ward)
    weight, weighted = np.ones(mdp.n_states), np.zeros(mdp.n_states)  # of what is to come, and times its return
    for _ in range(HORIZON):
        onward = mdp.transition @ (DISCOUNT * weighted) + (mdp.transition * mdp.step_reward) @ weight
        weighted = np.where(mdp.terminal, 0.0, (ratio * onward).sum(-1))
        weight = np.where(mdp.terminal, 1.0, (ratio * (mdp.transition @ weight)).sum(-1))
    total = float(mdp.start @ weight)
    return float(mdp.start @ weighted) / total, total, limit_of_fqe(ward, policy)


def limit_of_fqe(ward: Sepsis, policy: np.ndarray) -> float:
    """What fitted Q and models tend to with infinitely many records, exactly."""
    record = ward.record_process(ward.clinician(TEMPERATURE, SLIP))
    rows = np.empty((record.n_states, policy.shape[-1]))
    rows[ward.record] = policy
    return float(record.start @ record.policy_value(rows, DISCOUNT)[0])


def main() -> None:
    """Compute, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8_000, help="of each log")
    parser.add_argument("--updates", type=int, default=2_000, help="of CQL and the fitted behavior; BC half of it")
    parser.add_argument("--fqe-updates", type=int, default=2_000)
    parser.add_argument("--refits", type=int, default=10, help="to resampled episodes")
    parser.add_argument("--logs", type=int, default=100, help="independent logs for coverage")
    parser.add_argument("--plot", action="store_true", help="only the page and the picture")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    path = options.out / "sepsis.json"
    if not options.plot:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        began = time.process_time()
        results: dict[str, Any] = {
            "episodes": options.episodes,
            "diabetes": DIABETES,
            "discount": DISCOUNT,
            "updates": {"cql": options.updates, "bc": options.updates // 2, "fqe": options.fqe_updates},
            "refits": options.refits,
            "gammas": GAMMAS,
            "logs": options.logs,
            "coverage": coverage(options.logs, options.episodes),
        }
        print(f"coverage: {time.process_time() - began:.0f} s", flush=True)
        results |= {"recorded": ward_of(False, options), "hidden": ward_of(True, options)}
        results["cpu_seconds"] = time.process_time() - began
        results["versions"] = {name: version(name) for name in ("torch", "lightning", "numpy")}
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(write(json.loads(path.read_text()), options.out))


if __name__ == "__main__":
    main()
