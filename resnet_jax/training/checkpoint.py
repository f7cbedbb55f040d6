"""Checkpoints of a run: the only file that knows Orbax.

A network of many equal blocks is written as it is scanned, however it was computed (:mod:`resnet_jax.models.layout`):
so any execution can resume any other's state.

Two folders: ``last`` keeps the two newest states, to resume from; ``best`` keeps the one with the best validation
result. Writing is asynchronous, so a state may be donated to the next step right after :meth:`Checkpoints.save`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from orbax.checkpoint import v1 as ocp

from resnet_jax.errors import RunError
from resnet_jax.models import layout
from resnet_jax.models.layout import stack
from resnet_jax.runtime.paths import PlainAlias, is_plain, user_path
from resnet_jax.training.state import TrainState

Kind = Literal["last", "best"]
KEEP: dict[str, int] = {"last": 2, "best": 1}


class Checkpoints:
    """Saves and restores ``(state, progress)``; a context manager that waits for pending writes on exit.

    Args:
        folder: where the ``last`` and ``best`` folders are; created when needed.
        owner: whether this is the run itself, which clears what a killed process left half-written. A reader must
            not: the half-written may be the next checkpoint of a run still going on.
    """

    def __init__(self, folder: Path, *, owner: bool = True):
        self._folder, self._owner = user_path(folder).absolute(), owner
        self._open: dict[str, ocp.training.Checkpointer] = {}
        self._alias: PlainAlias | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, kind: Kind, state: TrainState, progress: dict[str, Any], *, axis: int = 0) -> None:
        """Start writing ``state`` and the JSON-serializable, non-empty ``progress`` under the state's step.

        Saving the same step a second time into one folder does nothing: it would be the same state. ``axis`` is that of
        stacked blocks: 1 in a population, whose members come first.

        Raises:
            RunError: it cannot be written, or the one before could not be: a full disk, for example.
        """
        step = int(state.step)
        with self._writing(kind):
            checkpointer = self._checkpointer(kind)
            if step not in self.steps(kind):
                written = _relayout(state, stack, axis)
                checkpointer.save_checkpointables_async(step, {"state": written, "progress": progress})

    def steps(self, kind: Kind) -> list[int]:
        """Return the saved steps, oldest first; empty if there is none."""
        if kind not in self._open and not (self._folder / kind).is_dir():
            return []
        return [checkpoint.step for checkpoint in self._checkpointer(kind).checkpoints]

    def restore(self, kind: Kind, like: TrainState, *, axis: int = 0) -> tuple[TrainState, dict[str, Any]]:
        """Load the newest checkpoint of ``kind``: the state and the progress saved with it.

        Args:
            kind: ``last`` or ``best``.
            like: a state with the shapes, dtypes and shardings wanted; the checkpoint may have been written on
                another number of devices.
            axis: as for :meth:`save`.

        Raises:
            RunError: there is none, or it does not fit; it names the folder and Orbax's own message.
        """
        loaded = self._load(kind, {"state": stack(jax.tree.map(_abstract, like), axis=axis), "progress": None})
        where = jax.tree.map(lambda leaf: leaf.sharding, like)
        return _relayout(loaded["state"], partial(layout.like, example=like), axis, where), loaded["progress"]

    def restore_part(self, kind: Kind, like: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Load some fields of the newest state, and the step it is from; for use without the optimizer.

        Args:
            kind: ``last`` or ``best``.
            like: field name -> tree of ``ShapeDtypeStruct`` with shardings.

        Raises:
            RunError: as :meth:`restore`.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = self._load(kind, {"state": stack(like)})
        return _relayout(loaded["state"], partial(layout.like, example=like), 0), self.steps(kind)[-1]

    def _load(self, kind: Kind, abstract: dict[str, Any]) -> dict[str, Any]:
        steps = self.steps(kind)
        if not steps:
            raise RunError(f"no {kind!r} checkpoint in {self._folder}")
        try:
            return self._checkpointer(kind).load_checkpointables(steps[-1], abstract)
        except Exception as error:
            reason = error.__cause__ or error.__context__ or error
            raise RunError(f"cannot restore {self._folder / kind} at step {steps[-1]}: {reason}") from error

    def close(self) -> None:
        """Wait until everything saved so far is on disk, and let go of the folders; they open again when needed.

        Raises:
            RunError: something could not be written.
        """
        failed: RunError | None = None
        while self._open:
            kind, checkpointer = self._open.popitem()
            try:
                with self._writing(kind):
                    checkpointer.close()
            except RunError as error:
                failed = failed or error
        if self._alias is not None:
            self._alias.remove()
            self._alias = None
        if failed is not None:
            raise failed

    @contextlib.contextmanager
    def _writing(self, kind: str) -> Iterator[None]:
        """Tell in one sentence what cannot be written; Orbax says it once for each of its threads."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of the device, and not of the disk
            raise
        except Exception as error:
            reason = _reason(error)
            raise RunError(
                f"cannot write a checkpoint in {self._folder / kind}: {reason}. What was saved before stays; "
                "free some space or repair it, and resume with the same command"
            ) from error

    def _plain_folder(self) -> Path:
        """Return a path of the folder that Orbax can take: it reads ``[x]``, ``*`` and ``?`` as patterns."""
        if self._alias is None and not is_plain(self._folder):
            self._alias = PlainAlias(self._folder)
        return self._folder if self._alias is None else self._alias.path

    def _checkpointer(self, kind: Kind) -> ocp.training.Checkpointer:
        if kind not in self._open:
            policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
            self._open[kind] = ocp.training.Checkpointer(
                str(self._plain_folder() / kind),
                save_decision_policy=policies[0].FixedIntervalPolicy(1),
                preservation_policy=policies[1].LatestN(KEEP[kind]),
                cleanup_tmp_directories=self._owner,
            )
        return self._open[kind]


def _reason(error: BaseException) -> str:
    """Return what the system said, without the words that Orbax and TensorStore put around it."""
    text = str(error).strip() or type(error).__name__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO):
        if getattr(error, "errno", None) == number or os.strerror(number) in text:
            return os.strerror(number)
    return text.splitlines()[0][:300]


def _relayout(tree: Any, convert: Callable[..., Any], axis: int, where: Any = None) -> Any:
    """Return ``convert(tree, axis=axis)``, compiled if there is anything to convert (once for each ``convert``).

    Args:
        tree: a state or a part of one.
        convert: changes its layout.
        axis: of stacked blocks.
        where: shardings of the result; None leaves them to the compiler.
    """
    same = jax.tree.structure(jax.eval_shape(partial(convert, axis=axis), tree)) == jax.tree.structure(tree)
    return tree if same else jax.jit(convert, static_argnames="axis", out_shardings=where)(tree, axis=axis)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
