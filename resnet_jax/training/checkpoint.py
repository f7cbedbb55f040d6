"""Checkpoints of a run: saved atomically, verified against their manifest before they are loaded, kept or deleted.

A network with many equal blocks is stored in scanned form, however it was computed (:mod:`resnet_jax.models.layout`),
so any execution can resume the state of any other.

There are two folders (:mod:`~resnet_jax.training.checkpoint_folder`): ``last`` keeps the newest states, to resume from;
``best`` keeps those with the best validation results. Writing is asynchronous, and a state may be donated to the next
step right after :meth:`Checkpoints.save`.

With several processes, each must make every call with the same arguments: the main process decides and renames, and the
others follow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.models import layout
from resnet_jax.models.layout import stack
from resnet_jax.runtime import processes
from resnet_jax.runtime.events import NO_EVENTS, EventLog
from resnet_jax.runtime.paths import PlainAlias, is_plain, user_path
from resnet_jax.training.checkpoint_choice import NO_OTHER, Choice
from resnet_jax.training.checkpoint_folder import KINDS, CheckpointFolder, Entry, Kind as Kind
from resnet_jax.training.checkpoint_writer import CheckpointWriter, Pending, SaveError, reason_of
from resnet_jax.training.manifest import FORMAT, MARK, Score
from resnet_jax.training.retention import Keep, ranked
from resnet_jax.training.state import TrainState

_log = logging.getLogger(__name__)


class Checkpoints:
    """Saves and restores ``(state, progress)``; a context manager that waits for pending writes on exit.

    Args:
        folder: the parent of the ``last`` and ``best`` folders; created when needed.
        owner: whether the caller is the run itself, which deletes what a killed process left half-written and sets
            damaged checkpoints aside. A reader must not do this: the half-written files may be the next checkpoint of a
            run in progress.
        events: the log that records what happens.
        warn: called with a line for everything the user needs to know (default: a warning of this module's logger).
        keep: how many checkpoints of each kind to keep.
    """

    def __init__(
        self,
        folder: Path,
        *,
        owner: bool = True,
        events: EventLog = NO_EVENTS,
        warn: Callable[[str], None] | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.events, self.keep = events, keep or Keep()
        self.warn: Callable[[str], None] = _log.warning if warn is None else warn
        self._folder, self._owner = CheckpointFolder(user_path(folder).absolute()), owner
        self._choice = Choice(self._folder, owner=owner, events=events, warn=self.warn, keep=self.keep)
        self._alias: PlainAlias | None = None
        self._writer: CheckpointWriter | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self.close()
        except RunError as failed:
            if error is None:
                raise
            self._choice.say(str(failed))  # what ends the run is the other one

    def save(
        self,
        kind: Kind,
        state: TrainState,
        progress: dict[str, Any],
        *,
        axis: int = 0,
        score: Score | None = None,
    ) -> None:
        """Start writing ``state`` and the non-empty, JSON-serializable ``progress`` under the state's step.

        Saving the same step to the same folder again does nothing, since the state would be the same.

        Args:
            kind: ``last`` or ``best``.
            state: the state; it may be donated as soon as this returns.
            progress: the progress at the same step.
            axis: the axis of stacked blocks: 1 in a population, whose leading axis is the members.
            score: for ``best``: the score it is kept for. For ``last``: also keep it as ``best`` with this score, which
                costs the loop nothing. A non-finite best is not kept.

        Raises:
            RunError: if it cannot be written, or an earlier save failed (:meth:`take_failure`), for example because the
                disk is full.
        """
        began = time.monotonic()
        if kind == "best" and score is not None and not score.is_finite:
            return
        score = score if score is not None and score.is_finite else None
        step = int(state.step)
        self.flush()
        if not self._agreed(lambda: self._has_to_write(kind, step)):
            return
        try:
            written = {"state": _relayout(state, stack, axis), "progress": progress}
            path = self._plain_folder() / kind / self._folder.unfinished(kind, step).name
            response = ocp.save_checkpointables_async(str(path), written, custom_metadata={MARK: FORMAT})
        except jax.errors.JaxRuntimeError:  # of the device, and not of the disk
            raise
        except Exception as error:
            if processes.is_main():
                self._folder.clear(kind, step)
            raise self._save_failed(kind, step, error) from error
        self._choice.stale[kind].discard(step)
        self._writing().add(Pending(kind, step, response, score, time.monotonic() - began))

    @property
    def is_writing(self) -> bool:
        """Whether a save is still being written to disk."""
        return self._writer is not None and self._writer.is_busy

    @property
    def seconds_left(self) -> float:
        """Estimate how many seconds the next save would wait for the current one; 0 if nothing is being written."""
        return 0.0 if self._writer is None else self._writer.seconds_left

    def take_failure(self) -> RunError | None:
        """Return, once, one sentence on why an earlier save failed, or None if none has failed since the last call."""
        return None if self._writer is None else self._writer.take_failure()

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            RunError: if a save has failed since the last call, in any of the processes.
        """
        self._wait()
        failure = self.take_failure()
        if processes.any_of(failure is not None):
            raise failure or SaveError(self._folder, "last", "another process cannot write its part")

    def steps(self, kind: Kind) -> list[int]:
        """Return the saved steps, oldest first; empty if there are none. They are not verified."""
        self._wait()
        return self._agreed(lambda: self._choice.listed(kind))

    def scores(self) -> list[Entry]:
        """Return the ``best`` checkpoints with the scores they were kept for, best first."""
        self._wait()
        rows = self._agreed(lambda: [_row(entry) for entry in ranked(self._choice.current_best())])
        return [Entry(row["step"], None if row["score"] is None else Score(**row["score"])) for row in rows]

    def is_begun(self) -> bool:
        """Return whether anything has been saved so far, intact or not."""
        self._wait()
        return self._agreed(lambda: any(self._choice.listed(kind) or self._folder.damaged(kind) for kind in KINDS))

    def resume(self, like: TrainState, *, axis: int = 0) -> tuple[TrainState, dict[str, Any]] | None:
        """Load the checkpoint to resume a run from: the newest intact ``last``, or else the newest intact ``best``.

        The best state of a population is assembled from states of several steps and cannot be resumed from.

        Args:
            like: as for :meth:`restore`.
            axis: as for :meth:`save`.

        Returns:
            The state and its progress, or None if nothing has been saved so far.

        Raises:
            DamagedError: if there are checkpoints but none is intact.
            RunError: as for :meth:`restore`.
        """
        from_best = axis == 0 and bool(self.steps("best"))
        if not (self.steps("last") or self._agreed(lambda: bool(self._folder.damaged("last")))):
            return self._restored("best", like, to_go_on=True) if from_best else None
        try:
            return self._restored("last", like, axis)
        except DamagedError as error:
            if not from_best:
                raise
            found = str(error).partition(NO_OTHER)[0]
            self._choice.say(f"{found}. No 'last' checkpoint is left; the run resumes from the newest 'best' one")
            return self._restored("best", like, to_go_on=True)

    def restore(
        self, kind: Kind, like: TrainState, *, axis: int = 0, at_most: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Load the newest ``last`` or the best ``best`` checkpoint: the state and the progress saved with it.

        The checkpoint is first verified against its manifest. A damaged one is reported, set aside if the caller is the
        run itself, and the one before it is used.

        Args:
            kind: ``last`` or ``best``.
            like: a state with the desired shapes, dtypes and shardings; the checkpoint may have been written on another
                number of devices.
            axis: as for :meth:`save`.
            at_most: the latest step to consider; None for the newest.

        Raises:
            DamagedError: if none of them is intact.
            RunError: if there is none, or it does not fit; the message has the folder and Orbax's own message.
        """
        return self._restored(kind, like, axis, at_most=at_most)

    def restore_part(self, kind: Kind, like: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Load some fields of a state, and its step, for use without the optimizer.

        Args:
            kind: ``last`` or ``best``.
            like: field name -> tree of ``ShapeDtypeStruct`` with shardings.

        Raises:
            RunError: as for :meth:`restore`.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded, step = self._load(kind, {"state": stack(like)})
        return _relayout(loaded["state"], partial(layout.like, example=like), 0), step

    def close(self) -> None:
        """Wait until everything saved so far is on disk, and release the folders; they reopen when needed.

        Raises:
            RunError: if something could not be written.
        """
        failure = None
        if self._writer is not None:
            self._writer.close()
            failure = self._writer.take_failure()
            while self._writer.take_failure() is not None:
                pass
            if self._owner:
                self._choice.clear(again=True)
        if self._alias is not None:
            self._alias.remove()
            self._alias = None
        if failure is not None:
            raise failure

    def _restored(
        self, kind: Kind, like: TrainState, axis: int = 0, *, to_go_on: bool = False, at_most: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        wanted = {"state": stack(jax.tree.map(_abstract, like), axis=axis), "progress": None}
        loaded, step = self._load(kind, wanted, newest_first=to_go_on, at_most=at_most)
        if kind == "last" or to_go_on:
            self._choice.go_back_to(step)
        where = jax.tree.map(lambda leaf: leaf.sharding, like)
        state = _relayout(loaded["state"], partial(layout.like, example=like), axis, where)
        return jax.tree.map(_placed, state, where), loaded["progress"]

    def _load(
        self, kind: Kind, wanted: dict[str, Any], *, newest_first: bool = False, at_most: int | None = None
    ) -> tuple[dict[str, Any], int]:
        """Load the first intact checkpoint."""
        self._wait()
        failed: tuple[int, RunError] | None = None
        while True:
            try:
                step, is_verified = self._agreed(lambda: self._choice.choose(kind, newest_first, at_most))
            except RunError:
                if failed is not None:
                    raise failed[1] from None
                raise
            try:
                loaded = ocp.load_checkpointables(str(self._plain_folder() / kind / str(step)), wanted)
            except Exception as error:
                reason = error.__cause__ or error.__context__ or error
                refusal = RunError(f"cannot restore {self._folder.path / kind} at step {step}: {str(reason)[:1000]}")
                refusal.__cause__ = error
                if is_verified:
                    raise refusal from error
                self._choice.passed_over.add((kind, step))  # damaged or of another network: only the next one tells
                failed = failed or (step, refusal)
                continue
            if failed is not None:
                self._choice.say(f"{failed[1]}. Step {step} is used instead")
                self.events.add("fallback", kind=kind, step=step, instead_of=failed[0])
            if not is_verified:
                self._choice.say(
                    f"{self._folder.complete(kind, step)} was written before checkpoints had digests; it is not "
                    "verified"
                )
            return loaded, step

    def _has_to_write(self, kind: Kind, step: int) -> bool:
        """Return whether this save needs to be written, and create its folder."""
        is_there = step in self._choice.listed(kind) and step not in self._choice.stale[kind]
        if not is_there:
            self._choice.clear(
                again=True
            )  # of a save that failed: Orbax may go on writing for a moment after it has said so
            try:
                self._folder.require_home()
                (self._folder.path / kind).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._save_failed(kind, step, error) from error
        return not is_there

    def _save_failed(self, kind: Kind, step: int, error: BaseException) -> SaveError:
        reason = reason_of(error)
        self.events.add("save_failed", kind=kind, step=step, reason=reason)
        return SaveError(self._folder, kind, reason)

    def _writing(self) -> CheckpointWriter:
        if self._writer is None:
            tidy = self._choice.tidy if processes.is_main() else None
            self._writer = CheckpointWriter(self._folder, self.events, tidy)
        return self._writer

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def _agreed(self, decide: Callable[[], Any]) -> Any:
        """Return the main process's decision in all processes; an exception it raises is raised in all of them."""
        if processes.count() == 1:
            return decide()
        answer: dict[str, Any] = {}
        if processes.is_main():
            try:
                answer = {"value": decide()}
            except DamagedError as error:
                answer = {"damaged": str(error)}
            except Exception as error:
                answer = {"error": str(error)}
        answer = processes.from_main(answer)
        if "damaged" in answer:
            raise DamagedError(answer["damaged"])
        if "error" in answer:
            raise RunError(answer["error"])
        return answer["value"]

    def _plain_folder(self) -> Path:
        """Return a path of the folder that Orbax accepts, because it reads ``[x]``, ``*`` and ``?`` as patterns."""
        if self._alias is None and not is_plain(self._folder.path):
            self._alias = PlainAlias(self._folder.path)
        return self._folder.path if self._alias is None else self._alias.path


def _row(entry: Entry) -> dict[str, Any]:
    score = entry.score
    return {
        "step": entry.step,
        "score": None if score is None else {"name": score.name, "value": score.value, "mode": score.mode},
    }


def _relayout(tree: Any, convert: Callable[..., Any], axis: int, where: Any = None) -> Any:
    """Return ``convert(tree, axis=axis)``, compiled if there is anything to convert (once per ``convert``).

    Args:
        tree: a state or a part of one.
        convert: function that changes its layout.
        axis: the axis of stacked blocks.
        where: shardings of the result; None leaves them to the compiler.
    """
    same = jax.tree.structure(jax.eval_shape(partial(convert, axis=axis), tree)) == jax.tree.structure(tree)
    return tree if same else jax.jit(convert, static_argnames="axis", out_shardings=where)(tree, axis=axis)


def _placed(leaf: jax.Array, where: Any) -> jax.Array:
    """Return a leaf with exactly this sharding; Orbax gives keys an equal one, which would cause recompilation."""
    return leaf if leaf.sharding == where else jax.device_put(leaf, where)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
