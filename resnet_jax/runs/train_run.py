"""The training of a run: from its newest checkpoint or from the start, with everything that watches and writes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from resnet_jax.errors import RunError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.report.console import Console
from resnet_jax.report.depth_file import DepthFile
from resnet_jax.report.metrics_file import MetricsFile
from resnet_jax.report.views import View
from resnet_jax.runs.config import config_to_dict
from resnet_jax.runs.finetune import start_state
from resnet_jax.runs.job import Job
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.members import resume
from resnet_jax.training.observers import RunFacts, tell
from resnet_jax.training.progress import Progress
from resnet_jax.training.schedules import warmup_steps
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, ChanceWatch, has_chance


def restore_or_begin(job: Job) -> tuple[TrainState, Progress]:
    """Return the state and the progress of the newest checkpoint, else those that the run begins with."""
    found = resume(job.checkpoints, job.parts.new_state()) if job.checkpoints.is_begun() else None
    if found is None:
        if job.source is not None:
            return start_state(job.config, job.source, job.parts), Progress()
        return job.parts.new_state(), Progress()
    state, progress = found
    job.say(f"Resuming after step {int(state.step):,} of {job.parts.plan.total_steps:,}.")
    plan = job.parts.plan
    longer = progress.finished == "steps" and int(state.step) < plan.total_steps  # it was made longer since
    time_left = progress.finished == "time limit" and (plan.seconds is None or progress.elapsed < plan.seconds)
    if longer or time_left:
        progress = dataclasses.replace(progress, finished=None)
    return state, progress


def train_run(
    job: Job, state: TrainState, progress: Progress, stop: StopRequest, views: Sequence[View]
) -> tuple[TrainState, Progress]:
    """Train from where ``state`` and ``progress`` stand; return where they end.

    Args:
        job: the run.
        state: donated to the first step.
        progress: restored with it.
        stop: asks to stop.
        views: observers that may fail.

    Raises:
        RunError: as :func:`resnet_jax.training.loop.train`.
        Interrupted: likewise.
    """
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
        metrics = MetricsFile(run.metrics, start_step=start, every=every, learning_rate=parts.learning_rate)
        depth = None
        if (depth_steps := job.config.train.depth_steps(per_epoch)) is not None:
            size = job.config.train.batch_size // job.config.train.accumulate
            chart = chart_blocks(parts.model, job.images.card.image_shape, size, BlockNames())
            depth = DepthFile(run.depth, chart.names, chart.stages, start_step=start, every=depth_steps)
            stack.callback(depth.close)
        live = View("progress", make_live, job.say)
        for observer in (live, metrics):
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
        )
        tell(views, "on_start", facts)
        try:
            return train(
                state,
                plan=parts.plan,
                feed=job.feed,
                task=parts.task,
                evaluate=None if validation is None else validate,
                checkpoints=job.checkpoints,
                progress=progress,
                observers=[job.first_step, live, metrics, *watches, *([] if depth is None else [depth]), *views],
                stop=stop,
            )
        except (Interrupted, RunError):
            try:
                job.checkpoints.close()
            except RunError as error:
                job.say(f"warning: {error}")
            job.pictures.draw_training()
            raise
