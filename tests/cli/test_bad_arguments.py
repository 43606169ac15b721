"""Bad arguments of the verbs that look at an imported log, each with its sentence; exit status 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lightning_offrl.cli import main
from lightning_offrl.data.logs.import_logs import import_logs

NET = {"hidden": [], "activation": "relu", "bias": True, "head": "mean", "norm": False}
GAUSSIAN = {"dist": "tanh_normal", "std": 0.5, "std_scale": 1.0, "squash_mean": True, "eps_uniform": 0.0}
MAP = {
    "episode": "stay",
    "time": "hour",
    "observation": ["pulse", {"column": "ward", "categories": ["icu", "er"]}],
    "action": {"column": "dose", "low": 0, "high": 5},
    "reward": "score",
    "last_row": "terminated",
    "propensity": "p",
    "groups": "site",
}


def gaussian(name: str, size: int, **about: object) -> None:
    """A Gaussian policy for observations of ``size`` numbers."""
    Path(f"{name}.json").write_text(
        json.dumps({"name": name, **GAUSSIAN, "net": {**NET, "obs_dim": size, "act_dim": 1}, **about})
    )
    torch.save({"mean.weight": torch.zeros(1, size), "mean.bias": torch.zeros(1)}, f"{name}.pt")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an imported log ``test/log-v0`` of 12 episodes in ``minari``, policies, tables and junk."""
    folder = tmp_path_factory.mktemp("imported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.chdir(folder)
        rows = [
            f"{e},{t},{60 + e + t},{'icu' if e % 2 else 'er'},{(e + t) % 5},1,0.2,s{e % 3}"
            for e in range(12)
            for t in range(4)
        ]
        Path("log.csv").write_text("\n".join(["stay,hour,pulse,ward,dose,score,p,site", *rows]) + "\n")
        import_logs("log.csv", MAP, "test/log-v0")
        gaussian("fits", 3)
        gaussian("wide", 5)
        gaussian("cauchy", 3, dist="cauchy")
        gaussian("alone", 3)
        Path("alone.pt").unlink()
        Path("broken.json").write_text("{")
        Path("broken.pt").write_bytes(b"")
        Path("junk.ckpt").write_bytes(b"no checkpoint")
        Path("junk.onnx").write_bytes(b"no network")
        Path("short.csv").write_text("ward\nicu\n")
        Path("same.csv").write_text("score\n" + "1\n" * 12)
        Path("holes.csv").write_text("ward,bed\n" + "".join(f"{'' if i == 4 else i},1\n" for i in range(12)))
        Path("truth.json").write_text('{"other": 1.0}')
        Path("words.json").write_text('{"fits": "good"}')
        Path("file").write_text("")
        Path("empty").mkdir()
    return folder


@pytest.fixture
def place(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to stand in."""
    here = tmp_path / "here"
    shutil.copytree(imported, here)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(here / "minari"))
    monkeypatch.setenv("OFFRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(here)
    return here


OPE = "ope --data test/log-v0 --direct none --n_boot 50 --policy"
SELECT = "select --data test/log-v0 --direct none --n_boot 50 --policies"

LINES = {
    "data report test/lgo-v0": "nearest there: test/log-v0",
    "data report nothing.hdf5": "there is no file nothing.hdf5",
    "data report empty": "empty is a directory without a Minari dataset",
    "data report file": "file is not an HDF5 file",
    "data report test/log-v0 --discount 1.5": "the discount of a report must lie in [0, 1), got 1.5",
    "data report test/log-v0 --discount high": "argument --discount: invalid float value: 'high'",
    "data report test/log-v0 --report page.pdf": "the report is written as .html, got the path page.pdf",
    "data report test/log-v0 --report file/page.html": "the report cannot be written to file/page.html",
    "data report test/log-v0 --repotr page.html": "offrl data report has no option --repotr; did you mean --report?",
    "data report": "the following arguments are required: data",
    "data reprot test/log-v0": "offrl data has no verb 'reprot'; did you mean report?",
    "data show test/lgo-v0": "nearest there: test/log-v0",
    f"{OPE} nothing.json": "a Gaussian policy is nothing.json and nothing.pt",
    f"{OPE} nothing.pt": "no policy at nothing.pt",
    f"{OPE} alone.json": "a Gaussian policy is alone.json and alone.pt; . lacks one of them",
    f"{OPE} broken.json": "broken.json is not JSON",
    f"{OPE} cauchy.json": "cauchy.json has the distribution 'cauchy'; known: tanh_normal",
    f"{OPE} wide.json": "the policy wide reads observations of 5 numbers, these have 3",
    f"{OPE} junk.ckpt": "junk.ckpt is damaged or was cut short",
    f"{OPE} junk.onnx": "junk.onnx",
    f"{OPE} fits.json --by sites": "no column 'sites'; did you mean 'site'? it has hour, site, pulse, ward",
    f"{OPE} fits.json --by ward --labels short.csv": "short.csv has 1 lines of labels, but there are 12 episodes",
    f"{OPE} fits.json --by ward --labels none.csv": "the labels in none.csv cannot be read",
    f"{OPE} fits.json --labels short.csv": "--labels is a table of labels; say which of its columns with --by COLUMN",
    f"{OPE} fits.json --cluster sites": "no column 'sites'; did you mean 'site'?",
    f"{OPE} fits.json --cluster hour": "the column hour changes within 12 of 12 episodes, so it does not say whom",
    f"{OPE} fits.json --cluster score --labels same.csv": "all 12 episodes have the same label in score (1)",
    f"{OPE} fits.json --cluster ward --labels short.csv": "short.csv has 1 lines of labels, but there are 12 episodes",
    f"{OPE} fits.json --cluster ward --labels holes.csv": "1 of 12 episodes have no label in ward",
    f"{OPE} fits.json --cluster site --validation_fraction 0.3": "a split of the 3 clusters (column site) leaves",
    f"{OPE} fits.json --time site": "the column site holds labels (s0, s1, s2, ...), not times; name another",
    f"{OPE} fits.json --time hours": "test/log-v0 has no column 'hours'; did you mean 'hour'?",
    f"{OPE} fits.json --time hour --time_unit h": "the times in hour have no unit that is known",
    f"{OPE} fits.json --time_unit h": "what the times of --time COLUMN are counted in; give --time too",
    f"{OPE} fits.json --time_unit weeks": "argument --time_unit: invalid choice: 'weeks'",
    f"{OPE} fits.json --discount 1.5": "discount must be from 0 to 1, got 1.5",
    f"{OPE} fits.json --horizon 0": "the horizon must be at least one step, got 0",
    f"{OPE} fits.json --level 95": "the level of an interval must be between 0 and 1, such as 0.95, got 95",
    f"{OPE} fits.json --n_boot 0": "n_boot must be at least 1, got 0",
    f"{OPE} fits.json --validation_fraction 1.5": "the share of episodes to hold out must lie between 0 and 1, got 1.5",
    f"{OPE} fits.json --estimators wsi": "there is no estimator 'wsi'; there are auto, naive, is, wis",
    f"{OPE} fits.json --direct fqs": "--direct has no 'fqs'; there are fqe, lstd, mb, ",
    f"{OPE} fits.json --reward_range 1 0": "reward_range must be the lowest and the highest reward, got 1 and 0",
    f"{OPE} fits.json --reward_range 2 3": "the range of rewards [2, 3] must hold every possible one, but the log goes",
    f"{OPE} fits.json --bandwidth -1": "bandwidth must be at least 0, got -1",
    f"{OPE} fits.json --max_weight -1": "max_weight must be at least 0, got -1",
    f"{OPE} fits.json --behavior wide.json": "the policy wide reads observations of 5 numbers, these have 3",
    f"{OPE} fits.json --direct fqe --updates 0": "--updates must be at least 1, got 0",
    f"{OPE} fits.json --direct lstd --refits -1": "--refits must be at least 0, got -1",
    f"{OPE} fits.json --json empty": "--json empty cannot be written: empty is no file; name another place",
    f"{OPE} fits.json --report file/page.html": "--report file/page.html cannot be written: ",
    f"{OPE} fits.json --json file/out.json": "--json file/out.json cannot be written: ",
    "ope --policy fits.json": "the following arguments are required: --data",
    "ope --policy fits.json --data test/lgo-v0": "nearest there: test/log-v0",
    f"{SELECT} fits.json ./fits.json": "two of the policies are called 'fits'",
    f"{SELECT} fits.json --truth none.json": "none.json must be JSON of the form",
    f"{SELECT} fits.json --truth words.json": "words.json must be JSON of the form",
    f"{SELECT} fits.json --truth truth.json": "truth.json has no value for fits; it has other",
    f"{SELECT} fits.json nothing.pt": "no policy at nothing.pt",
    f"{SELECT} fits.json --by site": "has no option --by",
    f"{SELECT} fits.json --labels short.csv": "say which of its columns with --cluster COLUMN",
    f"{SELECT} fits.json --cluster site --confirmation_fraction 0.3": "on a side; choose another share",
    "select --data test/log-v0": "the following arguments are required: --policies",
}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("line", LINES)
def test_bad_arguments(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    status = main(line.split())
    said = capsys.readouterr().err
    assert status == 2, said
    assert said.startswith("offrl: error: ") and said.count("\n") == 1, said
    assert LINES[line] in said
    assert files(place) == before


def test_the_good_lines_are_good(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups and times of the log reach the page; with nothing left to weigh it abstains."""
    assert main(f"{OPE} fits.json --by site --time hour --discount 0.9".split()) in (0, 3)
    said = capsys.readouterr().out
    assert "By site" in said and "s1" in said and "discount 0.9 per elapsed time" in said
