"""Flip random bits in the checkpoints of a run: is each damage detected, and does the run continue?

    uv run python experiments/bit_flips.py --flips 500
    uv run python experiments/bit_flips.py --flips 20 --cuts 10 --removals 10      # a try, in a minute

The experiment trains a small network on digits, so that there are two checkpoints of each kind, and then repeatedly
damages a copy of the newest ``last`` or the best ``best``: it flips one random bit (drawn alternately over all bytes
and over all files), truncates a file at a random length, or removes a file. After each damage it does what a user would
do: it resumes (``Checkpoints.resume``, as training does) and loads the network (``load_run``, as eval, predict and
export do), and compares the parameters with the originals, bit for bit.

Prints JSON as its last line:

=============  ================================================================================================
``flips``      number of flipped bits
``silent``     parameters that differ from the original of their step without a message; must be 0
``detected``   damages that were reported with the name of the file
``recovered``  number of these from which both the run and the reader continued with another intact checkpoint
``harmless``   undetected damages after which everything loaded equals the original
``cuts``       the same for truncated files; ``removals`` for removed files
=============  ================================================================================================

On a 2-core CPU, 500 flips take about 5 minutes.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--cuts", type=int, default=50, help="files cut short")
    parser.add_argument("--removals", type=int, default=50, help="files removed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, help="keep the small run here, or use the one that is here")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = options.run_dir or Path(scratch) / "run"
        train_small(run_dir)
        trial = Trial(run_dir, Path(scratch) / "copy")
        rng = np.random.default_rng(options.seed)
        result: dict[str, Any] = {"flips": options.flips, **repeat(trial, flip, options.flips, rng, "flip")}
        result["cuts"] = {"count": options.cuts, **repeat(trial, cut, options.cuts, rng, "cut")}
        result["removals"] = {"count": options.removals, **repeat(trial, remove, options.removals, rng, "removal")}
        result["bytes"] = sum(path.stat().st_size for path in trial.files)
        result["files"] = len(trial.files)
    print(json.dumps(result))


def train_small(run_dir: Path) -> None:
    """Train a network of three small blocks on digits, with two checkpoints of each kind."""
    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.recipes import parse_config

    fit(parse_config(CONFIG, where="this experiment"), run_dir)


CONFIG = """
recipe: digits
model: {name: resnet20_cifar, stage_sizes: [1, 1], widths: [8, 16]}
train: {length: 60 steps, batch_size: 32, validate_every: 10 steps, keep_best: 2, observers: []}
data: {source: digits}
"""


class Trial:
    """A run whose checkpoints are copied, damaged and read.

    Args:
        run_dir: the run; never changed.
        copy: where its copies go.
    """

    def __init__(self, run_dir: Path, copy: Path) -> None:
        self._original, self._copy = run_dir, copy
        folder = run_dir / "checkpoints"
        read = [
            folder / kind / str(self._expected(kind)) for kind in ("last", "best")
        ]  # what is damaged is what is read
        self.files = sorted(path for checkpoint in read for path in checkpoint.rglob("*") if path.is_file())
        self._sizes = np.array([path.stat().st_size for path in self.files])
        self._like = self._state_like()
        self._truth = {step: self._parameters(step) for step in self._steps()}

    def _steps(self) -> set[tuple[str, int]]:
        return {(kind, int(path.name)) for kind in ("last", "best") for path in (self._folder / kind).iterdir()}

    @property
    def _folder(self) -> Path:
        return self._original / "checkpoints"

    def _state_like(self) -> Any:
        from resnet_jax.runs.build import build_parts
        from resnet_jax.runs.data import load_images
        from resnet_jax.runs.directory import RunDirectory
        from resnet_jax.training.placement import Placement

        config = RunDirectory(self._original).read_config()
        return build_parts(config, load_images(config), Placement.of()).new_state()

    def _parameters(self, of: tuple[str, int]) -> list[np.ndarray]:
        """Return the parameters of one checkpoint, from a folder in which it is alone."""
        import jax

        from resnet_jax.training.checkpoint import Checkpoints

        kind, step = of
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(self._folder / kind / str(step), Path(scratch) / kind / str(step))
            with Checkpoints(Path(scratch), owner=False) as checkpoints:
                state, _ = checkpoints.restore(kind, self._like)  # pyright: ignore[reportArgumentType]
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.variables)]

    def run(self, damage: Callable[[Path], None], file: Path) -> str:
        """Damage a copy of ``file``; return ``silent``, ``recovered``, ``detected`` or ``harmless``."""
        damaged = file.relative_to(self._folder)
        said: list[str] = []
        good = []
        for how in (self._resume, self._load):
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy.mkdir()
            for name in ("config.yaml", "data.json"):
                shutil.copy(self._original / name, self._copy)
            shutil.copytree(self._folder, self._copy / "checkpoints")
            damage(self._copy / "checkpoints" / damaged)
            good.append(how(damaged.parts[0], said))
        if "silent" in good:
            return "silent"
        if not said:
            return "harmless"
        return "recovered" if good == ["intact", "intact"] else "detected"

    def _resume(self, kind: str, said: list[str]) -> str:
        """Go on from the newest, and load the best, as training does."""
        from resnet_jax.errors import DamagedError
        from resnet_jax.training.checkpoint import Checkpoints

        try:
            with Checkpoints(self._copy / "checkpoints", warn=said.append) as checkpoints:
                found = checkpoints.resume(self._like)
                assert found is not None
                best, _ = checkpoints.restore("best", self._like)
        except DamagedError as error:
            said.append(str(error))
            return "refused"
        newest = self._judge(found[0].variables, "last", int(found[0].step), said)
        return newest if newest == "silent" else self._judge(best.variables, "best", int(best.step), said)

    def _load(self, kind: str, said: list[str]) -> str:
        """Load the network, as eval and predict do."""
        import logging

        from resnet_jax.errors import DamagedError
        from resnet_jax.runs.trained import load_run

        class Heard(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.getMessage())

        logger, heard = logging.getLogger("resnet_jax.training.checkpoint"), Heard()
        logger.addHandler(heard)
        logger.propagate = False
        try:
            trained = load_run(self._copy, kind)
        except DamagedError as error:
            said.append(str(error))
            return "refused"
        finally:
            logger.removeHandler(heard)
        return self._judge(trained.variables, kind, trained.step, said)

    def _judge(self, variables: Any, kind: str, step: int, said: list[str]) -> str:
        """Compare with the original; one of another step than the newest or the best must have been said."""
        import jax

        truth = self._truth.get((kind, step)) or self._truth.get(("best", step))
        found = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
        same = truth is not None and all(a.tobytes() == b.tobytes() for a, b in zip(truth, found, strict=True))
        if not same or (step != self._expected(kind) and not said):
            return "silent"
        return "intact"

    @functools.cache  # noqa: B019  # one trial a process
    def _expected(self, kind: str) -> int:
        from resnet_jax.training.checkpoint import Checkpoints

        with Checkpoints(self._folder, owner=False) as checkpoints:
            return checkpoints.steps("last")[-1] if kind == "last" else checkpoints.scores()[0].step

    def draw(self, rng: np.random.Generator) -> tuple[Path, int]:
        """Return a file and a place in it, drawn over all bytes."""
        place = int(rng.integers(self._sizes.sum()))
        ends = np.cumsum(self._sizes)
        index = int(np.searchsorted(ends, place, side="right"))
        return self.files[index], place - int(ends[index] - self._sizes[index])

    def draw_file(self, rng: np.random.Generator) -> Path:
        """Return a file, each as likely."""
        return self.files[int(rng.integers(len(self.files)))]


Damage = tuple[Path, Callable[[Path], None]]


def flip(trial: Trial, rng: np.random.Generator, number: int) -> Damage:
    """Flip one bit: every other time at a place drawn over all bytes, else in a file drawn over all files."""
    file, place = trial.draw(rng)
    if number % 2:
        while not (file := trial.draw_file(rng)).stat().st_size:
            pass
        place = int(rng.integers(file.stat().st_size))
    bit = int(rng.integers(8))

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << bit
        path.write_bytes(data)

    return file, damage


def cut(trial: Trial, rng: np.random.Generator, number: int) -> Damage:
    """Cut a file at a random length."""
    while not (file := trial.draw_file(rng)).stat().st_size:
        pass
    length = int(rng.integers(file.stat().st_size))
    return file, lambda path: os.truncate(path, length)


def remove(trial: Trial, rng: np.random.Generator, number: int) -> Damage:
    """Remove a file."""
    return trial.draw_file(rng), lambda path: path.unlink()


def repeat(trial: Trial, how: Callable[..., Damage], count: int, rng: np.random.Generator, name: str) -> dict[str, int]:
    found = {"silent": 0, "detected": 0, "recovered": 0, "harmless": 0}
    for number in range(count):
        file, damage = how(trial, rng, number)
        outcome = trial.run(damage, file)
        found["detected"] += outcome in ("detected", "recovered")
        found[outcome] += outcome != "detected"
        if outcome in ("silent", "harmless"):
            print(f"{name} {number}: {outcome}: {file}", file=sys.stderr)
        if (number + 1) % 50 == 0:
            print(f"{name} {number + 1} of {count}: {found}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
