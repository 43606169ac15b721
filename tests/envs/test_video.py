"""Videos: what is on the frames, and what is said where nothing can be drawn."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_offrl.envs import video
from lightning_offrl.envs.controllers import mountain_car
from lightning_offrl.envs.video import check_video_path, gif, record
from lightning_offrl.errors import InputError


def test_a_gif_shows_the_episode(tmp_path: Path) -> None:
    path, total, frames = record(mountain_car, "MountainCarContinuous-v0", tmp_path / "car.gif", seed=0)
    assert total > 85 and 60 < frames < 200 and list(tmp_path.iterdir()) == [path]
    image = Image.open(path)
    assert image.size == (320, 213) and image.n_frames > 50

    def car(index: int) -> float:
        """Mean column of the dark pixels that the hill does not have."""
        image.seek(index)
        dark = np.asarray(image.convert("L"), dtype=float) < 60
        rows = dark.sum(1) > 6
        return float(np.nonzero(dark[rows])[1].mean())

    columns = [car(i) for i in range(image.n_frames)]
    assert columns[-1] > 290 > max(columns[:5])  # from the valley to the flag at the right


def test_a_gif_keeps_every_color_and_the_last_frame(tmp_path: Path) -> None:
    frames = [np.full((40, 60, 3), 255, np.uint8) for _ in range(9)]
    for i, frame in enumerate(frames):
        frame[10:20, 5 * i : 5 * i + 10] = (200, 30, 30)
    frames[8][30:, 50:] = (30, 30, 200)
    path = tmp_path / "a.gif"
    path.write_bytes(gif(frames, rate=50.0))
    image = Image.open(path)
    assert image.n_frames == 5 and image.info["duration"] == 40  # every second frame of 50 a second
    image.seek(4)
    last = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(last[35, 55] - (30, 30, 200)).max() < 12 and np.abs(last[15, 45] - (200, 30, 30)).max() < 12


def test_kinds_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"as .gif or .mp4, got 'a.avi'"):
        check_video_path("a.avi")
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *a: (_ for _ in ()).throw(ImportError()) if "ffmpeg" in name else real(name, *a),
    )
    with pytest.raises(InputError, match="needs an encoder .* write a .gif"):
        check_video_path("a.mp4")


def test_an_environment_that_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        metadata: dict = {}

        def reset(self, seed):
            return 0, {}

        def render(self):
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")

        def close(self):
            pass

    monkeypatch.setattr(video, "make_environment", lambda *a, **k: Blind())
    with pytest.raises(InputError, match="cannot be drawn here .*glGetError.*MUJOCO_GL=egl"):
        record(lambda o: 0, "Blind-v0", tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
