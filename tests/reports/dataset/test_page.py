"""The dataset report as a whole: verdicts on data made to deserve them, evidence for each sentence, a whole page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.rewards import PRESETS
from lightning_offrl.data.strata import Sampling
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_POLICIES
from lightning_offrl.errors import InputError
from lightning_offrl.reports.dataset.advice import Assessment, assess, command
from lightning_offrl.reports.dataset.measure import DatasetMeasures, as_dict, examine, text, write

REPO = Path(__file__).resolve().parents[3]


def made(
    episodes: int = 60,
    act: Callable[[np.ndarray, int, np.random.Generator], np.ndarray] | None = None,
    reward: Callable[[np.ndarray, np.ndarray, int, np.random.Generator], float] | None = None,
    terminal: bool = True,
    lengths: tuple[int, int] = (20, 40),
    seed: int = 0,
) -> dict[str, Any]:
    """Episodes of a point that is pushed around, with actions and rewards to order."""
    rng = np.random.default_rng(seed)
    act = act or (lambda s, i, rng: np.clip(0.4 * s[:1] + 0.3 * rng.normal(size=1), -1, 1))
    reward = reward or (lambda s, a, i, rng: float(1.0 - a[0] ** 2))
    out: dict[str, list[Any]] = {k: [] for k in ("observations", "next_observations", "actions", "rewards", "ends")}
    for i in range(episodes):
        state, length = rng.normal(size=2), int(rng.integers(*lengths))
        for t in range(length):
            action = np.asarray(act(state, i, rng), dtype=np.float64)
            following = 0.9 * state + 0.2 * np.array([action[0], -action[0]]) + 0.02 * rng.normal(size=2)
            for key, value in zip(
                out, (state, following, action, reward(state, action, i, rng), t == length - 1), strict=True
            ):
                out[key].append(value)
            state = following
    arrays = {key: np.array(value) for key, value in out.items()}
    ends = arrays.pop("ends")
    return {**arrays, "terminated": ends & terminal, "truncated": ends & (not terminal)}


def judged(arrays: Any) -> tuple[DatasetMeasures, Assessment]:
    seen = examine(arrays)
    return seen, assess(seen)


def found(opinion: Assessment, topic: str) -> str:
    """Level of the first finding on a topic."""
    return next((one.level for one in opinion.findings if one.topic == topic), "none")


def broken() -> dict[str, Any]:
    """One deterministic policy at its bounds, no terminal marked, every reward 1, a third of the episodes copied."""
    arrays = made(
        40, act=lambda s, i, rng: np.array([0.9999]), reward=lambda *_: 1.0, terminal=False, lengths=(20, 60), seed=1
    )
    first = int(np.flatnonzero(arrays["truncated"])[19]) + 1
    return {key: np.concatenate([value, value[:first]]) for key, value in arrays.items()}


def test_a_defective_dataset_is_refused_with_every_defect_named() -> None:
    seen, opinion = judged(broken())
    assert opinion.verdict.kind == "refuse"
    assert opinion.verdict.headline == "This data cannot support an improvement claim"
    assert found(opinion, "Terminal states") == found(opinion, "Duplicates") == found(opinion, "Rewards") == "problem"
    assert found(opinion, "Action saturation") == "warning" and found(opinion, "Constant actions") == "problem"
    assert seen.copies.duplicated == 20 and "20 exact copies of other episodes" in text(seen)
    assert "--data.sampling.weight unique" in command(seen, opinion)


def test_few_episodes_support_nothing() -> None:
    _, opinion = judged(made(12))
    assert opinion.verdict.kind == "refuse" and found(opinion, "Amount") == "problem"
    assert any("12 different episodes" in sentence for sentence in opinion.verdict.sentences)


def test_one_action_per_state_supports_nothing() -> None:
    _, opinion = judged(made(60, act=lambda s, i, rng: np.clip(0.4 * s[:1], -1, 1)))
    assert opinion.verdict.kind == "refuse"
    assert "always the same was done" in " ".join(opinion.verdict.sentences)


def test_good_data_is_to_be_imitated() -> None:
    """References 0 and 30; every episode returns close to 29.5 with small noise in what it does."""
    arrays = made(
        60,
        act=lambda s, i, rng: np.clip(0.3 * s[:1] + 0.1 * rng.normal(size=1), -1, 1),
        lengths=(30, 31),
        terminal=False,
    )
    seen, opinion = judged({**arrays, "references": (0.0, 30.0)})
    assert opinion.verdict.kind == "imitate" and opinion.verdict.headline == "Behavior cloning is enough"
    assert "--config bc" in command(seen, opinion) and "conservatism" not in [a.topic.lower() for a in opinion.advice]


def mixture() -> dict[str, Any]:
    """A good and a bad policy in equal shares, recognisable by their actions."""
    return made(
        80,
        act=lambda s, i, rng: np.clip((0.1 if i % 2 else 0.8) + 0.15 * rng.normal(size=1), -1, 1),
        lengths=(30, 31),
        terminal=False,
    )


def test_a_mixture_is_worth_learning_from() -> None:
    seen, opinion = judged(mixture())
    assert opinion.verdict.kind == "improve" and seen.policies.number == 2
    assert "which of 2 policies acted explains" in " ".join(opinion.verdict.sentences)
    assert "--config iql" in command(seen, opinion)


def test_stitching_is_seen_where_no_episode_is_better_than_another() -> None:
    world = GridWorld("stitch")
    data = Episodes.join([load(world.dataset(world.policy_from_text(p), 20)) for p in STITCH_POLICIES])
    seen, opinion = judged(data)
    assert opinion.verdict.headline == "There is something to gain, also by recombining episodes"
    assert "--config discrete_bcq" in command(seen, opinion)
    assert found(opinion, "Duplicates") == "warning"  # equal episodes happen in so small a world
    assert "sampling.weight unique" not in command(seen, opinion)


def test_time_limits_stored_as_terminals_and_resets_logged_as_ends() -> None:
    rng = np.random.default_rng(0)
    short = rng.integers(10, 39, 50)
    limited = made(50, lengths=(40, 41))
    keep, end = [], np.flatnonzero(limited["terminated"])
    for i, last in enumerate(end):
        steps = 40 if i % 2 else int(short[i])
        keep += range(last - 39, last - 39 + steps)
    arrays = {key: value[keep] for key, value in limited.items()}
    arrays["terminated"] = np.append(np.diff(np.searchsorted(end, keep)) > 0, True)
    _, opinion = judged(arrays)
    assert found(opinion, "Time limits") == "problem"
    reset = made(50)
    ends = np.flatnonzero(reset["terminated"])[:-1]
    reset["next_observations"][ends] = reset["observations"][ends + 1]
    _, opinion = judged(reset)
    assert found(opinion, "Last observations") == "problem"
    pieces = made(50, terminal=False)
    pieces["next_observations"][ends] = pieces["observations"][ends + 1]
    _, opinion = judged(pieces)
    assert found(opinion, "Pieces") == "warning"


def test_partly_copied_episodes_drift_and_sparse_rewards() -> None:
    arrays = made(60, lengths=(30, 31))
    for key in ("observations", "next_observations", "actions", "rewards"):
        arrays[key][300:600] = arrays[key][:300]
    arrays["rewards"][300:600:30] += 0.25  # so that no episode is a copy as a whole
    _, opinion = judged(arrays)
    assert found(opinion, "Leaking episodes") == "problem"
    later = made(60, reward=lambda s, a, i, rng: float(i > 30), lengths=(30, 31))
    seen, opinion = judged(later)
    assert found(opinion, "Drift of returns") == "warning" and seen.drift[0].size > 1
    sparse = made(60, reward=lambda s, a, i, rng: float(rng.random() < 0.02))
    seen, opinion = judged(sparse)
    assert found(opinion, "Rewards") == "warning"
    assert {"antmaze", "[7,1]"} <= set(command(seen, opinion).split())


@pytest.mark.parametrize("arrays", [broken, mixture, lambda: made(12)])
def test_every_sentence_has_evidence_and_every_command_exists(arrays: Callable[[], dict[str, Any]]) -> None:
    seen, opinion = judged(arrays())
    assert opinion.verdict.evidence and len(opinion.advice) >= 2
    for advice in opinion.advice:
        assert advice.evidence and all(one.name and one.value for one in advice.evidence), advice.topic
        assert advice.sentence.endswith(".")
    for finding in opinion.findings:
        if finding.level == "problem":
            assert any(one.limit and one.source for one in finding.evidence), finding.topic
    words = command(seen, opinion).split()
    assert words[:3] == ["offrl", "fit", "--data.source"]
    assert (REPO / "configs" / f"{words[words.index('--config') + 1]}.yaml").is_file()


def test_names_in_the_advice_exist() -> None:
    source = (REPO / "lightning_offrl" / "report" / "dataset_advice.py").read_text()
    for config in re.findall(r'"--config (\w+)"', source) + ["discrete_cql", "discrete_bcq", "discrete_bc", "bc"]:
        assert (REPO / "configs" / f"{config}.yaml").is_file(), config
    assert set(re.findall(r"--data.reward ([\w-]+)", source)) <= set(PRESETS)
    for name, parameter in (("IQL", "inverse_temperature"), ("TD3BC", "alpha"), ("CQL", "weight")):
        assert parameter in all_algorithms()[name].__init__.__annotations__
    for option in re.findall(r"--data.sampling.(\w+) ([\w]+)", source):
        if option[0] in ("strata", "weight"):
            Sampling(**{option[0]: option[1], **({"report": "x"} if option[1] == "policy" else {})})


def test_the_page_and_its_numbers(tmp_path: Path) -> None:
    from tests.reports.test_html import Balanced, outside_references

    seen = examine({**mixture(), "name": "a <mixed> set"})
    page, numbers = write(seen, tmp_path)
    assert page == tmp_path / "a-mixed-set-report.html" and numbers == page.with_suffix(".json")
    document = page.read_text()
    parser = Balanced()
    parser.feed(document)
    assert not parser.open and outside_references(document) == []
    assert "a &lt;mixed&gt; set" in document and "<mixed>" not in document
    # Every picture says what it shows, with a number.
    labels = re.findall(r'<svg[^>]*aria-label="([^"]+)"', document)
    assert len(labels) == document.count("<svg") >= 7 and all(re.search(r"\d", label) for label in labels)
    assert len(document) < 600_000
    facts = json.loads(numbers.read_text())
    assert facts == as_dict(seen) and facts["verdict"]["kind"] == "improve"
    assert facts["returns"]["mean"] == pytest.approx(float(seen.episodes.returns().mean()))
    # The samplers read it.
    sampling = Sampling(strata="policy", report=str(numbers))
    strata = sampling.stratum(seen.episodes)
    assert strata.bincount().tolist() == [40 * 30, 40 * 30]
    assert as_dict(examine({**mixture(), "name": "a <mixed> set"})) == facts  # nothing in it is left to chance


def test_pictures_and_nested_observations_are_reported(make_arrays: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = make_arrays(episodes=8, length=10)
    arrays["observations"] = {
        "camera": rng.integers(0, 256, (80, 12, 12, 1), dtype=np.uint8),
        "state": rng.normal(size=(80, 2)).astype(np.float32),
    }
    arrays["next_observations"] = None
    arrays["actions"] = rng.integers(0, 3, 80)
    write(examine(arrays), tmp_path)


def test_tiny_data_is_reported(make_arrays: Any, tmp_path: Path) -> None:
    for episodes, length in ((2, 5), (3, 1), (2, 2), (1, 1)):
        seen, opinion = judged(make_arrays(episodes=episodes, length=length))
        assert opinion.verdict.kind == "refuse"
    write(seen, tmp_path)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_offrl.cli import main

    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "small.npz", **made(12, lengths=(10, 11)))
    assert main(["data", "report", "small.npz"]) == 0
    said = capsys.readouterr().out
    assert "This data cannot support an improvement claim" in said and "written to small-report.html" in said
    assert (tmp_path / "small-report.json").is_file()
    for words, sentence in (
        (["nothere.hdf5"], "there is no file nothere.hdf5"),
        (["small.npz", "--discount", "1"], "discount of a report must lie in [0, 1), got 1.0"),
        (["small.npz", "--report", "report.pdf"], "written as .html (and .json beside it), got the path report.pdf"),
        (["small.npz", "--report", "/proc/none/x.html"], "the report cannot be written to /proc/none/x.html"),
        (["small.npz", "--html", "x"], "offrl data report has no option --html"),
    ):
        assert main(["data", "report", *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1


def test_bad_python_arguments(arrays: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a data source is a Minari id"):
        examine(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "headline"),
    [
        ("hopper_medium-v2", {1}, "one policy"),
        ("hopper_medium_expert-v2", {2}, "something to gain"),
        ("hopper_mixed-v2", {3, 4, 5, 6}, "also by recombining episodes"),
    ],
)
def test_real_data_is_what_its_name_says(shared_data: Path, name: str, number: set[int], headline: str) -> None:
    """One trained policy; two; and those of a whole training run."""
    file = shared_data / "d4rl" / f"{name}.hdf5"
    if not file.is_file():
        pytest.skip(f"no {file}")
    seen, opinion = judged(file)
    assert seen.policies.number in number and headline in opinion.verdict.headline
    assert opinion.verdict.kind == "improve"
