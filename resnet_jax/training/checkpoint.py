"""Checkpoints of a run: saved in one piece, compared with their manifest before they are read, kept or deleted.

A network of many equal blocks is written as it is scanned, however it was computed (:mod:`resnet_jax.models.layout`):
so any execution can resume any other's state.

Two folders (:mod:`~resnet_jax.training.checkpoint_folder`): ``last`` keeps the newest states, to resume from; ``best``
keeps those with the best validation results. Writing is asynchronous, so a state may be donated to the next step right
after :meth:`Checkpoints.save`.

Of several processes each has to make every call, with the same arguments: the main one decides and renames, and the
others do as it says.
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
        folder: where the ``last`` and ``best`` folders are; created when needed.
        owner: whether this is the run itself, which clears what a killed process left half-written and moves damaged
            checkpoints out of the way. A reader must not: the half-written may be the next checkpoint of a run still
            going on.
        events: what happens is logged to.
        warn: is given a line for whatever the user has to know (default: a warning of this module's logger).
        keep: how many checkpoints of each kind.
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
        """Start writing ``state`` and the JSON-serializable, non-empty ``progress`` under the state's step.

        Saving the same step a second time into one folder does nothing: it would be the same state.

        Args:
            kind: ``last`` or ``best``.
            state: may be donated as soon as this returns.
            progress: of the same moment.
            axis: that of stacked blocks: 1 in a population, whose members come first.
            score: of ``best``: what it is kept for. Of ``last``: it is kept as ``best`` too, which costs the loop
                nothing. A best that is not finite is not kept.

        Raises:
            RunError: it cannot be written, or one before could not be (:meth:`take_failure`): a full disk, for example.
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
        """Whether something saved is not on disk yet."""
        return self._writer is not None and self._writer.is_busy

    @property
    def seconds_left(self) -> float:
        """How long the next save would wait for the one being written, about; 0 if nothing is being written."""
        return 0.0 if self._writer is None else self._writer.seconds_left

    def take_failure(self) -> RunError | None:
        """Return why a save of before failed, once, as one sentence; None if none has failed since."""
        return None if self._writer is None else self._writer.take_failure()

    def flush(self) -> None:
        """Wait for what is being written.

        Raises:
            RunError: something could not be written since the last call, in any of the processes.
        """
        self._wait()
        failure = self.take_failure()
        if processes.any_of(failure is not None):
            raise failure or SaveError(self._folder, "last", "another process cannot write its part")

    def steps(self, kind: Kind) -> list[int]:
        """Return the saved steps, oldest first; empty if there is none. They are not verified."""
        self._wait()
        return self._agreed(lambda: self._choice.listed(kind))

    def scores(self) -> list[Entry]:
        """Return the ``best`` checkpoints with what they were kept for, the best first."""
        self._wait()
        rows = self._agreed(lambda: [_row(entry) for entry in ranked(self._choice.current_best())])
        return [Entry(row["step"], None if row["score"] is None else Score(**row["score"])) for row in rows]

    def is_begun(self) -> bool:
        """Return whether anything was saved so far, intact or not."""
        self._wait()
        return self._agreed(lambda: any(self._choice.listed(kind) or self._folder.damaged(kind) for kind in KINDS))

    def resume(self, like: TrainState, *, axis: int = 0) -> tuple[TrainState, dict[str, Any]] | None:
        """Load what a run goes on from: the newest ``last``, or where none is left intact the newest ``best``.

        The best state of a population is put together of states of several steps, and is not one to go on from.

        Args:
            like: as for :meth:`restore`.
            axis: likewise.

        Returns:
            The state and its progress; None if nothing was saved so far.

        Raises:
            DamagedError: there were checkpoints, and none is intact.
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
            self._choice.say(f"{found}. No 'last' checkpoint is left; the run goes on from the newest 'best' one")
            return self._restored("best", like, to_go_on=True)

    def restore(
        self, kind: Kind, like: TrainState, *, axis: int = 0, at_most: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Load the newest ``last`` or the best ``best`` checkpoint: the state and the progress saved with it.

        It is compared with its manifest first. A damaged one is named, set aside if this is the run itself, and the
        one before is used.

        Args:
            kind: ``last`` or ``best``.
            like: a state with the shapes, dtypes and shardings wanted; the checkpoint may have been written on
                another number of devices.
            axis: as for :meth:`save`.
            at_most: of this step or before; None for the newest.

        Raises:
            DamagedError: none of them is intact.
            RunError: there is none, or it does not fit; it names the folder and Orbax's own message.
        """
        return self._restored(kind, like, axis, at_most=at_most)

    def restore_part(self, kind: Kind, like: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Load some fields of a state, and the step it is from; for use without the optimizer.

        Args:
            kind: ``last`` or ``best``.
            like: field name -> tree of ``ShapeDtypeStruct`` with shardings.

        Raises:
            RunError: as :meth:`restore`.
        """
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded, step = self._load(kind, {"state": stack(like)})
        return _relayout(loaded["state"], partial(layout.like, example=like), 0), step

    def close(self) -> None:
        """Wait until everything saved so far is on disk, and let go of the folders; they open again when needed.

        Raises:
            RunError: something could not be written.
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
        """Load from the first checkpoint that is intact."""
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
        """Return whether a save is one; makes the folder for it."""
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
        """Return what the main process decides, in all of them; what it raises is raised in all of them."""
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
        """Return a path of the folder that Orbax can take: it reads ``[x]``, ``*`` and ``?`` as patterns."""
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
    """Return ``convert(tree, axis=axis)``, compiled if there is anything to convert (once for each ``convert``).

    Args:
        tree: a state or a part of one.
        convert: changes its layout.
        axis: of stacked blocks.
        where: shardings of the result; None leaves them to the compiler.
    """
    same = jax.tree.structure(jax.eval_shape(partial(convert, axis=axis), tree)) == jax.tree.structure(tree)
    return tree if same else jax.jit(convert, static_argnames="axis", out_shardings=where)(tree, axis=axis)


def _placed(leaf: jax.Array, where: Any) -> jax.Array:
    """Return a leaf with the very sharding: of a key Orbax gives an equal one, for which a step is compiled again."""
    return leaf if leaf.sharding == where else jax.device_put(leaf, where)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
