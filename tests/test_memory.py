"""Page faults, counted by the system, of a loop that takes and frees large blocks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

LOOP = """
import ctypes, resource
from lightning_offrl.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    def updates():
        for _ in range(5):
            blocks = [libc.malloc(8 << 20) for _ in range(6)]
            for block in blocks:
                libc.memset(block, 1, 8 << 20)
            for block in blocks:
                libc.free(block)
    updates()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    updates()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
print(before, kept, faults())
"""


def run(**environment: str) -> tuple[int, bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", LOOP], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )
    before, kept, after = done.stdout.split()
    return int(before), kept == "True", int(after)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_the_next_update_takes_no_page_faults():
    before, kept, after = run()
    assert kept and after <= 20 < 200 < before


def test_an_allocator_that_the_environment_sets_is_left_alone():
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[1] is False
