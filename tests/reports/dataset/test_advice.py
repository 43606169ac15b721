"""Every sentence has evidence, and every name in it exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.data.rewards import PRESETS
from lightning_offrl.data.strata import Sampling
from lightning_offrl.reports.dataset.advice import command
from tests.reports.dataset.worlds import broken, judged, made, mixture

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("arrays", [broken, mixture, lambda: made(12)])
def test_every_sentence_has_evidence_and_every_command_exists(arrays: Callable[[], dict[str, Any]]) -> None:
    measures, assessment = judged(arrays())
    assert assessment.verdict.evidence and len(assessment.advice) >= 2
    for advice in assessment.advice:
        assert advice.evidence and all(one.name and one.value for one in advice.evidence), advice.topic
        assert advice.sentence.endswith(".")
    for finding in assessment.findings:
        if finding.level == "problem":
            assert any(one.limit and one.source for one in finding.evidence), finding.topic
    words = command(measures, assessment).split()
    assert words[:3] == ["offrl", "fit", "--data.source"]
    assert (REPO / "configs" / f"{words[words.index('--config') + 1]}.yaml").is_file()


def test_names_in_the_advice_exist() -> None:
    source = (REPO / "lightning_offrl" / "reports" / "dataset" / "advice.py").read_text()
    for config in re.findall(r'"--config (\w+)"', source) + ["discrete_cql", "discrete_bcq", "discrete_bc", "bc"]:
        assert (REPO / "configs" / f"{config}.yaml").is_file(), config
    assert set(re.findall(r"--data.reward ([\w-]+)", source)) <= set(PRESETS)
    for name, parameter in (("IQL", "inverse_temperature"), ("TD3BC", "alpha"), ("CQL", "weight")):
        assert parameter in all_algorithms()[name].__init__.__annotations__
    for option in re.findall(r"--data.sampling.(\w+) ([\w]+)", source):
        if option[0] in ("strata", "weight"):
            Sampling(**{option[0]: option[1], **({"report": "x"} if option[1] == "policy" else {})})
