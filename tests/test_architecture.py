"""Imports run downwards: the contract in pyproject.toml holds, and an import upwards breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECK = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None, no_cache=True))"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", CHECK], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "resnet_jax", tmp_path / "resnet_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="the contract is in the source tree")
def test_imports_run_downwards():
    found = check(ROOT)
    assert found.returncode == 0, found.stdout
    assert "2 kept, 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("ops/pool.py", "from resnet_jax.models import block", "resnet_jax.ops is not allowed to import"),
        ("models/block.py", "def f():\n    import resnet_jax.training.step", "resnet_jax.models is not allowed to"),
        ("depth/measure.py", "from resnet_jax.training import step", "resnet_jax.depth is not allowed to import"),
        ("data/rng.py", "import resnet_jax.models.rows", "resnet_jax.data is not allowed to import"),
        ("somewhere.py", "import jax", "not listed as layers"),
    ],
)
def test_an_import_upwards_or_sideways_breaks_the_contract(copy, module, line, said):
    with (copy / "resnet_jax" / module).open("a") as file:
        file.write(f"\n{line}\n")
    found = check(copy)
    assert found.returncode == 1
    assert said in " ".join(found.stdout.split())


def test_shapes_in_annotations_are_checked_at_every_call():
    import jax.numpy as jnp
    from jaxtyping import TypeCheckError

    from resnet_jax.ops import conv

    with pytest.raises(TypeCheckError, match="parameter 'kernel'"):
        conv(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 8), int), strides=(1, 1), padding=(1, 1))
