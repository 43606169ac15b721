"""Page faults, counted by the system, of a loop that takes and frees large blocks; and how products are chosen."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from lightning_offrl.training import cpu

LOOP = """
import ctypes, re, resource
from lightning_offrl.training.cpu import give_back_memory, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

SIZES = [8 << 20] * 4 + [80 << 20]  # the last is above what glibc's threshold can be set to

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def faults():
    def updates():
        for _ in range(3):
            blocks = [libc.malloc(size) for size in SIZES]
            for block, size in zip(blocks, SIZES):
                libc.memset(block, 1, size)
            for block in blocks:
                libc.free(block)
    updates()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    updates()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
after, held = faults(), resident()
if kept:
    give_back_memory()
print(before, kept, after, held - resident(), faults())
"""


def run(**environment: str) -> tuple[int, bool, int, float, int]:
    done = subprocess.run(
        [sys.executable, "-c", LOOP], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    before, kept, after, returned, later = done.stdout.split()
    return int(before), kept == "True", int(after), float(returned), int(later)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_the_next_update_takes_no_page_faults():
    """Of 112 MiB in 28,672 pages; afterwards they go back, and large blocks are mapped by themselves again."""
    before, kept, after, returned, later = run()
    assert kept and after <= 20 < 20_000 < before
    assert returned > 100.0 and later > 20_000


def test_an_allocator_that_the_environment_sets_is_left_alone():
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[1] is False


def test_auto_takes_oneDNN_for_large_products_only_where_it_is_exact(monkeypatch):
    large = [nn.Parameter(torch.zeros(256, 256))]
    for exact, wanted in ((True, "medium"), (False, None)):
        monkeypatch.setattr(cpu, "medium_is_exact_and_faster", lambda exact=exact: exact)
        assert cpu.precision_to_set("auto", large, 256) == wanted
        assert cpu.precision_to_set("auto", [p.double() for p in large], 256) is None
        assert cpu.precision_to_set("auto", [nn.Parameter(torch.zeros(32, 32))], 256) is None
        assert cpu.precision_to_set("high", large, 256) == "high"


def test_medium_is_called_exact_only_where_it_is():
    """On whatever CPU this runs: if the answer is yes, products under "medium" are float32's."""
    if not cpu.medium_is_exact_and_faster():
        pytest.skip("not on this CPU")
    g = torch.Generator().manual_seed(1)
    one, other = (torch.randn(3, 300, 300, generator=g) for _ in range(2))
    torch.set_float32_matmul_precision("medium")
    try:
        got = one @ other
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(got.double(), one.double() @ other.double(), rtol=0, atol=2e-4)


def test_a_fit_inside_another_run_leaves_its_memory_alone(monkeypatch):
    """FQE in a callback of training: what the outer run keeps is given back when the outer run ends."""
    given_back = []
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(cpu, "give_back_memory", lambda: given_back.append(cpu.memory_is_kept()))
    with cpu.tuned(None, keep_memory=True):
        with cpu.tuned(None, keep_memory=True):
            pass
        assert cpu.memory_is_kept() and not given_back
    assert given_back == [False]
