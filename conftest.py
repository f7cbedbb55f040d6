"""Every test, doctests included, runs on 8 fake CPU devices, under strict promotion, with warnings as errors."""

from __future__ import annotations

import gc
import os
import sys
from importlib import metadata
from pathlib import Path

CACHE = Path(__file__).resolve().parent / ".pytest_cache"

if sys.dont_write_bytecode:  # PYTHONDONTWRITEBYTECODE: every child process would compile JAX's sources anew, 3 s each
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(CACHE / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: XLA's optimizations would cost more than they save. Subprocesses inherit it.
# (What is fused may then differ between two programs of the same numbers, which differ by an ulp.)
LITTLE_EFFORT = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones end the process at a flag they no longer know
    LITTLE_EFFORT.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(LITTLE_EFFORT))
# Nothing goes into the user's cache: the compiled convolutions stay beside pytest's own, for the next session too, and
# programs are compiled where a test does not say otherwise.
os.environ.setdefault("RESNET_JAX_CACHE", str(CACHE / "resnet_jax"))
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

import tests.annotations  # noqa: E402, F401

#: Packages whose annotations, shapes of arrays among them, are checked at every call.
CHECKED = [f"resnet_jax.{floor}" for floor in ("ops", "models", "instrument", "tasks", "depth")]
install_import_hook(CHECKED, "tests.annotations.checked")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass by what importing and collecting made, and begin less often: 5 % of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


SHARED = Path(__file__).resolve().parents[1] / "shared" / "data"


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it say that they skip when it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not present: {SHARED.parent.name}/{SHARED.name} is not beside this checkout")
    return SHARED
