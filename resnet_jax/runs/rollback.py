"""Return to a checkpoint after a loss spike, and continue from there with the examples in another order."""

from __future__ import annotations

import dataclasses

from resnet_jax.runs.finetune import start_state
from resnet_jax.runs.job import Job
from resnet_jax.training.members import restore
from resnet_jax.training.progress import Progress
from resnet_jax.training.spikes import Spiked
from resnet_jax.training.state import TrainState


def roll_back(job: Job, spike: Spiked) -> tuple[TrainState, Progress]:
    """Return the state and the progress to continue with; the order changes after update ``spike.to``.

    They are those of the newest checkpoint that is not later: if there is none of exactly that update, for example
    because saves were skipped, the updates up to it are repeated in the previous order.

    Args:
        job: the run.
        spike: the spike.

    Raises:
        RunError: if no checkpoint is intact.
    """
    job.checkpoints.close()
    if any(step <= spike.to for step in job.checkpoints.steps("last")):
        state, progress = restore(job.checkpoints, "last", job.parts.new_state(), at_most=spike.to)
    elif job.source is not None:
        state, progress = start_state(job.config, job.source, job.parts), Progress()
    else:
        state, progress = job.parts.new_state(), Progress()
    step = int(state.step)
    job.say(
        f"Loss spike: {spike}. Back to step {step:,}, and from step {spike.to:,} on in another order "
        f"({len(spike.rollbacks)} of at most {job.config.train.spikes.rollbacks} times)."
    )
    job.events.add(
        "rollback", step=spike.step, to=step, order_from=spike.to, loss=spike.loss, median=spike.median,
        number=len(spike.rollbacks),
    )  # fmt: skip
    progress = dataclasses.replace(
        progress,
        rollbacks=spike.rollbacks,
        seconds=spike.seconds,
        timed_examples=spike.timed_examples,
        elapsed=spike.elapsed,
        finished=None,
    )
    return state, progress


def in_its_order(job: Job, progress: Progress) -> Job:
    """Return the job with the feed of a run that went back as often as ``progress`` says."""
    return dataclasses.replace(job, feed=job.parts.make_feed(rollbacks=progress.rollbacks))
