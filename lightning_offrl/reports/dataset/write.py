"""A dataset report as files: the HTML, and all numbers as JSON beside it; and its summary for a terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from lightning_offrl.reports import html
from lightning_offrl.reports.dataset.advice import assess, command
from lightning_offrl.reports.dataset.document import document
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.training.files import write_atomically


def as_json(measures: DatasetMeasures) -> dict[str, Any]:
    """Everything as plain numbers, ready for JSON: nan and inf as None, pictures left out.

    ``episode_policies`` maps each episode's content hash to the number of its policy, for
    `lightning_offrl.data.strata.Sampling`.
    """
    episodes, assessment = measures.episodes, assess(measures)
    facts: dict[str, Any] = {
        "format": 1,
        "source": measures.source,
        "name": episodes.name,
        "environment": episodes.environment,
        "fingerprint": episodes.fingerprint,
        "episodes": episodes.n_episodes,
        "transitions": len(episodes),
        "spec": episodes.spec,
        "references": episodes.references,
        "notes": episodes.notes,
        "columns": measures.columns,
        "discount": measures.discount,
        "verdict": assessment.verdict,
        "advice": assessment.advice,
        "findings": assessment.findings,
    }
    for name in ("returns", "score", "lengths", "endings", "rewards", "actions", "imbalance", "drift", "copies"):
        facts[name] = getattr(measures, name)
    facts["states"] = _without(measures.states, "map", "map_rows")
    facts["policies"] = _without(measures.policies, "of_episode")
    facts["links"] = _without(measures.links, "episodes", "chosen", "neighbors", "state", "cut")
    facts["links"]["sampled_episodes"] = measures.links.episodes.n_episodes
    facts["links"]["sampled_steps"] = len(measures.links.episodes)
    facts["stitching"] = measures.stitching
    facts["episode_policies"] = dict(zip(measures.hashes, measures.policies.of_episode.tolist(), strict=True))
    return _json_value(facts)


def _without(value: Any, *names: str) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in names}


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _json_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def summary(measures: DatasetMeasures) -> str:
    """Verdict, problems and warnings for a terminal."""
    assessment = assess(measures)
    lines = [assessment.verdict.headline, *(f"  {sentence}" for sentence in assessment.verdict.sentences)]
    for level, word in (("problem", "repair"), ("warning", "know")):
        lines += [f"{word}: {one.sentence}" for one in assessment.findings if one.level == level]
    lines.append(f"train: {command(measures, assessment)}")
    return "\n".join(lines)


def write(measures: DatasetMeasures, output: str | Path | None = None) -> tuple[Path, Path]:
    """Write the report and its numbers.

    Args:
        measures: what `lightning_offrl.reports.dataset.measure.measure` found.
        output: the path of the report (``.html``), or a directory; None: ``NAME-report.html`` in the working directory.
            The numbers are written beside it, as ``.json``.

    Returns:
        The paths of the report and of the numbers.

    Raises:
        InputError: for a path that does not end in ``.html`` and is no directory, or cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "-", measures.episodes.name).strip("-.") or "dataset"
    path = Path(output).expanduser() if output is not None else Path()
    if path.is_dir():
        path = path / f"{name}-report.html"
    report, numbers = html.write(path, document(measures)), path.with_suffix(".json")
    text = json.dumps(as_json(measures), indent=1, allow_nan=False) + "\n"
    write_atomically(numbers, text.encode(), what="the report's numbers")
    return report, numbers
