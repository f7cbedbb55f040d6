"""The training of a run: from its newest checkpoint or from the start, with all observers and writers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from resnet_jax.errors import RunError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.report.console import Console
from resnet_jax.report.depth_file import DepthFile
from resnet_jax.report.metrics_file import MetricsFile
from resnet_jax.report.task_gradients import TaskGradientsFile
from resnet_jax.report.views import View
from resnet_jax.runs.config import config_to_dict
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.faults import explain_divergence
from resnet_jax.runs.finetune import start_state
from resnet_jax.runs.job import Job, StillHeld
from resnet_jax.runs.position import read_position
from resnet_jax.runs.refreshed import make_refresh
from resnet_jax.runs.rollback import in_its_order, roll_back
from resnet_jax.runs.session_log import SessionLog
from resnet_jax.runtime.processes import is_main, require_same
from resnet_jax.training.diverged import Diverged
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.members import resume
from resnet_jax.training.observers import RunFacts, tell
from resnet_jax.training.progress import Progress
from resnet_jax.training.schedules import warmup_steps
from resnet_jax.training.spikes import Spiked
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, ChanceWatch, has_chance
from resnet_jax.training.task_gradients import task_pairs


def restore_or_begin(job: Job) -> tuple[TrainState, Progress]:
    """Return the state and the progress of the newest checkpoint, or those that the run starts with."""
    found = resume(job.checkpoints, job.parts.new_state()) if job.checkpoints.is_begun() else None
    if found is None:
        if again := made_again(job.run, 0):  # it was killed before its first save
            job.say(f"Nothing has been saved yet: {again:,} steps are repeated.")
            job.events.add("restore", step=0, repeated=again)
        if job.source is not None:
            return start_state(job.config, job.source, job.parts), Progress()
        return job.parts.new_state(), Progress()
    state, progress = found
    step = int(state.step)
    require_same(step, "the step of the newest checkpoint")
    again = made_again(job.run, step)
    said = f" {again:,} steps are repeated." if again else ""
    job.say(f"Resuming after step {step:,} of {job.parts.plan.total_steps:,}.{said}")
    job.events.add("restore", step=step, repeated=again)
    plan = job.parts.plan
    longer = progress.finished == "steps" and int(state.step) < plan.total_steps  # it was made longer since
    time_left = progress.finished == "time limit" and (plan.seconds is None or progress.elapsed < plan.seconds)
    if longer or time_left:
        progress = dataclasses.replace(progress, finished=None)
    return state, progress


def made_again(run: RunDirectory, step: int) -> int:
    """Return how many updates a session that resumes after ``step`` repeats; 0 if the former position is unknown."""
    return max((read_position(run.position) or 0) - step, 0)


def train_run(
    job: Job, state: TrainState, progress: Progress, stop: StopRequest, views: Sequence[View]
) -> tuple[TrainState, Progress]:
    """Train from where ``state`` and ``progress`` are; return where they end.

    Args:
        job: the run.
        state: the state; donated to the first step.
        progress: the progress restored with it.
        stop: the stop request.
        views: observers that may fail.

    Raises:
        RunError: as for :func:`resnet_jax.training.loop.train`.
        Interrupted: as for :func:`resnet_jax.training.loop.train`.
    """
    gone_back = False
    while True:
        try:
            job = in_its_order(job, progress) if progress.rollbacks else job
            return _train(job, state, progress, stop, views, gone_back=gone_back)
        except Spiked as spike:
            del state
            state, progress = roll_back(job, spike)
            gone_back = True


def _train(
    job: Job, state: TrainState, progress: Progress, stop: StopRequest, views: Sequence[View], *, gone_back: bool
) -> tuple[TrainState, Progress]:
    """Train until the end or a loss spike; see :func:`train_run`."""
    parts, run = job.parts, job.run
    start, per_epoch = int(state.step), parts.plan.steps_per_epoch
    every = job.config.train.cadence(job.config.train.log_every, per_epoch)
    validation = job.images.splits.val

    def validate(state: TrainState) -> Evaluation:
        assert validation is not None
        return parts.evaluate(state.eval_variables, validation)

    def make_live() -> Console:
        return Console(
            total_steps=parts.plan.total_steps,
            steps_per_epoch=parts.plan.steps_per_epoch,
            start_step=start,
            batch_size=job.config.train.batch_size,
            console=job.console,
            headline=parts.task.headline,
        )

    with contextlib.ExitStack() as stack:
        kept: dict[str, Any] = {
            "start_step": start,
            "records": progress.records,
            "warn": job.say,
            "events": job.events,
        }
        metrics, depth, between = None, None, None
        if main := is_main():
            metrics = MetricsFile(run.metrics, every=every, learning_rate=parts.learning_rate, **kept)
        if main and (depth_steps := job.config.train.depth_steps(per_epoch)) is not None:
            size = job.config.train.batch_size // job.config.train.accumulate
            chart = chart_blocks(parts.model, job.images.card.image_shape, size, BlockNames())
            depth = DepthFile(run.depth, chart.names, chart.stages, every=depth_steps, **kept)
            if pairs := task_pairs(parts.task):
                more = chart.names, chart.stages, pairs
                between = TaskGradientsFile(run.task_gradients, *more, every=depth_steps, **kept)
        live = View("progress", make_live, job.say)
        log = SessionLog(run, job.events, start)
        files = [observer for observer in (live, metrics, depth, between) if observer is not None]
        for observer in (*files, log):
            stack.callback(observer.close)
        watches = []
        if has_chance(parts.task):
            after = warmup_steps(job.config.optim.schedule, parts.plan.steps_per_epoch, parts.plan.total_steps)
            chance = None if validation is None else Chance.of(validation.labels)
            watches.append(ChanceWatch(job.chance_in_training, chance, job.say, after=after))
        facts = RunFacts(
            name=run.path.name,
            run_dir=run.path,
            config=config_to_dict(job.config),
            start_step=start,
            total_steps=parts.plan.total_steps,
            steps_per_epoch=per_epoch,
            batch_size=job.config.train.batch_size,
            log_every=every,
            records=progress.records,
            events=job.events,
            warn=job.say,
        )
        tell(views, "on_rollback" if gone_back else "on_start", facts)
        try:
            return train(
                state,
                plan=parts.plan,
                feed=job.feed,
                task=parts.task,
                evaluate=None if validation is None else validate,
                refresh=make_refresh(job.config, job.images, parts),
                checkpoints=job.checkpoints,
                progress=progress,
                observers=[
                    StillHeld(job.held, run),
                    log,
                    job.first_step,
                    *files[:2],
                    *watches,
                    *files[2:],
                    *views,
                ],
                stop=stop,
            )
        except Spiked:
            raise
        except BaseException as error:
            if isinstance(error, Diverged) and log.is_there:
                explain_divergence(job, error)
            if isinstance(error, RunError | OSError) and not log.is_there:
                with contextlib.suppress(RunError):
                    job.checkpoints.close()  # what is being written is taken back
                try:
                    log.require()
                except RunError as gone:
                    raise gone from error
            log.ended(error)
            if isinstance(error, Interrupted | RunError) and log.is_there:
                try:
                    job.checkpoints.close()
                except RunError as failure:  # and the error is what ends the run
                    job.say(f"warning: {failure}")
                if main:
                    job.pictures.draw_training()
            raise
