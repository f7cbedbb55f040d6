"""Imports run downwards: the contract in pyproject.toml holds, and an import upwards breaks it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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


class _Reached(Exception):
    """Raised in place of the loss, for nothing after it is of interest."""


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the drawing is in the source tree")
def test_the_walk_from_fit_to_the_loss_is_as_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from types import FrameType

    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.recipes import parse_config
    from resnet_jax.tasks import losses

    drawing = (ROOT / "docs" / "architecture.md").read_text().split("## The walk")[1].split("```")[1]
    drawn, arrows, above = [], set(), []
    for line in filter(None, drawing.splitlines()):
        depth, module = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        above[depth:] = [module]
        drawn.append(module)
        if depth:
            arrows.add((above[depth - 1], module))

    folder = f"{ROOT / 'resnet_jax'}{os.sep}"

    def stack(frame: FrameType | None) -> list[str]:
        """Return the package's modules that are being called, the innermost first."""
        found: list[str] = []
        while frame is not None:
            name = frame.f_code.co_filename
            module = Path(name[len(folder) : -3]).as_posix() if name.startswith(folder) else "training/compile"
            # these only pass a call on: of a step that is for several devices, and of a block
            if module not in (*found[-1:], "training/compile", "instrument/hooks"):
                found.append(module)
            frame = frame.f_back
        return found

    calls: set[tuple[str, str]] = set()
    at_the_loss: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            calls.update((caller, callee) for callee, caller in itertools.pairwise(stack(frame)[:2]))

    def reached(*_: object, **__: object) -> None:
        at_the_loss.extend(stack(sys._getframe().f_back))
        raise _Reached

    monkeypatch.setattr(losses, "dense_targets", reached)
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(60) % 2)
    config = parse_config(
        "{model: {name: resnet20_cifar, stage_sizes: [1], widths: [4]}, train: {length: 2 steps, batch_size: 16},"
        f" data: {{source: 'npz:{tmp_path / 'own.npz'}'}}}}",
        where="this test",
    )
    sys.setprofile(watch)
    try:
        with pytest.raises(_Reached):
            fit(config, tmp_path / "run")
    finally:
        sys.setprofile(None)

    assert (drawn[0], drawn[-1], len(drawn) <= 13) == ("runs/fit", "tasks/losses", True)
    assert set(at_the_loss) <= {*drawn, "training/mapped"}, "the last on several devices, which tests have"
    assert arrows <= calls, f"drawn, but never called: {sorted(arrows - calls)}"
