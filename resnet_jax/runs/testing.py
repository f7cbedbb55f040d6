"""The test of a run: once, after training, for the state that the configuration selects."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from resnet_jax.data.example import OTHER
from resnet_jax.data.records import Records
from resnet_jax.models.digest import params_digest
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.build import build_evaluation
from resnet_jax.runs.corrupt import share
from resnet_jax.runs.job import Job
from resnet_jax.runs.length import earlier_tests
from resnet_jax.runs.outcome import EXAMPLES, Summary, outcome_of
from resnet_jax.runs.shown_examples import predicted_examples
from resnet_jax.runs.shown_pairs import retrieved_examples
from resnet_jax.runtime.processes import count, from_main
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.progress import Progress
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, judge


def _evaluate(job: Job) -> Callable[[Any, Records], Evaluation]:
    """Return the evaluation used in validation, or the one with the test's views."""
    if (views := job.config.train.test_views) == "none":
        return job.parts.evaluate
    parts, images = job.parts, job.images
    return build_evaluation(
        job.config, parts.model, images.card, parts.placement, views=views, unreadable_of=images.unreadable_of
    )


def test_once(job: Job, state: TrainState, progress: Progress, began: float) -> tuple[Summary, Evaluation]:
    """Return the result of the run, and the evaluation that it is based on."""
    steps, digest = int(state.step), params_digest(state.params, state.batch_stats)
    select, test = job.config.train.select, job.images.splits.test
    if select == "best":
        job.checkpoints.close()
        state, _ = job.checkpoints.restore("best", state)
    assert test is not None  # load_images refuses data without
    if before := earlier_tests(job.run):
        job.say(
            f"Testing the {select} state on the {len(test):,} test images. They were evaluated before, after "
            f"{', '.join(f'{n:,}' for n in before)} updates: a length chosen by that result was chosen on them."
        )
    else:
        job.say(f"Testing the {select} state, once, on the {len(test):,} test images; no decision used them.")
    result = _evaluate(job)(state.eval_variables, test)
    if OTHER in getattr(job.parts.task, "inputs", ()):
        examples = retrieved_examples(job, result, test)
    else:
        examples = predicted_examples(job, state.eval_variables, test)
    if examples:
        result = dataclasses.replace(result, details={**result.details, EXAMPLES: examples})
    epochs = [row for row in read_metrics(job.run.metrics) if row["kind"] == "epoch"]
    task = job.parts.task
    verdict = judge(
        updates=steps,
        steps_per_epoch=job.parts.plan.steps_per_epoch,
        tested=result.metrics.get("accuracy"),
        test=Chance.of(test.labels),
        trained=epochs[-1].get("accuracy") if epochs else None,
        train=job.chance_in_training,
    )
    outcome = outcome_of(task, result, progress.members[0].watch.best, job.images.card.class_names)
    for unreadable in job.images.unreadable.values():
        share(unreadable)
    others = [line for line in job.corrupt.said(job.images.card.examples) if line not in result.notes]
    summary = Summary(
        **{**outcome, "notes": (*result.notes, *others)},
        steps=steps,
        finished=progress.finished or "steps",
        tested=f"{select}, after step {int(state.step)}",
        images_per_second=progress.images_per_second,
        seconds=time.perf_counter() - began,
        params_digest=digest,
        run_dir=str(job.run.path),
        first_step_seconds=job.first_step.seconds,
        stuck=verdict.stuck,
        stuck_reason=verdict.reason,
        skipped=job.corrupt.counts,
    )
    if count() > 1:  # what was read of files, and clocks, are the main process's
        summary = Summary.from_json(from_main(summary.to_json()))
    return summary, result
