"""What a process does with freed memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from resnet_jax.runtime import malloc as memory

ARRAYS = """
import os, resource, sys
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # pages of 4 KiB are counted
import numpy as np
from resnet_jax.runtime.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
f = lambda: np.zeros(16_000_000, np.float32).fill(1)
f()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    f()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
STEPS = """
import resource, sys
import jax, jax.numpy as jnp
from resnet_jax.runtime.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
f = jax.jit(lambda x: (jnp.outer(x, x) @ x)[0])
x = jnp.ones(4000)
for _ in range(40):
    f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    f(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

PROGRAM = """
import os, resource, sys, threading, types
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"
import resnet_jax.__main__ as program
f = lambda: np.zeros(16_000_000, np.float32).fill(1)
faults, ended = [], threading.Event()
def work():
    f()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        f()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    ended.wait()
def in_threads():
    global np
    import numpy as np
    for count in range(1, 5):
        threading.Thread(target=work, daemon=True).start()
        while len(faults) < count:
            pass
    ended.set()
    print(*faults)
sys.modules["resnet_jax.cli.main"] = types.SimpleNamespace(main=in_threads)
sys.argv = ["resnet-jax", "train", "digits"]
program.main()
"""
GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")


@GLIBC
@pytest.mark.parametrize("program", [ARRAYS, pytest.param(STEPS, marks=pytest.mark.slow)], ids=["arrays", "steps"])
def test_a_step_that_runs_again_touches_few_new_pages(program):
    """A matrix of 64 MB, three times, is 47,000 pages of 4 KiB; NumPy's and XLA's."""
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", program, mode], capture_output=True, text=True, check=True).stdout
        )
        for mode in ("keep", "return")
    }
    assert faults["keep"] < 20_000
    assert faults["return"] > 40_000


@GLIBC
def test_the_program_decides_before_its_first_thread_starts():
    """Otherwise some threads, and XLA's may be among them, allocate from a second heap, which returns what is freed."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert [int(faults) < 20_000 for faults in ran.stdout.split()] == [True] * 4, ran.stdout


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()


def test_nor_is_another_system(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.delattr(memory.ctypes, "CDLL")  # there it takes no None
    assert not memory.keep_freed_memory()
