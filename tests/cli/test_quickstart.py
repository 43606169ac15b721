from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_offrl import InputError, load_policy
from lightning_offrl.cli.quickstart import _period, main, quickstart
from lightning_offrl.reports.quickstart import QuickstartResult

SMALL = {"updates": 60, "episodes": 2, "dataset_episodes": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "run"


@pytest.fixture(scope="module")
def result(folder: Path) -> QuickstartResult:
    return quickstart(folder, **SMALL, say=lambda line: None)


def test_it_leaves_a_report_a_plot_numbers_and_policies(result: QuickstartResult, folder: Path) -> None:
    report = (folder / "report.html").read_text()
    assert result.comparison.headline in report
    assert not re.findall(r'(?:src|href)="(?!data:|#)', report)
    assert (folder / "report.png").stat().st_size > 10_000
    results = json.loads((folder / "results.json").read_text())
    assert list(results["policies"]) == ["BC", "TD3+BC", "IQL"]
    for one in result.learned:
        assert results["policies"][one.name]["returns"] == one.returns
        action = load_policy(folder / one.folder / "policy.pt").act(np.array([-1.0, 0.0, 0.0], dtype=np.float32))
        assert action.shape == (1,) and abs(action[0]) <= 2.0
    assert result.transitions == 8 * 200
    assert len(result.returns) == len(result.behaviors) == 8


def test_curves_begin_untrained_and_end_at_the_last_update(result: QuickstartResult) -> None:
    for one in result.learned:
        assert one.curve.x[0] == 0 and one.curve.x[-1] == 60
        assert len(one.curve.x) == len(one.curve.y) == 13
        assert len(one.angles) == 201
        assert one.torques.shape == result.torques.shape


def test_a_second_run_replaces_the_first_and_equals_it(result: QuickstartResult, folder: Path) -> None:
    (folder / "mine.txt").write_text("kept")
    again = quickstart(folder, **SMALL, say=lambda line: None)
    assert [one.returns for one in again.learned] == [one.returns for one in result.learned]
    assert (folder / "mine.txt").read_text() == "kept"


def test_the_surroundings_are_as_before(result: QuickstartResult) -> None:
    assert "offrl-tests" in os.environ["MINARI_DATASETS_PATH"]


def test_another_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds something that is not a quickstart's"):
        quickstart(tmp_path, **SMALL)
    assert (tmp_path / "data" / "thesis.tex").exists()


def test_too_small_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs episodes of at least 2, got 1"):
        quickstart(tmp_path, episodes=1)


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--dataset_episodes" in capsys.readouterr().out


@pytest.mark.parametrize(("updates", "period"), [(6_000, 500), (700, 100), (60, 5), (5, 1)])
def test_evaluations_keep_blocks_long(updates: int, period: int) -> None:
    assert _period(updates) == period


@pytest.mark.slow
def test_as_shipped_one_algorithm_clearly_beats_the_data_and_its_imitation(tmp_path: Path) -> None:
    assert quickstart(tmp_path / "run", say=lambda line: None).comparison.clear
