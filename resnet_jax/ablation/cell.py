"""One cell of an ablation: check that it can be built, then train its seeds as populations, resumed if stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.ablation.result import CellResult, MemberResult, finite
from resnet_jax.data.pipeline import Batch
from resnet_jax.data.records import Records
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.digest import params_digest
from resnet_jax.report.metrics_file import Appended, read_metrics
from resnet_jax.runs.build import (
    Parts,
    build_eval_step,
    build_parts,
    evaluation_feed,
    iterate_feed,
    loss_scaling,
    training_feed,
)
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import Images
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runtime.files import write_whole
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.evaluation import Evaluation
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.need import memory_told, require_memory
from resnet_jax.training.placement import Placement
from resnet_jax.training.population import (
    compile_population_eval_step,
    compile_population_step,
    create_population,
    evaluate_population,
    member,
    stack_batches,
)
from resnet_jax.training.population_loop import PopulationProgress, restore_population, train_population
from resnet_jax.training.state import TrainState
from resnet_jax.training.stuck import Chance, judge

Say = Callable[[str], None]


def check_cell(config: RunConfig, images: Images, placement: Placement) -> tuple[int, int]:
    """Build everything a cell needs short of compiling it, and trace its network in training on one batch.

    Returns:
        The number of parameters, and of updates.

    Raises:
        UsageError: choices that do not go together.
    """
    if config.train.early_stopping is not None or config.train.select != "last":
        raise UsageError(
            "an ablation tests the last state of equally long runs: set train.early_stopping None and train.select last"
        )
    if config.train.depth_every:
        raise UsageError(
            "the members of a population train in one program, which does not measure the gradient at every block: set "
            "train.depth_every 0, or train that cell alone"
        )
    if (config.train.steps_per_dispatch or 1) > 1:
        raise UsageError(
            "the seeds of a cell already share their calls, one update of all of them in each: "
            "leave out train.steps_per_dispatch"
        )
    parts, shape = build_parts(config, images, placement), images.card.image_shape
    model = parts.model
    variables = abstract_variables(model, shape)
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
        images: what it is trained, validated and tested on.
        run: its folder.
        placement: the devices.
        say: prints a line.
        stop: whether to stop.
        members_at_once: seeds in one population at most; None for all of them.
    """

    config: RunConfig
    images: Images
    run: RunDirectory
    placement: Placement
    say: Say
    stop: StopRequest
    members_at_once: int | None = None


def result_file(run: RunDirectory) -> Path:
    """Return where the result of a cell is."""
    return run.path / "result.json"


def load_result(pending: CellResult, run: RunDirectory) -> CellResult:
    """Return the result with what the cell's folder has of it."""
    path = result_file(run)
    return pending.with_stored(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else pending


def train_cell(job: CellJob, result: CellResult) -> CellResult:
    """Train and test the seeds that ``result`` has not, and write result.json.

    The checkpoints are deleted once every seed has its result.

    Raises:
        RunError: the folder cannot be written, the data is not what it was, or the population is too large.
        Interrupted: Ctrl-C or SIGTERM; the population is saved.
    """
    run = RunDirectory.open(job.run.path, job.config)
    run.write_data(job.images.card)
    done = {one.seed for one in result.members}
    left = [seed for seed in result.seeds if seed not in done]
    size = job.members_at_once or len(left)
    parts = build_parts(job.config, job.images, job.placement)
    step = compile_population_step(parts.step, job.placement)
    evaluate = _evaluation(job, parts)
    for start in range(0, len(left), size):
        seeds = tuple(left[start : start + size])
        told = f"cell {result.cell.id}: "
        if len(seeds) > 1:
            told = (
                f"{len(seeds)} seeds of cell {result.cell.id} do not fit into the memory of the device together: give "
                f"--members-at-once below {len(seeds)}, or a smaller --train.batch-size; "
            )
        try:
            require_memory(
                parts.model,
                job.images.card.image_shape,
                batch=job.config.train.batch_size,
                accumulate=job.config.train.accumulate,
                members=len(seeds),
                devices=job.placement.devices,
                warn=job.say,
            )
        except RunError as error:
            raise RunError(f"{told}{error}") from error
        with memory_told(lambda told=told: told):
            members, seconds = _train_members(job, parts, step, evaluate, seeds)
        result = result.add(members, seconds)
        write_whole(result_file(run), json.dumps(result.to_json(), indent=2) + "\n")
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    return result


def _train_members(
    job: CellJob,
    parts: Parts,
    step: Callable[..., Any],
    evaluate: Callable[[TrainState, Records], list[Evaluation]],
    seeds: tuple[int, ...],
) -> tuple[list[MemberResult], float]:
    """Train and test one population; return the results of its members and the seconds of its steps."""
    splits, card = job.images.splits, job.images.card
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    averaged, scaling = job.config.train.ema_decay is not None, loss_scaling(job.config, parts.model)
    states = create_population(
        parts.model, parts.tx, keys, card.image_shape, mesh=job.placement, ema=averaged, loss_scaling=scaling
    )
    progress = PopulationProgress.start(len(seeds))
    with Checkpoints(job.run.checkpoints / f"seeds-{'-'.join(str(seed) for seed in seeds)}") as checkpoints:
        if checkpoints.steps("last"):
            states, progress = restore_population(checkpoints, states, job.placement)
            job.say(f"  resuming after step {int(states.step[0]):,} of {parts.plan.total_steps:,}")
        rows = _Rows(job.run.metrics, seeds, start_step=int(states.step[0]), say=job.say, parts=parts)
        try:
            states, progress = train_population(
                states,
                plan=parts.plan,
                step=step,
                batches=_batches(job, seeds),
                mesh=job.placement,
                evaluate=None if splits.val is None else lambda states: evaluate(states, _some(splits.val)),
                checkpoints=checkpoints,
                progress=progress,
                observers=(rows,),
                stop=job.stop,
            )
        finally:
            rows.close()
    test = _some(splits.test)
    tests = evaluate(states, test) if progress.running else []
    trained = _last_accuracies(job.run.metrics)
    pass_over = parts.plan.steps_per_epoch * job.config.train.batch_size
    members = []
    for index, seed in enumerate(seeds):
        state = member(states, index)
        digest = params_digest(state.params, state.batch_stats)
        found = MemberResult(seed, progress.diverged[index], params_digest=digest)
        if found.diverged_at is None:
            result = tests[index]
            verdict = judge(
                updates=parts.plan.total_steps,
                steps_per_epoch=parts.plan.steps_per_epoch,
                tested=result.accuracy,
                test=Chance.of(test.labels),
                trained=trained.get(seed),
                train=Chance.of(splits.train.labels, pass_over),
            )
            found = dataclasses.replace(
                found,
                test_correct=result.correct,
                test_examples=result.examples,
                test_loss=finite(result.loss),
                stuck=verdict.stuck,
            )
        members.append(found)
    return members, progress.seconds


def _last_accuracies(metrics: Path) -> dict[int, float]:
    """Return the accuracy in the last epoch of training, by seed."""
    rows = [row for row in read_metrics(metrics) if row["kind"] == "epoch"]
    return {row["seed"]: row["accuracy"] for row in rows if row["accuracy"] is not None}


def _some(records: Records | None) -> Records:
    assert records is not None  # load_images refuses data without a test split; validation is asked for only if there
    return records


def _batches(job: CellJob, seeds: tuple[int, ...]) -> Callable[[int, int], Iterator[Batch]]:
    """Return ``(start, stop) -> `` batches with members first, each in the order of its own seed."""
    feeds = [training_feed(dataclasses.replace(job.config, seed=seed), job.images) for seed in seeds]

    def batches(start: int, stop: int) -> Iterator[Batch]:
        streams = [iterate_feed(feed, job.config, start, stop) for feed in feeds]
        try:
            for step_batches in zip(*streams, strict=True):
                yield stack_batches(step_batches)
        finally:
            for stream in streams:
                close = getattr(stream, "close", None)
                if close is not None:
                    close()

    return batches


def _evaluation(job: CellJob, parts: Parts) -> Callable[[TrainState, Records], list[Evaluation]]:
    """Return ``evaluation(states, records)`` of all members; it compiles once."""
    step = compile_population_eval_step(build_eval_step(job.config, parts.model, job.images.card), job.placement)
    classes = parts.model.config.num_classes

    def evaluation(states: TrainState, records: Records) -> list[Evaluation]:
        feed = evaluation_feed(job.config, records)
        return evaluate_population(step, states.eval_variables, feed, mesh=job.placement, num_classes=classes)

    return evaluation


class _Rows:
    """Writes metrics.jsonl of a cell, a row per epoch and seed and one per divergence, and says a line per epoch.

    Rows of these seeds after ``start_step`` are dropped first, so that a resumed cell leaves no row twice.
    """

    def __init__(self, path: Path, seeds: tuple[int, ...], *, start_step: int, say: Say, parts: Parts) -> None:
        self._seeds, self._say = seeds, say
        self._epochs = -(-parts.plan.total_steps // parts.plan.steps_per_epoch)
        kept = [row for row in read_metrics(path) if row["seed"] not in seeds or row["step"] <= start_step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = Appended(path)

    def on_epoch(self, rows: Mapping[int, dict[str, float]]) -> None:
        """Write the rows."""
        for index, row in rows.items():
            self._write({"kind": "epoch", "seed": self._seeds[index], **row})
        if rows:
            first = next(iter(rows.values()))
            numbers = [f"loss {_spread([row['loss'] for row in rows.values()], '.4f')}"]
            if "val_accuracy" in first:
                numbers.append(f"val accuracy {_spread([row['val_accuracy'] for row in rows.values()], '.2%')}")
            epoch = math.ceil(first["epoch"])
            self._say(f"  epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  " + "  ".join(numbers))

    def on_divergence(self, index: int, row: dict[str, float]) -> None:
        """Write the row."""
        self._write({"kind": "diverged", "seed": self._seeds[index], **row})
        self._say(f"  seed {self._seeds[index]} diverged at step {int(row['step']):,}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        clean = {key: finite(value) if isinstance(value, float) else value for key, value in row.items()}
        self._file.write(json.dumps(clean))


def _spread(values: list[float], form: str) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"
