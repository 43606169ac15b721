"""What a person wants to know of a dataset before training on it: `describe` as text, `as_dict` as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.readers import cache, load, locate
from lightning_offrl.data.readers.reference_returns import D4RL, REFERENCES_NOTE
from lightning_offrl.data.text_table import aligned

BINS = 10
ROWS = 16
SATURATED = 0.99
_BAR = 36
_EIGHTHS = " ▏▎▍▌▋▊▉"


def as_dict(source: Any, *, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """The facts of a dataset, ready for JSON.

    Args:
        source: anything that `load` takes.
        cache_dir: see `lightning_offrl.data.readers.cache.directory`.

    Raises:
        InputError: if the source cannot be read.
    """
    episodes = load(source, cache_dir=cache_dir)
    spec, data = episodes.spec, episodes.data
    returns, reward = episodes.returns(), data["next", "reward"].double()
    lengths = episodes.length.double()
    facts: dict[str, Any] = {
        "name": episodes.name,
        "environment": episodes.environment,
        "episodes": episodes.n_episodes,
        "transitions": len(episodes),
        "observation_shape": spec["observation_shape"],
        "action_kind": spec["action_kind"],
        "action_size": spec["action_size"],
        "action_low": spec.get("action_low"),
        "action_high": spec.get("action_high"),
        "lengths": _summary(lengths),
        "returns": {**_summary(returns), "histogram": _histogram(returns)},
        "rewards": {**_summary(reward), "zero_share": _share(reward == 0), "distinct": len(reward.unique())},
        "terminated": int(data["next", "terminated"].sum()),
        "truncated": int(data["next", "truncated"].sum()),
        "references": list(episodes.references) if episodes.references else None,
        "references_from": _references_from(episodes),
        "score": None,
        "actions": _actions(data["action"], spec),
        "observations": list(observation_facts(data["observation"])),
        "behavior_log_prob": _log_prob(data),
        "columns": episodes.columns,
        "notes": list(episodes.notes),
        "fingerprint": episodes.fingerprint,
        "cache": None,
    }
    if episodes.references:
        low, high = episodes.references
        facts["score"] = _summary(100.0 * (returns - low) / (high - low))
    if isinstance(source, str | Path):
        place = locate(source)
        entry = cache.entry_of(place.files, place.version, cache_dir)
        facts["cache"] = None if entry is None else str(entry)
    return facts


def describe(source: Any, *, cache_dir: str | Path | None = None) -> str:
    """The facts of a dataset as text of at most 100 columns (paths aside).

    Args:
        source: anything that `load` takes.
        cache_dir: see `lightning_offrl.data.readers.cache.directory`.

    Raises:
        InputError: if the source cannot be read.
    """
    facts = as_dict(source, cache_dir=cache_dir)
    lines = [facts["name"], "─" * max(len(facts["name"]), 20)]
    lines += _row("environment", _environment_text(facts["environment"]))
    lines += _row("episodes", f"{facts['episodes']:,} with {facts['transitions']:,} transitions")
    lines += _row("observation", _shape_text(facts["observation_shape"]))
    lines += _row("action", _action_text(facts))
    lines += _row("endings", _endings_text(facts))
    lines += _row("lengths", _summary_text(facts["lengths"], ("min", "median", "mean", "max")))
    lines += _row("returns", _summary_text(facts["returns"], ("min", "25 %", "median", "75 %", "max")))
    lines += _row("", _summary_text(facts["returns"], ("mean", "sd")))
    lines += [f"               {line}" for line in _histogram_text(facts["returns"]["histogram"])]
    lines += _score_text(facts)
    rewards = facts["rewards"]
    sparsity = f"{_percent(rewards['zero_share'])} are zero, {_several(rewards['distinct'], 'distinct value')}"
    lines += _row("rewards", _summary_text(rewards, ("min", "mean", "sd", "max")) + f"   {sparsity}")
    lines += _row("log density", _log_prob_text(facts["behavior_log_prob"]))
    columns = facts["columns"]
    if columns.get("log"):
        lines += _row("kept aside", ", ".join(map(_column_name, columns["log"])))
    lines += ["", *_actions_text(facts["actions"], facts["action_kind"], _action_names(columns))]
    lines += ["", *_observations_text(facts["observations"], [_column_name(c) for c in columns.get("observation", [])])]
    notes = [*facts["notes"], *columns.get("notes", [])]
    if notes:
        lines += ["", "notes", *(line for note in notes for line in _wrapped(note))]
    lines += ["", *_row("fingerprint", facts["fingerprint"]), *_row("cache", facts["cache"] or "not cached")]
    return "\n".join(line.rstrip() for line in lines)


# -- numbers ---------------------------------------------------------------------------------------------------------


def _summary(values: Tensor) -> dict[str, float]:
    # numpy: torch.quantile refuses more than 16 million values
    quarters = np.quantile(values.numpy(), [0.25, 0.5, 0.75])
    return {
        "min": float(values.min()),
        "25 %": float(quarters[0]),
        "median": float(quarters[1]),
        "75 %": float(quarters[2]),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "sd": float(values.std(correction=0)),
    }


def _histogram(values: Tensor) -> dict[str, list[float]]:
    if float(values.min()) == float(values.max()):
        return {"counts": [len(values)], "edges": [float(values.min()), float(values.max())]}
    counts, edges = np.histogram(values.numpy(), bins=BINS)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _references_from(episodes: Episodes) -> str | None:
    if episodes.references is None:
        return None
    from_table = episodes.references in D4RL.values() and any(REFERENCES_NOTE in note for note in episodes.notes)
    return "D4RL's published table" if from_table else "the dataset"


def _actions(action: Tensor, spec: dict[str, Any]) -> list[dict[str, float]]:
    if spec["action_kind"] == "discrete":
        counts = torch.bincount(action, minlength=spec["action_size"])
        return [{"count": int(count), "share": int(count) / len(action)} for count in counts]
    rows = []
    for dim in range(action.shape[1]):
        column = action[:, dim].double()
        rows.append(
            {
                "mean": float(column.mean()),
                "sd": float(column.std(correction=0)),
                "min": float(column.min()),
                "max": float(column.max()),
                "saturated": _share(column.abs() > SATURATED),
            }
        )
    return rows


def observation_facts(observation: Tensor | TensorDict) -> Iterator[dict[str, Any]]:
    """Range of every feature of vectors, of the whole array for anything larger."""
    found = [((), observation)] if isinstance(observation, Tensor) else list(leaves(observation))
    for path, leaf in found:
        name = ".".join(path)
        columns = leaf.shape[1] if leaf.ndim == 2 else 0
        pieces = [leaf[i : i + 100_000].reshape(len(leaf[i : i + 100_000]), -1) for i in range(0, len(leaf), 100_000)]
        if not columns:
            pieces = [piece.reshape(-1, 1) for piece in pieces]
        low = torch.stack([piece.amin(0) for piece in pieces]).amin(0).double()
        high = torch.stack([piece.amax(0) for piece in pieces]).amax(0).double()
        count = sum(len(piece) for piece in pieces)
        mean = sum((piece.double().sum(0) for piece in pieces), torch.zeros(())) / count
        square = sum(((piece.double() - mean).square().sum(0) for piece in pieces), torch.zeros(()))
        deviation = torch.sqrt(torch.as_tensor(square) / count)
        yield {
            "name": name,
            "shape": list(leaf.shape[1:]),
            "dtype": str(leaf.dtype).removeprefix("torch."),
            "min": low.tolist(),
            "mean": torch.as_tensor(mean).tolist(),
            "sd": deviation.tolist(),
            "max": high.tolist(),
            "constant": (low == high).nonzero().squeeze(-1).tolist() if columns else [],
        }


def _log_prob(data: TensorDict) -> dict[str, float] | None:
    value = data.get("behavior_log_prob", None)
    return None if value is None else _summary(value.double())


# -- text ------------------------------------------------------------------------------------------------------------


def _row(label: str, text: str) -> list[str]:
    return [f"{label:<13}  {text}"]


def compact_number(value: float) -> str:
    """A number in few characters: with exponent where it is very large or small, else with three decimals at most."""
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{1 if abs(value) >= 100 else 3}f}"


def _percent(share: float) -> str:
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.1f} %"


def _several(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _summary_text(summary: dict[str, float], keys: tuple[str, ...], decimals: int | None = None) -> str:
    def text(value: float) -> str:
        return compact_number(value) if decimals is None else f"{value:,.{decimals}f}"

    return "   ".join(f"{key} {text(summary[key])}" for key in keys)


def _environment_text(environment: str | None) -> str:
    if environment is None:
        return "not known (give one to evaluate)"
    from lightning_offrl.envs.make import environment_name

    return environment_name(environment)


def _shape_text(shape: Any) -> str:
    if isinstance(shape, dict):
        return "{" + ", ".join(f"{key}: {_shape_text(inner)}" for key, inner in shape.items()) + "}"
    if len(shape) == 1:
        return _several(shape[0], "number")
    return " x ".join(map(str, shape))


def _action_text(facts: dict[str, Any]) -> str:
    if facts["action_kind"] == "discrete":
        return f"one of {facts['action_size']}"
    bounds = sorted(set(zip(facts["action_low"], facts["action_high"], strict=True)))
    text = f"[{bounds[0][0]:g}, {bounds[0][1]:g}]" if len(bounds) == 1 else "bounds that differ by dimension"
    return f"{_several(facts['action_size'], 'number')} in {text}"


def _endings_text(facts: dict[str, Any]) -> str:
    total = facts["episodes"]
    return (
        f"{facts['terminated']:,} terminal ({_percent(facts['terminated'] / total)}), "
        f"{facts['truncated']:,} truncated ({_percent(facts['truncated'] / total)})"
    )


def _histogram_text(histogram: dict[str, list[float]]) -> Iterator[str]:
    counts, edges = histogram["counts"], [compact_number(edge) for edge in histogram["edges"]]
    width, most = max(map(len, edges)), max(counts)
    for i, count in enumerate(counts):
        eighths = round(8 * _BAR * count / most)
        # An episode must be visible, however many there are elsewhere.
        eighths = max(eighths, 1) if count else 0
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        yield f"{edges[i]:>{width}} to {edges[i + 1]:>{width}}  {bar} {int(count):,}"


def _score_text(facts: dict[str, Any]) -> list[str]:
    if facts["score"] is None:
        return _row("score 0-100", "no reference returns known")
    low, high = facts["references"]
    return [
        *_row("score 0-100", _summary_text(facts["score"], ("min", "25 %", "median", "75 %", "max", "mean"), 1)),
        *_row("", f"0 is {compact_number(low)}, 100 is {compact_number(high)}, from {facts['references_from']}"),
    ]


def _log_prob_text(summary: dict[str, float] | None) -> str:
    if summary is None:
        return "of the logged actions is not stored"
    return f"of the logged actions: {_summary_text(summary, ('min', 'mean', 'max'))}"


def _column_name(column: dict[str, Any]) -> str:
    """``lactate (mmol/l)``, ``site (3 labels)``."""
    labels = column.get("labels")
    about = _several(len(labels), "label") if labels else column.get("unit")
    return f"{column['name']} ({about})" if about else str(column["name"])


def _action_names(columns: dict[str, Any]) -> list[str]:
    labels: list[str] = columns.get("action_labels", [])
    return labels or [_column_name(column) for column in columns.get("action", [])]


def _actions_text(actions: list[dict[str, float]], kind: str, names: list[str]) -> list[str]:
    named = names if len(names) == len(actions) else [str(i) for i in range(len(actions))]
    rest = [f"... and {len(actions) - ROWS} more"] if len(actions) > ROWS else []
    if kind == "discrete":
        rows = [["action", "count", "share"]]
        rows += [[named[i], f"{a['count']:,}", _percent(a["share"])] for i, a in enumerate(actions[:ROWS])]
        return aligned(rows, numbers=True) + rest
    rows = [["action (scaled)", "min", "mean", "sd", "max", f"|a| > {SATURATED}"]]
    for i, a in enumerate(actions[:ROWS]):
        rows.append([named[i], *(f"{a[key]:.3f}" for key in ("min", "mean", "sd", "max")), _percent(a["saturated"])])
    return aligned(rows, numbers=True) + rest


def _observations_text(found: list[dict[str, Any]], names: list[str]) -> list[str]:
    rows, constant = [["observation", "min", "mean", "sd", "max"]], []
    hidden = 0
    for leaf in found:
        vector = len(leaf["shape"]) == 1
        for i in range(len(leaf["min"])):
            name = f"{leaf['name']} {i}".strip() if vector else f"{leaf['name']} {_shape_text(leaf['shape'])}".strip()
            if len(found) == 1 and len(names) == len(leaf["min"]):
                name = names[i]
            if len(rows) > ROWS:
                hidden += 1
            else:
                rows.append([name, *(compact_number(leaf[key][i]) for key in ("min", "mean", "sd", "max"))])
            if i in leaf["constant"]:
                constant.append(name)
    lines = aligned(rows, numbers=True) + ([f"... and {hidden} more"] if hidden else [])
    if constant:
        shown = ", ".join(constant[:ROWS]) + (f" and {len(constant) - ROWS} more" if len(constant) > ROWS else "")
        lines.append(f"constant: {shown}")
    return lines


def _wrapped(note: str) -> list[str]:
    import textwrap

    return textwrap.wrap(note, 96, initial_indent="  - ", subsequent_indent="    ")
