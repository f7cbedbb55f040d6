"""A process that is killed at any moment of a save leaves a folder from which the run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.training import checkpoint_folder, checkpoint_writer
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.manifest import Score, verify
from resnet_jax.training.retention import Keep
from tests.training.test_checkpoint import NOTE, assert_same, new_state


class Snapshots:
    """Copies of a folder as a kill at this moment would leave it: before and after whatever changes it."""

    def __init__(self, folder: Path, into: Path) -> None:
        self.folder, self.into, self.taken = folder, into, list[Path]()

    def take(self) -> None:
        copy = self.into / str(len(self.taken))
        shutil.copytree(self.folder, copy)
        self.taken.append(copy)

    def around(self, call):
        def called(*args, **choices):
            self.take()
            result = call(*args, **choices)
            self.take()
            return result

        return called


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_moment_a_kill_comes_the_run_goes_on(tmp_path, monkeypatch, every):
    """Between digest, manifest, copy, rename and deletion; at every moment ``best`` is as of the ``last`` there is."""
    folder = tmp_path / "checkpoints"
    snapshots = Snapshots(folder, tmp_path / "snapshots")
    with Checkpoints(folder, keep=Keep(last=1)) as checkpoints:
        checkpoints.save("last", new_state(1), NOTE, score=Score("accuracy", 0.5))
        checkpoints.flush()
        for module, name in (
            (checkpoint_writer, "digest_files"),
            (checkpoint_writer, "write_manifest"),
            (checkpoint_writer, "copy_verified"),
            (checkpoint_folder.os, "replace"),
            (checkpoint_folder, "_delete"),
        ):
            monkeypatch.setattr(module, name, snapshots.around(getattr(module, name)))
        checkpoints.save("last", new_state(2), NOTE, score=Score("accuracy", 0.7))
        checkpoints.flush()
    monkeypatch.undo()
    assert len(snapshots.taken) >= 16
    resumed = []
    for left in snapshots.taken[1::every]:
        with Checkpoints(left, owner=False) as reader:
            assert reader.restore("last", new_state(0))[0].step in (1, 2)
        with Checkpoints(left, keep=Keep(last=1)) as checkpoints:
            state, _ = checkpoints.resume(new_state(0))
            assert_same(state, new_state(int(state.step)))
            assert_same(checkpoints.restore("best", new_state(0))[0], state)
            resumed.append(int(state.step))
            checkpoints.save("last", new_state(3), NOTE)
        assert sorted(path.name for path in (left / "last").iterdir()) == ["3"], "nothing half-written is left"
        assert len(list((left / "best").iterdir())) == 1
    assert resumed == sorted(resumed)
    assert set(resumed) == {1, 2}


CHILD = """
import os, signal, sys
from pathlib import Path
import resnet_jax.training.checkpoint_writer as writer, resnet_jax.training.checkpoint_folder as folders
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.manifest import Score
from tests.training.test_checkpoint import NOTE, new_state

module, name, folder = sys.argv[1:]
with Checkpoints(Path(folder)) as checkpoints:
    checkpoints.save("last", new_state(1), NOTE)
    checkpoints.flush()
    where = {"writer": writer, "folders": folders, "os": os}[module]
    setattr(where, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    checkpoints.save("last", new_state(2), NOTE, score=Score("accuracy", 0.5))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [("writer", "digest_files"), ("writer", "write_manifest"), ("writer", "copy_verified"), ("os", "replace")],
)
def test_killed_for_real(tmp_path, module, name):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, module, name, str(tmp_path)], cwd=root, check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.resume(new_state(0))[0], new_state(1))
        checkpoints.save("last", new_state(2), NOTE)
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["1", "2"]
    assert verify(tmp_path / "last" / "2", 2) is not None
