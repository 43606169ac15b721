"""Page faults, counted by the system, of a loop that takes and frees large blocks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

LOOP = """
import ctypes, re, resource
from lightning_offrl.training.memory import give_back_memory, keep_freed_memory

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
