"""A trained policy played in its environment, as ``offrl evaluate`` does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.parser import Parser, add_import, parse
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from lightning_offrl.envs.rollout import Evaluation
    from lightning_offrl.policy import Policy


def main(words: Sequence[str]) -> None:
    """Play episodes and print how they went."""
    description = "Play episodes with a trained policy and report returns, lengths and scores."
    parser = Parser(prog="offrl evaluate", description=description)
    add = parser.add_argument
    add("policy", help="The policy: an exported policy.pt, or a .ckpt file.")
    add("--environment", metavar="ID", help="The Gymnasium id of the environment; that of the training data otherwise.")
    add("--episodes", type=int, default=10, help="The number of episodes, for each of the run's stacked seeds.")
    add("--seed", type=int, default=1000, help="The seed: episode i is reset with seed + i.")
    add("--video", metavar="FILE", help="The .mp4 or .gif into which one of the episodes is filmed.")
    add_import(parser)
    options = parse(parser, words)
    print(evaluate_checkpoint(options.pop("policy"), **options))


def evaluate_checkpoint(
    checkpoint: str | Path,
    environment: str | None = None,
    *,
    episodes: int = 10,
    seed: int = 1000,
    video: str | Path | None = None,
    encoder: nn.Module | None = None,
) -> str:
    """Play episodes with a policy and say how they went.

    Args:
        checkpoint: The path of ``policy.pt`` or of a training checkpoint; all stacked seeds of it are played.
        environment: The Gymnasium id of the environment; None takes that of the training data.
        episodes: The number of episodes (per stacked seed).
        seed: The seed: episode i is reset with ``seed + i``.
        video: The .gif or .mp4 into which the episode with the median return (of the first stacked seed) is filmed.
        encoder: The custom encoder, if the policy was trained with one.

    Returns:
        A table: return, score, length of each episode, their means with standard errors, the time.

    Raises:
        InputError: The file is no policy, or no environment is known, or it does not fit. A video that cannot be
            drawn only adds a line.
    """
    import numpy as np

    from lightning_offrl.envs.rollout import evaluate
    from lightning_offrl.envs.video import check_video_path
    from lightning_offrl.policy import load_policy
    from lightning_offrl.training.saved import read_saved

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
    from lightning_offrl.envs.make import environment_name

    name = policy.info["algorithm"].rpartition(".")[2]
    data = (policy.info.get("data") or {}).get("name", "unknown data")
    which = "" if index is None else f" (stacked seed {index})"
    where = f"in {environment_name(environment)} ({path})"
    return f"{name}{which}, {policy.info.get('updates') or 0:,} updates on {data}, {where}"


def _rows(seen: Evaluation, seed: int, references: Any) -> list[str]:
    import numpy as np

    from lightning_offrl.envs.rollout import normalized_score

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
    from lightning_offrl.envs.video import record

    try:
        path, total, frames = record(policy.act, environment, video, seed=seed, trusted=trusted)
    except InputError as problem:
        return f"no video: {problem}"
    return f"video of the episode with the median return, seed {seed} (return {total:.2f}, {frames} frames): {path}"
