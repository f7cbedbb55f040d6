"""One cell of an ablation: check that it can be built, then train its seeds as populations, resuming if interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.ablation.observers import BrokenCell, CellDepthFiles, CellFault, CellRows, Say
from resnet_jax.ablation.result import CellResult, MemberResult, measured
from resnet_jax.data.records import Records
from resnet_jax.errors import DamagedError, RunError, UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.digest import params_digest
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.build import (
    RunComponents,
    build_eval_step,
    build_parts,
    build_task,
    evaluation_feed,
)
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.corrupt import CorruptList, share
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.kept import read_object
from resnet_jax.runs.refreshed import batches_of
from resnet_jax.runs.teacher import require_same_teacher, teacher_record
from resnet_jax.runtime import processes
from resnet_jax.runtime.files import write_whole
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import train
from resnet_jax.training.members import restore, resume
from resnet_jax.training.need import memory_told, require_memory
from resnet_jax.training.observers import Observer
from resnet_jax.training.placement import Placement
from resnet_jax.training.plan import Plan
from resnet_jax.training.population import (
    compile_population_eval_step,
    evaluate_population,
    member,
)
from resnet_jax.training.progress import Progress
from resnet_jax.training.retention import Keep
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, judge


def check_cell(config: RunConfig, images: RunData, placement: Placement) -> tuple[int, int]:
    """Build everything a cell needs without compiling it, and trace its network in training on one batch.

    Returns:
        The number of parameters, and of updates.

    Raises:
        UsageError: for incompatible choices.
    """
    if config.train.spikes.factor is not None:
        raise UsageError(
            "train.spikes goes with a run alone: the seeds of a cell move in lockstep, and none can go back "
            "without the others; leave out train.spikes.factor"
        )
    if config.train.test_views != "none":
        raise UsageError("train.test_views goes with a run alone, not yet with the seeds of a cell: set it to none")
    parts, shape = build_parts(config, images, placement), images.card.image_shape
    model = parts.model
    variables = abstract_variables(model, shape)
    if batches_of(config, has_statistics=bool(jax.tree.leaves(variables.get("batch_stats", {})))):
        raise UsageError(
            "train.ema.reestimate goes with a run alone, not yet with the seeds of a cell: set train.ema.reestimate 0"
        )
    examples = config.train.batch_size // config.train.accumulate
    batch = jax.ShapeDtypeStruct((examples, *shape), jnp.dtype(model.config.dtype))

    def forward(variables: Any, images: jax.Array) -> Any:
        keys = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=keys)

    jax.eval_shape(forward, variables, batch)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return params, parts.plan.total_steps


@dataclasses.dataclass(frozen=True)
class CellJob:
    """A cell about to be trained.

    Attributes:
        config: its configuration; the seed in it is not used.
        images: images to train, validate and test on.
        run: its folder.
        placement: the devices.
        say: prints a line.
        stop: the stop request.
        members_at_once: maximum number of seeds in one population; None for all of them.
    """

    config: RunConfig
    images: RunData
    run: RunDirectory
    placement: Placement
    say: Say
    stop: StopRequest
    members_at_once: int | None = None


def result_file(run: RunDirectory) -> Path:
    """Return the path of a cell's result."""
    return run.path / "result.json"


def load_result(pending: CellResult, run: RunDirectory) -> CellResult:
    """Return the result with what is stored in the cell's folder.

    Raises:
        DamagedError: if that is not a result.
    """
    path = result_file(run)
    if not path.is_file():
        return pending
    try:
        return pending.with_stored(read_object(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{path} is damaged ({type(error).__name__}: {error}): remove it, and the cell is trained again"
        ) from error


def train_cell(job: CellJob, result: CellResult) -> CellResult:
    """Train and test the seeds missing in ``result``, and write result.json.

    The checkpoints are deleted once every seed has its result.

    Raises:
        RunError: if the folder cannot be written, the data has changed, or the population is too large.
        Interrupted: on Ctrl-C or SIGTERM; the population is saved.
    """
    run = job.run
    processes.on_main(lambda: RunDirectory.open(run.path, job.config).write_data(job.images.card))
    parts = build_parts(job.config, job.images, job.placement)
    require_same_teacher(run, parts.teacher)
    if record := teacher_record(parts.teacher):
        processes.on_main(lambda: run.write_start(record))
    corrupt = CorruptList(run.corrupt, job.images.unreadable, job.say, writes=processes.is_main())
    done = {one.seed for one in result.members}
    left = [seed for seed in result.seeds if seed not in done]
    size = job.members_at_once or len(left)
    evaluate = _evaluation(job, parts)
    for start in range(0, len(left), size):
        seeds = tuple(left[start : start + size])
        told = f"cell {result.cell.id}: "
        if len(seeds) > 1:
            told = (
                f"{len(seeds)} seeds of cell {result.cell.id} do not fit into the memory of the device together: give "
                f"members_at_once below {len(seeds)}, or a smaller train.batch_size; "
            )
        try:
            require_memory(
                parts.model,
                job.images.card.image_shape,
                batch=job.config.train.batch_size,
                accumulate=job.config.train.accumulate,
                members=len(seeds),
                devices=job.placement.devices,
                fsdp=job.placement.fsdp,
                warn=job.say,
            )
        except RunError as error:
            raise RunError(f"{told}{error}") from error
        with memory_told(lambda told=told: told):
            members, seconds = _train_members(job, parts, evaluate, seeds)
        result = added = result.add(members, seconds)
        processes.on_main(
            lambda added=added: write_whole(result_file(run), json.dumps(added.to_json(), indent=2) + "\n")
        )
    for line in corrupt.said(job.images.card.examples):
        job.say(f"  {line}")
    processes.on_main(lambda: shutil.rmtree(run.checkpoints, ignore_errors=True))
    return result


def _train_members(
    job: CellJob,
    parts: RunComponents,
    evaluate: Callable[[TrainState, Records], list[Evaluation]],
    seeds: tuple[int, ...],
) -> tuple[list[MemberResult], float]:
    """Train and test one population; return the results of its members and the seconds of its steps."""
    splits, card = job.images.splits, job.images.card
    states = parts.new_population(seeds)
    progress, plan = Progress.start(len(seeds)), population_plan(job.config, parts.plan)
    folder = job.run.checkpoints / f"seeds-{'-'.join(str(seed) for seed in seeds)}"
    keep = Keep(job.config.train.keep_last, job.config.train.keep_best)
    with Checkpoints(folder, warn=job.say, keep=keep) as checkpoints:
        if (found := resume(checkpoints, states)) is not None:
            states, progress = found
            job.say(f"  resuming after step {int(states.step[0]):,} of {parts.plan.total_steps:,}")
        start = int(states.step[0])
        with contextlib.ExitStack() as stack:
            known = progress.records
            feed = parts.make_feed(seeds)
            cell = BrokenCell(job.config, job.images, parts, job.run, feed, job.say)
            observers: list[Observer] = [CellFault(cell, seeds)]
            if main := processes.is_main():
                observers.append(
                    CellRows(job.run.metrics, seeds, start_step=start, say=job.say, parts=parts, records=known)
                )
            if main and job.config.train.depth_every is not None:
                observers.append(
                    CellDepthFiles(
                        job.run, job.config.train, seeds, start_step=start, say=job.say, parts=parts,
                        image_shape=card.image_shape, records=known,
                    )
                )  # fmt: skip
            for observer in observers:
                stack.callback(observer.close)
            states, progress = train(
                states,
                plan=plan,
                feed=feed,
                task=parts.task,
                evaluate=None if splits.val is None else lambda states: evaluate(states, _some(splits.val)),
                checkpoints=checkpoints,
                progress=progress,
                observers=observers,
                stop=job.stop,
            )
        last = states
        if job.config.train.select == "best" and checkpoints.steps("best"):
            checkpoints.close()
            states, _ = restore(checkpoints, "best", states)
    test = _some(splits.test)
    tests = evaluate(states, test) if None in progress.diverged else []
    trained = _last_accuracies(job.run.metrics)
    pass_over = parts.plan.steps_per_epoch * job.config.train.batch_size
    members = []
    for index, seed in enumerate(seeds):
        state = member(last, index)
        digest = params_digest(state.params, state.batch_stats)
        found = MemberResult(seed, progress.diverged[index], params_digest=digest)
        if found.diverged_at is None:
            result = tests[index]
            verdict = judge(
                updates=progress.members[index].finished_at or parts.plan.total_steps,
                steps_per_epoch=parts.plan.steps_per_epoch,
                tested=result.metrics.get("accuracy"),
                test=Chance.of(test.labels),
                trained=trained.get(seed),
                train=Chance.of(splits.train.labels, pass_over),
            )
            found = dataclasses.replace(
                found,
                **measured(parts.task.headline, result),
                stuck=verdict.stuck,
            )
        members.append(found)
    return members, progress.seconds


def population_plan(config: RunConfig, plan: Plan) -> Plan:
    """Return a run's plan for a population of it: a member that diverges is recorded, and the others continue."""
    return dataclasses.replace(
        plan,
        on_reject=dataclasses.replace(plan.on_reject, then="record"),
        saving=dataclasses.replace(plan.saving, best=config.train.select == "best"),
    )


def _last_accuracies(metrics: Path) -> dict[int, float]:
    """Return the accuracy in the last training epoch, by seed."""
    rows = [row for row in read_metrics(metrics) if row["kind"] == "epoch"]
    return {row["seed"]: row["accuracy"] for row in rows if row.get("accuracy") is not None}


def _some(records: Records | None) -> Records:
    assert records is not None  # load_images refuses data without a test split; validation is asked for only if there
    return records


def _evaluation(job: CellJob, parts: RunComponents) -> Callable[[TrainState, Records], list[Evaluation]]:
    """Return ``evaluation(states, records)`` of all members; it compiles once."""
    step = compile_population_eval_step(build_eval_step(job.config, parts.model, job.images.card), job.placement)
    task = build_task(job.config, job.images.card)

    def evaluation(states: TrainState, records: Records) -> list[Evaluation]:
        unreadable = job.images.unreadable_of(records)
        feed = evaluation_feed(job.config, records, unreadable=unreadable)
        found = evaluate_population(step, states.eval_variables, feed, mesh=job.placement, task=task)
        if unreadable is not None:
            share(unreadable)
        return found

    return evaluation
