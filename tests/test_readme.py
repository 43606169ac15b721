"""What README and CONTRIBUTING show is run: the Python with small sizes, the commands as far as their options go."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_offrl.data.writers.collect import collect
from lightning_offrl.data.writers.minari import dataset_path

REPO = Path(__file__).resolve().parents[1]
# Long runs in the text, short ones here.
SHORTER = {"20_000": "40", "5_000": "20"}


def blocks(document: str, language: str) -> list[str]:
    """Fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (REPO / document).read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every ``offrl`` command in README's shell blocks."""
    lines = [line.split("  #")[0].strip() for block in blocks("README.md", "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("offrl ")]


@pytest.fixture(scope="module")
def pendulum() -> str:
    """The dataset that README collects first, smaller."""
    name = "pendulum/mixed-v0"
    if not dataset_path(name).exists():
        collect("Pendulum-v1", name, episodes=6)
    return name


def test_python_in_the_readme_runs(
    pendulum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks("README.md", "python")
    assert len(found) == 3
    namespace: dict[str, object] = {}
    for block in found:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        exec(compile(block, "README.md", "exec"), namespace)
    assert "20 episodes, mean return" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "policy.pt").exists()


def test_the_algorithm_in_contributing_learns(pendulum: str, tmp_path: Path) -> None:
    import lightning.pytorch as pl

    from lightning_offrl import OfflineDataModule

    (page,) = blocks("CONTRIBUTING.md", "python")
    namespace: dict[str, object] = {"__name__": "return_weighted"}
    exec(compile(page, "CONTRIBUTING.md", "exec"), namespace)
    data = OfflineDataModule(pendulum, reward="standardize")
    algorithm = namespace["ReturnWeighted"](data.spec, hidden=(16, 16), seeds=2)  # type: ignore[operator]
    trainer = pl.Trainer(
        max_steps=100,
        default_root_dir=tmp_path,
        log_every_n_steps=50,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = algorithm.policy.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    trainer.fit(algorithm, data)
    assert algorithm.updates == 100
    assert all((algorithm.policy.state_dict()[key] != value).any() for key, value in before.items())


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("offrl fit")])
def test_options_in_the_readme_exist(command: str) -> None:
    words = shlex.split(command)
    verb = words[1:3] if words[1] == "data" else words[1:2]
    shown = subprocess.run(
        [sys.executable, "-m", "lightning_offrl", *verb, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (word for word in words if word.startswith("--")):
        assert option in shown, f"{command}: {' '.join(verb)} has no {option}"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if "--config" in c and "path/to" not in c])
def test_fit_commands_in_the_readme_parse(command: str, pendulum: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lightning_offrl", *shlex.split(command)[1:]]
    if "--print_config" not in words:
        words.append("--print_config")
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class_path" in done.stdout


def test_the_algorithm_in_contributing_is_clean() -> None:
    (page,) = blocks("CONTRIBUTING.md", "python")
    place = "lightning_offrl/algorithms/return_weighted.py"
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", place, "-"]
    done = subprocess.run(command, input=page, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stdout


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    text = (REPO / "README.md").read_text() + (REPO / "CONTRIBUTING.md").read_text() + (REPO / ".ci/run").read_text()
    named = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert {"quickstart", "test", "check"} <= named <= targets


def test_files_named_in_the_readme_exist() -> None:
    text = (REPO / "README.md").read_text()
    named = re.findall(r"`((?:tests|configs|benchmarks)/[\w./]*)`", text) + re.findall(r"\]\(([\w./]+)\)", text)
    assert named
    assert [name for name in named if not (REPO / name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("first_run", ["return of one episode"]),
        ("gridworld", ["behavior -24.61", "returns of what was learned: [-10.0,"]),
        ("sepsis", ["clinician: exact value -0.048", "fitted Q with infinitely many records 0.091; exact 0.059"]),
    ],
)
def test_the_notebook_runs(tmp_path: Path, name: str, said: list[str]) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(REPO / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert [words for words in said if words not in printed] == []
