"""``offrl ope`` as a person would use it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.cli import main
from lightning_offrl.data.readers import load
from lightning_offrl.policy import export_policy
from lightning_offrl.training import old_names
from tests.cli.gaussians import COMMON


def test_a_page_for_one_policy(log: Path, capsys):
    more = "--json out.json --by observation.0 --reward_range -1 1 --report page.html"
    status = main(f"ope --policy better.json {COMMON} {more}".split())
    said = capsys.readouterr().out
    assert status == 0
    for word in (
        "better",
        "Estimand",
        "discount 0.9",
        "eligible",
        "Conservative value",
        "Shown better",
        "By observation.0",
    ):
        assert word in said, said
    found = json.loads(Path("out.json").read_text())
    assert found["verdict"] == "SINGLE" and found["conservative"] > 0.0
    hashes = [hashlib.sha256(Path(f"better.{end}").read_bytes()).hexdigest()[:16] for end in ("json", "pt")]
    assert found["provenance"]["policy hash"] == ", ".join(hashes)
    page = Path("page.html").read_text()
    assert load("log.npz").fingerprint in page and ", ".join(hashes) in page and "By observation.0" in page
    assert found["estimates"][0]["guaranteed"]["low"] < 0.0 < found["estimates"][0]["guaranteed"]["high"]


def test_the_interval_that_was_asked_for(log: Path):
    main(f"ope --policy better.json {COMMON} --interval bca --json out.json".split())
    found = json.loads(Path("out.json").read_text())["estimates"]
    assert {row["interval"]["method"] for row in found if row["interval"]} == {"bca"}


def test_nothing_eligible_has_its_exit_status(log: Path, capsys):
    assert main(f"ope --policy far.json {COMMON}".split()) == 3
    said = capsys.readouterr().out
    assert "ABSTAIN" in said and "Abstained because" in said and "Conservative value" not in said


def test_trained_policies_are_read_and_their_own_data_noticed(log: Path, capsys):
    episodes = load("log.npz")
    algorithm = BC(episodes.spec, hidden=(4,), policy="gaussian").eval()
    export_policy(algorithm, "policy.pt")
    assert (
        main(f"ope --policy policy.pt {COMMON}".split()) == 3
    )  # greedy: no weights, and no fitted estimate was asked for
    assert "the policy is deterministic" in capsys.readouterr().out
    assert main(f"ope --policy policy.pt {COMMON} --kind stochastic".split()) in (0, 3)
    assert "logged behavior" in capsys.readouterr().out
    assert main(f"ope --policy policy.pt {COMMON} --bandwidth 0".split()) in (0, 3)
    assert "kernel: the deterministic policy" in capsys.readouterr().out


def test_fitted_values_beside_weights(log: Path, capsys):
    line = "ope --policy better.json --data log.npz --n_boot 200 --discount 0.9"
    assert main(f"{line} --direct lstd --refits 20".split()) in (0, 4)
    said = capsys.readouterr().out
    assert "Agreement" in said and "cwpdis - lstd" in said and "wdr" in said


@pytest.mark.slow
def test_fitted_q_evaluation_from_the_command_line(log: Path, capsys):
    line = "ope --policy better.json --data log.npz --n_boot 200 --discount 0.9 --direct fqe --updates 50 --refits 2"
    assert main(line.split()) in (0, 4)
    said = capsys.readouterr().out
    assert "fqe: fitted Q evaluation" in said and ("interval from only 2 refits" in said or "Abstained because" in said)


def test_density_ratios_stand_beside_values(log: Path, capsys):
    """Ratios have no values of states, so the fit that has serves the hybrids, wherever it stands in the list."""
    line = "ope --policy better.json --data log.npz --n_boot 200 --discount 0.9 --updates 5 --refits 2"
    assert main(f"{line} --direct dice,drl,lstd --json out.json".split()) in (0, 4)
    rows = {row["name"]: row for row in json.loads(Path("out.json").read_text())["estimates"]}
    assert rows["dice"]["status"] == "abstains" and "add up to" in " ".join(rows["dice"]["reasons"])
    assert rows["drl"]["family"] == "hybrid" and rows["drl"]["status"] == "abstains"
    assert rows["lstd"]["status"] == rows["wdr"]["status"] == "eligible"


def test_the_worst_episodes_from_the_command_line(log: Path, capsys):
    """The better policy's worst tenth is better than the log's; one whose weights fail has none."""
    assert main(f"ope --policy better.json {COMMON} --tail 0.2 --json out.json".split()) == 0
    assert "Worst 0.2 of the episodes" in capsys.readouterr().out
    naive, wis = json.loads(Path("out.json").read_text())["tails"]
    assert (naive["name"], wis["name"]) == ("naive", "wis") and wis["cvar"] > naive["cvar"]
    assert wis["cvar_interval"]["low"] < wis["cvar"] < wis["quantile"]
    assert main(f"ope --policy far.json {COMMON} --tail 0.2".split()) == 3
    assert "wis: ABSTAIN, " in capsys.readouterr().out


def test_rollouts_of_a_model_from_the_command_line(log: Path, capsys):
    line = "ope --policy better.json --data log.npz --n_boot 200 --discount 0.9 --direct mb --updates 60 --horizon 2"
    assert main(line.split()) in (0, 3, 4)
    said = capsys.readouterr().out
    assert "mb: " in said and "estimates whole episodes" not in said


def test_behavior_from_a_file_and_held_out_episodes(log: Path, capsys):
    options = "--behavior behavior.json --validation_fraction 0.5 --split_seed 3"
    assert main(f"ope --policy better.json {COMMON} {options}".split()) == 0
    said = capsys.readouterr().out
    assert "150 held-out episodes" in said and "behavior behavior" in said and "unseen:" in said


def test_several_episodes_of_one_person(log: Path, capsys):
    """300 episodes of 60 people: the table, JSON and page say so, splits keep them whole, and labels follow."""
    people = [f"p{i % 60}" for i in range(300)]
    Path("people.csv").write_text(
        "subject,ward\n" + "".join(f"{p},{'a' if i % 60 < 40 else 'b'}\n" for i, p in enumerate(people))
    )
    options = "--cluster subject --labels people.csv"
    line = "--data log.npz --direct lstd --refits 10 --n_boot 200 --discount 0.9"
    assert main(f"ope --policy better.json {line} {options} --by ward --json out.json --report page.html".split()) == 0
    said = capsys.readouterr().out
    assert "300 episodes of 60 clusters (column subject); return mean" in said and "ward  episodes  clusters" in said
    found = json.loads(Path("out.json").read_text())
    assert found["clusters"] == {"column": "subject", "number": 60, "effective": 60.0, "largest": 5}
    assert found["provenance"]["resampled"] == "60 clusters (column subject)"
    assert {row["interval"]["method"] for row in found["estimates"]} == {"percentile-t", "refits"}
    page = Path("page.html").read_text()
    assert "The 60 clusters (column subject) are independent of each other" in page
    assert "From 300 episodes of 60 clusters (column subject); intervals resample whole clusters." in page
    split = "--validation_fraction 0.5 --split_seed 3"
    assert main(f"ope --policy better.json {line} {options} --by ward {split} --json out.json".split()) in (0, 3, 4)
    found = json.loads(Path("out.json").read_text())
    assert (found["episodes"], found["clusters"]["number"], found["clusters"]["largest"]) == (150, 30, 5)
    groups = found["groups"]["ward"]
    assert sum(group["clusters"]["number"] for group in groups.values()) == 30 and set(groups) == {"a", "b"}
    assert found["notes"][0].endswith("whole clusters: unseen by a policy only if it was fitted without these clusters")
    choose = (
        f"select --policies better.json worse.json {COMMON} {options} --confirmation_fraction 0.5 --report page.html"
    )
    assert main(f"{choose} --json out.json".split()) == 0
    assert "On 150 other episodes of 30 clusters (column subject) its value is" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text())["again"]["clusters"]["number"] == 30
    assert (
        "From 150 episodes of 30 clusters (column subject); intervals resample whole clusters"
        in Path("page.html").read_text()
    )


def test_a_policy_from_python_code(log: Path, capsys):
    Path("own.py").write_text("import torch\ndef act(observation):\n    return torch.zeros(len(observation), 2)\n")
    assert main(f"ope --policy own.py:act {COMMON}".split()) == 3
    assert "the policy is deterministic" in capsys.readouterr().out


def test_names_of_earlier_versions_are_understood(log: Path, capsys, monkeypatch):
    """A dash for an underscore silently, an old name with a warning; both give what today's names give."""
    monkeypatch.setattr(old_names, "told", set())
    old = "--behaviour behavior.json --held-out=0.5 --split-seed 3 --n-boot 50"
    today = "--behavior behavior.json --validation_fraction 0.5 --split_seed 3 --n_boot 50"
    said = []
    with pytest.warns(FutureWarning) as told:
        for options in (old, today):
            assert main(f"ope --policy better.json --data log.npz --direct none {options}".split()) == 0
            said.append(capsys.readouterr().out)
        choose = f"select --policies better.json worse.json {COMMON} --json out.json"
        assert main(f"{choose} --second-split 0.4".split()) == 0
        capsys.readouterr()
        for line in (
            "plan out.json --episodes 4",
            "select --from out.json --plan 4",
            "select --plan=4 --from=out.json",
        ):
            assert main(line.split()) == 0
            said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[2] == said[3] == said[4]
    assert [str(one.message).partition(";")[0] for one in told] == [
        "behaviour is now behavior",
        "--held-out is now --validation_fraction",
        "--second-split is now --confirmation_fraction",
        "offrl select --from FILE --plan N is now offrl plan FILE --episodes N",
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ope --policy nothere.pt --data log.npz --direct none", "no policy at nothere.pt"),
        ("ope --policy better.json --data log.npz --direct magic", "--direct has no 'magic'"),
        ("ope --policy better.json --data log.npz --direct none --estimators wsi", "no estimator 'wsi'"),
        ("ope --policy better.json --data log.npz --direct none --by site", "no column 'site'"),
        ("ope --policy better.json --data log.npz --horizons 3", "did you mean --horizon"),
        ("ope --policy better.json --data tiny.hdf5 --direct none --behavior logged", "no logged probabilities"),
        ("ope --policy log.py:act --data log.npz --direct none", "there is no policy log.py:act"),
    ],
)
def test_mistakes_are_told_in_one_sentence(log: Path, offrl, line: str, sentence: str):
    status, said = offrl(line)
    assert status == 2 and sentence in said and said.count("\n") == 1
