"""Minari datasets: found, downloaded, missing and damaged."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from lightning_offrl.data.readers import load, minari
from lightning_offrl.data.writers.convert import convert
from lightning_offrl.errors import InputError


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "MINARI_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.usefixtures("_offline")
def test_a_missing_dataset_names_the_nearest(arrays: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not reachable.*no dataset is there yet: `offrl collect` makes one"):
        load("hopper/medium-v0")
    convert(arrays, "hopper/medium-v0")
    with pytest.raises(
        InputError, match="no Minari dataset 'hopper/medum-v0' in .* not reachable.* nearest there: hopper/medium-v0"
    ):
        load("hopper/medum-v0")
    with pytest.raises(InputError, match="there are: hopper/medium-v0"):
        load("zzzzzzz/qqqqqq-v7")


def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import minari as library

    def fail(dataset_id: str) -> None:
        raise ValueError(f"Couldn't find any version for dataset {dataset_id} in the remote Farama server.\nMore.")

    monkeypatch.setattr(minari, "_unreachable", lambda: None)
    monkeypatch.setattr(library, "download_dataset", fail)
    with pytest.raises(
        InputError, match=r"could not download it \(Couldn't find any version for .* server\); no dataset"
    ):
        load("hopper/medium-v0")


def test_a_download_is_found(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import minari as library

    monkeypatch.setattr(minari, "_unreachable", lambda: None)
    monkeypatch.setattr(library, "download_dataset", lambda dataset_id: convert(arrays, dataset_id))
    assert len(load("hopper/medium-v0")) == 120


def test_neither_a_file_nor_an_id(arrays: dict[str, Any]) -> None:
    convert(arrays, "hopper/medium-v0")
    with pytest.raises(
        InputError, match="'hopper/medium' is neither a file nor a Minari id .*nearest there: hopper/medium-v0"
    ):
        load("hopper/medium")


def test_a_damaged_minari_dataset(arrays: dict[str, Any]) -> None:
    data = convert(arrays, "hopper/medium-v0").path / "data"
    main = data / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:5000])
    with pytest.raises(InputError, match="the Minari dataset in .* cannot be read"):
        load("hopper/medium-v0")
    (data / "metadata.json").write_text("{")
    with pytest.raises(InputError, match="the Minari dataset in .* cannot be read"):
        load("hopper/medium-v0")
