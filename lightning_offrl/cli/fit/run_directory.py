"""Where a run keeps its files, and how shipped configurations are found."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from lightning_offrl.cli.parser import nearest
from lightning_offrl.errors import InputError

ROOT = "runs"
_ENV = "OFFRL_RUN_DIR"  # from the first process of a run to those it starts


def choose(
    *, run_dir: str | None, name: str | None, ckpt_path: str | None, algorithm: str, source: Any
) -> tuple[Path, Path | None]:
    """The directory of this run and the checkpoint it starts from.

    Args:
        run_dir: The directory that was given; it comes before all else.
        name: The name in place of the time in ``runs/<algorithm>-<dataset>-<time>``.
        ckpt_path: A checkpoint file, or ``last`` for that of the run directory.
        algorithm: The name of the class.
        source: The value of ``data.source``.

    Raises:
        InputError: There is no such checkpoint, or a new run would mix its files with those of another.
    """
    stem = f"{algorithm.lower()}-{dataset_slug(source)}"
    if "LOCAL_RANK" in os.environ and _ENV in os.environ:
        directory = Path(os.environ[_ENV])
    elif run_dir is not None:
        directory = Path(run_dir)
    elif ckpt_path not in (None, "last") and (home := home_of(str(ckpt_path))) is not None:
        directory = home
    elif name is not None:
        directory = Path(ROOT) / f"{stem}-{_slug(name)}"
    elif ckpt_path == "last":
        raise InputError(f"--ckpt_path last needs to know whose: add --run_dir{_newest(stem)}")
    else:
        directory = _fresh(Path(ROOT) / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    os.environ[_ENV] = str(directory)
    checkpoint = None
    if ckpt_path is not None:
        checkpoint = directory / "checkpoints" / "last.ckpt" if ckpt_path == "last" else Path(ckpt_path)
        if not checkpoint.is_file():
            raise InputError(f"there is no checkpoint at {checkpoint}{_others(checkpoint)}")
    elif "LOCAL_RANK" not in os.environ and any(directory.glob("checkpoints/*.ckpt")):
        raise InputError(
            f"{directory} holds a run already: go on with it by --ckpt_path last, or choose another --name or --run_dir"
        )
    return directory, checkpoint


def home_of(ckpt_path: str) -> Path | None:
    """The run directory that a checkpoint lies in, if it lies in one."""
    parent = Path(ckpt_path).absolute().parent
    is_home = parent.name == "checkpoints" and (parent.parent / "config.yaml").is_file()
    return Path(os.path.relpath(parent.parent)) if is_home else None


def dataset_slug(source: Any) -> str:
    """A short name for ``data.source`` that can stand in a file name."""
    if isinstance(source, list | tuple) and source:
        more = f"-and-{len(source) - 1}-more" if len(source) > 1 else ""
        return dataset_slug(source[0]) + more
    if isinstance(source, str | Path):
        text = str(source)
        return _slug(Path(text).stem if text.endswith((".hdf5", ".h5")) else text) or "data"
    return "data"


def find_config(name: str) -> str:
    """The path of a configuration: a file, or the name of a shipped one (``iql`` for ``configs/iql.yaml``).

    Raises:
        InputError: There is no such configuration; the message names those that there are.
    """
    if os.path.isfile(name):
        return name
    shipped = {path.stem: path for folder in _config_folders() for path in sorted(folder.glob("*.yaml"))}
    stem = Path(name).name.removesuffix(".yaml")
    if stem in shipped and (os.sep not in name or Path(name).parent == Path("configs")):
        return str(shipped[stem])
    hint = nearest(stem, sorted(shipped)) or f"; shipped ones are {', '.join(sorted(shipped))}"
    raise InputError(f"there is no configuration file {name!r}{hint}")


def _config_folders() -> list[Path]:
    """In an installed wheel the configurations lie in the package, in a checkout beside it."""
    package = Path(__file__).resolve().parents[2]
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def _fresh(directory: Path) -> Path:
    number, candidate = 2, directory
    while candidate.exists():
        candidate, number = directory.with_name(f"{directory.name}-{number}"), number + 1
    return candidate


def _newest(stem: str) -> str:
    runs = sorted(Path(ROOT).glob(f"{stem}-*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return (
        f" {runs[-1].parents[1]} (the newest run of this kind)" if runs else "; there is no run of this kind in runs/"
    )


def _others(checkpoint: Path) -> str:
    others = sorted(path.name for path in checkpoint.parent.glob("*.ckpt")) if checkpoint.parent.is_dir() else []
    return f"; there are {', '.join(others[:8])}" if others else ""
