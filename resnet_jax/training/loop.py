"""The loop around the compiled step: feed, fetch, validate, save, stop. It opens no files and prints nothing.

It trains one run or a population (:mod:`resnet_jax.training.population`), whose members move in lockstep. A member that
has stopped early or diverged is still computed along with the others but no longer counts; for a member that stopped
early, the state at that step is its result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import UsageError
from resnet_jax.runtime.processes import Agreement
from resnet_jax.tasks.classification import Classification
from resnet_jax.training.decide import decide
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.feeds import Feed
from resnet_jax.training.interrupt import Interrupted as Interrupted, StopRequest
from resnet_jax.training.members import is_population, members_of, updates_done
from resnet_jax.training.observers import Observer as Observer
from resnet_jax.training.plan import Plan as Plan
from resnet_jax.training.progress import Progress, Reporting
from resnet_jax.training.saving import Kept
from resnet_jax.training.session import Session
from resnet_jax.training.state import TrainState

if TYPE_CHECKING:  # Orbax is slow to import, and the loop runs without it
    from resnet_jax.training.checkpoint import Checkpoints


def train(
    state: TrainState,
    *,
    plan: Plan,
    feed: Feed,
    task: Reporting | None = None,
    evaluate: Callable[[TrainState], Evaluation | Sequence[Evaluation]] | None = None,
    refresh: Callable[[TrainState], TrainState] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    observers: Sequence[Any] = (),
    stop: StopRequest | None = None,
) -> tuple[TrainState, Progress]:
    """Train until the plan is done, from wherever ``state`` and ``progress`` are.

    Args:
        state: the state of one run or of a population; donated to the first step.
        plan: how long to train, and what to do on the way.
        feed: the calls to make; see :mod:`resnet_jax.training.feeds`.
        task: what the metrics mean (default: classification).
        evaluate: validates a state, or all members of a population; None for no validation.
        refresh: applied to a state before validation: recomputes the batch statistics of its averages.
        checkpoints: where to save ``last`` and ``best``; None to save nothing.
        progress: the progress restored with the state.
        observers: called after every step and epoch; see :class:`~resnet_jax.training.observers.Observer`. An exception
            they raise ends the training.
        stop: checked between calls.

    Returns:
        The final state (for members that stopped early, the state at that step) and the progress.

    Raises:
        Diverged: if the loss or a gradient was not finite and the plan says to stop then; the message contains the step
            and what to check. The update was rejected, and the newest checkpoint is from before it.
        Spiked: if the loss rose as described by ``plan.spikes``; the caller returns to an earlier checkpoint.
        Interrupted: if ``stop`` was requested; the state is saved.
        UsageError: if spikes are to be detected in a population, whose members cannot go back individually.
    """
    if plan.spikes.factor is not None and is_population(state):
        raise UsageError(
            "train.spikes goes with a run alone: the members of a population move in lockstep, and none can go back "
            "without the others; leave out train.spikes.factor"
        )
    progress = progress or Progress.start(members_of(state))
    start = updates_done(state)
    if start >= plan.total_steps or progress.finished:
        return state, progress
    meaning: Any = Classification() if task is None else task
    session = Session(plan, meaning, progress, observers, population=is_population(state))
    kept, agreement = Kept(plan, checkpoints, state, progress, meaning), Agreement()
    with contextlib.closing(feed.calls(start, plan.total_steps, plan.boundary)) as calls:
        for call in calls:
            state, metrics = call.run(state)
            if stop is not None:
                stop.begun = True
            session.sent(call.first, call.count, metrics, state)
            step = call.first + call.count
            decision = decide(
                step, session, stop, agreement, saves=kept.by_clock and kept.is_due(step, validates=False)
            )
            over = decision.over
            ends_epoch, validates = over or step % plan.steps_per_epoch == 0, over or plan.validation.is_due(step)
            saves = decision.saves if kept.by_clock else kept.is_due(step, validates=validates)
            if ends_epoch or validates or saves:
                session.drain()
                state = refresh(state) if validates and refresh is not None else state
                results = _results(evaluate(state)) if validates and evaluate is not None else None
                if ends_epoch or results is not None:
                    ending = session.boundary(step, ends_epoch=ends_epoch, results=results)
                    kept.update(ending, state, session, results)
                if over:
                    session.finish("time limit")
            if ends_epoch or validates or saves or session.finished:
                kept.save(state, session, due=saves, final=session.finished is not None)
            if ends_epoch or validates or saves:
                session.resume_clock()
            if session.finished:
                break
            if decision.stop and stop is not None:
                session.drain()
                kept.save(state, session, due=True, final=True)
                raise Interrupted(step, stop)
    session.drain()
    return kept.result(state, session), session.progress


def _results(found: Evaluation | Sequence[Evaluation]) -> Sequence[Evaluation]:
    return [found] if isinstance(found, Evaluation) else found
