"""A trained policy played in its environment, as ``offrl evaluate`` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lightning_offrl.envs.make import environment_name
from lightning_offrl.envs.rollout import Evaluation, evaluate, normalized_score
from lightning_offrl.envs.video import check_video_path, record
from lightning_offrl.errors import InputError
from lightning_offrl.policy import Policy, load_policy
from lightning_offrl.training.saved import read_saved


def evaluate_checkpoint(
    checkpoint: str | Path,
    environment: str | None = None,
    *,
    episodes: int = 10,
    seed: int = 1000,
    video: str | Path | None = None,
    encoder: nn.Module | None = None,
) -> str:
    """Play episodes with a policy and say how it went.

    Args:
        checkpoint: ``policy.pt``, or a training checkpoint; all seeds of one that stacks several.
        environment: Gymnasium id; None takes that of the training data.
        episodes: how many (per seed).
        seed: episode i is reset with ``seed + i``.
        video: film the episode with the median return (of the first seed) into this .gif or .mp4: neither the
            luckiest nor the dullest.
        encoder: the custom encoder, if the policy was trained with one.

    Returns:
        A table: return, score, length of each episode, their means with standard errors, the time.

    Raises:
        InputError: a file that is no policy, no environment known, or one that does not fit. A video that cannot be
            drawn only adds a line.
    """
    if video is not None:
        check_video_path(video)
    saved = read_saved(checkpoint)
    trusted = environment is not None
    environment = environment or saved.data.get("environment")
    if environment is None:
        raise InputError(f"{checkpoint} does not say which environment its data came from: name one with --environment")
    references = saved.data.get("references")
    indices: list[int | None] = [None] if saved.seeds == 1 else list(range(saved.seeds))
    lines: list[str] = []
    for index in indices:
        policy = load_policy(checkpoint, encoder=encoder, seed_index=index)
        seen = evaluate(policy.act_scaled, environment, episodes=episodes, seed=seed, trusted=trusted, spec=policy.spec)
        lines += [_title(policy, saved.path, environment, index), *_rows(seen, seed, references), ""]
        if video is not None and index in (None, 0):
            middle = int(np.argsort(seen.returns)[(len(seen.returns) - 1) // 2])
            lines.append(_film(policy, environment, video, seed + middle, trusted))
    return "\n".join(lines).rstrip()


def _title(policy: Policy, path: Path, environment: str, index: int | None) -> str:
    name = policy.info["algorithm"].rpartition(".")[2]
    data = (policy.info.get("data") or {}).get("name", "unknown data")
    which = "" if index is None else f" (stacked seed {index})"
    where = f"in {environment_name(environment)} ({path})"
    return f"{name}{which}, {policy.info.get('updates') or 0:,} updates on {data}, {where}"


def _rows(seen: Evaluation, seed: int, references: Any) -> list[str]:
    scores = None if references is None else normalized_score(seen.returns, references)
    header = (
        f"{'episode seed':>12}  {'return':>10}"
        + ("" if scores is None else f"  {'score':>7}")
        + f"  {'length':>6}  end"
    )
    rows = [header]
    for i, (value, length) in enumerate(zip(seen.returns, seen.lengths, strict=True)):
        score = "" if scores is None else f"  {scores[i]:7.1f}"
        end = "terminated" if seen.terminated[i] else "truncated" if np.isfinite(value) else "action not finite"
        rows.append(f"{seed + i:>12}  {value:10.2f}{score}  {length:6d}  {end}")
    several = len(seen.returns) > 1
    error = f" +- {seen.standard_error:.2f}" if several else ""
    rows.append(f"return {seen.mean:.2f}{error}" + (" (mean and its standard error)" if several else ""))
    if scores is not None:
        spread = seen.standard_error * 100.0 / (references[1] - references[0])
        rows.append(
            f"score  {scores.mean():.1f}" + (f" +- {spread:.1f}" if several else "") + " (0-100 between the references)"
        )
    rows.append(f"length {seen.lengths.mean():.1f}, {seen.seconds:.2f} s")
    return rows


def _film(policy: Policy, environment: str, video: str | Path, seed: int, trusted: bool) -> str:
    try:
        path, total, frames = record(policy.act, environment, video, seed=seed, trusted=trusted)
    except InputError as problem:
        return f"no video: {problem}"
    return f"video of the episode with the median return, seed {seed} (return {total:.2f}, {frames} frames): {path}"
