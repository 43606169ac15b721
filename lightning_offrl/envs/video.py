"""One episode as a video file."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_offrl.envs.action_masks import decide, mask_of, takes_mask
from lightning_offrl.envs.make import cannot_draw, environment_name, environment_spec, make_environment
from lightning_offrl.errors import InputError


def check_video_path(path: str | Path) -> Path:
    """See before playing whether this kind of file can be written.

    Raises:
        InputError: for another ending than .gif or .mp4, or .mp4 without an encoder.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"a video is written as .gif or .mp4, got {path.name!r}")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        except ImportError:
            raise InputError(
                f"{path.name} needs an encoder that is not installed: pip install imageio imageio-ffmpeg, or write "
                "a .gif"
            ) from None
    return path


def record(
    controller: Any, environment: str, path: str | Path, *, seed: int = 1000, trusted: bool = False
) -> tuple[Path, float, int]:
    """Film one episode.

    Args:
        controller: raw observation to an action in environment units, such as ``Policy.act``.
        environment: Gymnasium id.
        path: ``.gif`` (256 colors, written by Pillow) or ``.mp4`` (needs imageio-ffmpeg).
        seed: the episode's.
        trusted: the user named the environment, not a file; see `make.make_environment`.

    Returns:
        The path, the episode's return, and the number of frames.

    Raises:
        InputError: a kind of file that cannot be written, or an environment that cannot draw itself here.
    """
    path = check_video_path(path)
    frames, total = [], 0.0
    with _headless():
        env = make_environment(environment, trusted=trusted, render_mode="rgb_array")
    try:
        with _headless(), _explained(environment):
            observation, info = env.reset(seed=seed)
            frames.append(_frame(env, environment))
            spec = environment_spec(env) if takes_mask(controller) else None
            ended = False
            while not ended:
                action = decide(controller, observation, None if spec is None else mask_of(observation, info, spec))
                if not isinstance(action, int):
                    space = env.action_space
                    action = np.clip(np.asarray(action).reshape(space.shape), space.low, space.high).astype(space.dtype)
                observation, reward, terminated, truncated, info = env.step(action)
                total += float(reward)
                frames.append(_frame(env, environment))
                ended = bool(terminated or truncated)
        rate = float(env.metadata.get("render_fps") or 30)
    finally:
        env.close()
    _write(frames, path, rate)
    return path, total, len(frames)


def _frame(env: Any, environment: str) -> np.ndarray:
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise InputError(
            f"{environment_name(environment)} returned no picture to film (it gave {type(frame).__name__})"
        )
    return frame.astype(np.uint8)


def _write(frames: list[np.ndarray], path: Path, rate: float) -> None:
    from lightning_offrl.training.files import write_atomically

    if path.suffix.lower() == ".gif":
        data = gif(frames, rate)
    else:
        import imageio.v3 as imageio  # type: ignore[import-not-found, import-untyped, unused-ignore]

        data = imageio.imwrite("<bytes>", np.stack(frames), extension=".mp4", fps=rate, macro_block_size=2)
    write_atomically(path, data, what="the video")


def gif(frames: list[np.ndarray], rate: float) -> bytes:
    """Frames ``[H, W, 3]`` uint8 as an endless GIF of at most 25 frames a second and 320 pixels a side.

    Many viewers slow down anything faster than that, so frames are left out, not delays shortened.
    """
    from PIL import Image

    step = max(1, round(rate / 25.0))
    kept = frames[::step]
    kept = kept if len(frames) % step == 1 or step == 1 else [*kept, frames[-1]]
    images = []
    for frame in kept:
        image = Image.fromarray(frame)
        image.thumbnail((320, 320), Image.Resampling.BILINEAR)
        images.append(image)
    # One palette for all frames, so that flat colors do not flicker; from several, so that it has every color.
    sample = [np.asarray(images[i]) for i in np.linspace(0, len(images) - 1, 8).astype(int)]
    palette = Image.fromarray(np.concatenate(sample)).quantize(128, dither=Image.Dither.NONE)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    indexed[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=round(1000.0 * step / rate),
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


@contextlib.contextmanager
def _headless() -> Iterator[None]:
    """Let pygame draw without a display, unless the user has chosen a driver."""
    before = os.environ.get("SDL_VIDEODRIVER")
    if before is None and not os.environ.get("DISPLAY"):
        os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="glfw")  # says the same as the error that follows
            yield
    finally:
        if before is None:
            os.environ.pop("SDL_VIDEODRIVER", None)


@contextlib.contextmanager
def _explained(environment: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        raise InputError(cannot_draw(environment, problem)) from problem
