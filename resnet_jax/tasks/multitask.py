"""Several tasks at once: one head each, and the sum of their losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UsageError
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import SAID_OF_KIND, TargetFacts, TaskFacts
from resnet_jax.tasks.heads import LABEL, HeadSpec, fields_of_heads, parse_heads
from resnet_jax.tasks.registry import TASKS, default_kind, list_tasks, make_task, register_task
from resnet_jax.tasks.regression import Regression
from resnet_jax.tasks.scores import mean_known
from resnet_jax.tasks.task import Batch, Task, TaskBase

Weighting = Literal["fixed", "uncertainty", "pcgrad"]
#: Field of the outputs with the log variances of all tasks.
LOG_VARIANCE = "log_variance"
#: Kind of label -> the field of a batch in which its task looks for it; ``label`` for other kinds.
_FIELDS = {"segmentation": "segmentation"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several tasks.

    Attributes:
        name: name of its head, and prefix of its metrics.
        field: the field of the examples that it learns.
        task: the meaning of its outputs.
        weight: factor of its loss.
        names: names of its classes, labels or targets.
        kind: kind of its labels.
    """

    name: str
    field: str
    task: Task
    weight: float = 1.0
    names: tuple[str, ...] = ()
    kind: str = "class"

    @property
    def of_pixels(self) -> bool:
        """Whether it has outputs for every pixel."""
        return self.kind == "segmentation"

    def own(self, batch: Mapping[str, Any], xp: Any = jnp) -> tuple[dict[str, Any], Any]:
        """Return the batch as its task takes it, and which examples have a target, bool (N,).

        A target is missing if it is negative (classes) or NaN; the task then receives 0. Pixels without a class are
        handled by their task.

        Raises:
            UsageError: the batch has no such field.
        """
        if self.field not in batch:
            raise UsageError(f"the examples have no field {self.field}, which head {self.name} learns")
        target = xp.asarray(batch[self.field])
        if self.of_pixels:
            return {**batch, _FIELDS[self.kind]: target}, xp.ones(target.shape[:1], bool)
        known = ~xp.isnan(target) if xp.issubdtype(target.dtype, xp.floating) else target >= 0
        there = known.reshape(len(target), -1).all(axis=1)
        target = xp.where(there.reshape(-1, *(1,) * (target.ndim - 1)), target, xp.zeros((), target.dtype))
        dtype = xp.int32 if self.kind == "class" and target.ndim == 1 else xp.float32
        return {**batch, LABEL: target.astype(dtype)}, there


@dataclasses.dataclass(frozen=True)
class Multitask(TaskBase):
    """Several tasks, each with its own head and a field of the examples that it learns.

    The loss of an example is the weighted sum of its tasks' losses. A missing target does not count, neither in the
    loss nor in a task's metrics. The metrics are those of the tasks with the prefix ``NAME/``, and ``score`` (the
    headline): the mean of the tasks' headlines, or the headline of the task that ``chosen`` names.

    Outputs are a dict with those of each task by its name.

    Attributes:
        num_outputs: number of outputs of all heads.
        parts: the tasks.
        weighting: how the losses are combined: ``fixed``, or ``pcgrad``
            (:func:`resnet_jax.training.task_gradients.pcgrad`).
        chosen: name of the task whose headline is the score; None for the mean.

    Raises:
        UsageError: there is no such task, or the mean is asked for and a task's headline is better when smaller.
    """

    kind: ClassVar[str] = "multitask"
    headline: ClassVar[str] = "score"
    mode: ClassVar[Literal["max", "min"]] = "max"
    heads: ClassVar[tuple[str, ...]] = ("several",)
    draws_examples: ClassVar[bool] = True

    parts: tuple[Part, ...] = ()
    weighting: Weighting = "fixed"
    chosen: str | None = None

    def __post_init__(self) -> None:
        if self.chosen is not None and self.chosen not in self.task_names:
            raise UsageError(f"task.headline {self.chosen} is no head: use one of {', '.join(self.task_names)}")
        for part in self.parts:
            if part.task.mode == "min" and self.chosen in (None, part.name):
                raise UsageError(
                    f"{part.task.headline} of head {part.name} is better if it is smaller: name another head with "
                    "task.headline"
                )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(part.name for part in self.parts)

    @property
    def head_outputs(self) -> tuple[str, ...]:
        """The heads in the form that a network takes (``ResNetConfig.head_outputs``)."""
        return tuple(f"{part.name}:{part.task.num_outputs}{':pixels' if part.of_pixels else ''}" for part in self.parts)

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Reject invalid targets among those that are present."""
        mask = np.asarray(batch.get("mask", True), bool)
        for part in self.parts:
            own, there = part.own(batch, np)
            try:
                part.task.check({**own, "mask": mask & there})
            except UsageError as error:
                raise UsageError(f"head {part.name}: {error}") from None

    def loss(self, outputs: Any, batch: Batch) -> jax.Array:
        """Return the sum over the tasks, (N,)."""
        losses = list(self.task_losses(outputs, batch).values())
        return sum(losses[1:], losses[0])

    def task_losses(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the weighted loss of every example for each task, (N,); 0 without a target."""
        return {part.name: part.weight * loss for part, loss, _ in self._losses(outputs, batch)}

    def _losses(self, outputs: Any, batch: Batch) -> Iterator[tuple[Part, jax.Array, jax.Array]]:
        """Yield each task, its loss and which examples have a target, (N,)."""
        for part in self.parts:
            own, there = part.own(batch)
            loss = part.task.loss(outputs[part.name], own)
            yield part, jnp.where(there, loss, jnp.zeros((), loss.dtype)), there

    def train_sums(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the sums of the tasks, and ``NAME/loss`` and ``NAME/count`` of each."""
        return self._sums("train_sums", outputs, batch)

    def train_metrics(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Return the metrics of the tasks, the loss of each, and the score."""
        metrics, headlines = {}, {}
        for part in self.parts:
            own = _below(sums, part.name)
            counted = own["count"] or float("nan")
            found = part.task.train_metrics({name: own[name] for name in own if name not in ("loss", "count")}, counted)
            found["loss"] = own["loss"] / counted
            metrics |= {f"{part.name}/{name}": value for name, value in found.items()}
            headlines[part.name] = found.get(part.task.headline, float("nan"))
        return {"score": self._score(headlines), **metrics}

    def eval_sums(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the sums of the tasks, and ``NAME/loss`` and ``NAME/count`` of each."""
        return self._sums("eval_sums", outputs, batch)

    def _sums(self, what: Literal["train_sums", "eval_sums"], outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        sums: dict[str, jax.Array] = {}
        for part, loss, there in self._losses(outputs, batch):
            found = getattr(part.task, what)(outputs[part.name], part.own(batch)[0])
            sums |= {f"{part.name}/{name}": _those(there, each) for name, each in found.items()}
            sums |= {f"{part.name}/loss": loss, f"{part.name}/count": there}
        return sums

    def eval_rows(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the rows of the tasks, and ``NAME/there``: whether an example has a target, bool (N,)."""
        rows: dict[str, jax.Array] = {}
        for part in self.parts:
            own, there = part.own(batch)
            found = part.task.eval_rows(outputs[part.name], own)
            rows |= {f"{part.name}/{name}": each for name, each in found.items()}
            rows[f"{part.name}/there"] = there
        return rows

    def eval_metrics(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, float]:
        """Return the score, and the metrics of the tasks over the examples that have a target."""
        metrics, headlines = {}, {}
        for part, own, kept, counted in self._counted(sums, rows):
            found = dict(part.task.eval_metrics(own, kept, counted)) if counted else {}
            if counted:
                found["loss"] = float(own["loss"]) / counted
            metrics |= {f"{part.name}/{name}": value for name, value in found.items()}
            headlines[part.name] = found.get(part.task.headline, float("nan"))
        return {"score": self._score(headlines), **metrics}

    def eval_details(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], count: int
    ) -> dict[str, Any]:
        """Return the details of each task by its name, with the number of examples that have a target, ``examples``."""
        return {
            part.name: {"examples": counted, **(part.task.eval_details(own, kept, counted) if counted else {})}
            for part, own, kept, counted in self._counted(sums, rows)
        }

    def eval_notes(self, details: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the notes of each task, with its name as a prefix."""
        notes: list[str] = []
        for part in self.parts:
            found = details[part.name]
            if not found["examples"]:
                notes.append(f"{part.name}: no example has a target")
            else:
                notes += [f"{part.name}: {note}" for note in part.task.eval_notes(found)]
        return tuple(notes)

    def mean_outputs(self, outputs: Any) -> Any:
        """Return the outputs that stand for several views, as each task defines it.

        Raises:
            UsageError: there are outputs for pixels, which lie elsewhere in each view.
        """
        if pixels := [part.name for part in self.parts if part.of_pixels]:
            raise UsageError(f"views move the pixels of head {pixels[0]}: leave them out, or train that head alone")
        means: dict[str, Any] = {name: each.mean(axis=0) for name, each in outputs.items() if name == LOG_VARIANCE}
        for part in self.parts:
            mean: Any = getattr(part.task, "mean_outputs", lambda each: each.mean(axis=0))
            means[part.name] = mean(outputs[part.name])
        return means

    def predict(self, outputs: Any, top: int) -> list[list[tuple[int, float]]]:
        """Return the first prediction of each task on whole inputs: the top class, all predicted labels, all values."""
        count = len(next(iter(outputs.values())))
        found: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        start = 0
        for part in self._whole_inputs():
            said = part.task.predict(outputs[part.name], 1)
            for row, pairs in zip(found, said, strict=True):
                row += [(start + index, number) for index, number in pairs]
            start += len(part.task.answer_names(part.names))
        return found

    def answer_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the answers of each task with its name as a prefix; for a task with one value, the name alone."""
        found: list[str] = []
        for part in self._whole_inputs():
            answers = part.task.answer_names(part.names)
            alone = isinstance(part.task, Regression) and len(answers) == 1
            found += [part.name] if alone else [f"{part.name} {answer}" for answer in answers]
        return tuple(found)

    def predicted_fields(self, outputs: Any) -> dict[str, np.ndarray]:
        """Return the predicted masks, and all other predictions in ``caption``."""
        fields: dict[str, np.ndarray] = {}
        for part in self.parts:
            if part.of_pixels:
                said = part.task.predicted_fields(outputs[part.name])
                fields |= {part.field if name == _FIELDS[part.kind] else name: each for name, each in said.items()}
        lines: list[list[str]] = [[] for _ in next(iter(outputs.values()))]
        for part in self._whole_inputs():
            names = part.task.answer_names(part.names)
            for line, pairs in zip(lines, part.task.predict(outputs[part.name], 1), strict=True):
                if part.task.answers == "values":
                    line += [_said(part.name, number) for _, number in pairs[:1]]
                else:
                    line += [f"{part.name} {names[index]}" for index, _ in pairs]
        return {**fields, "caption": np.array([_caption(line) for line in lines])}

    def true_captions(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return texts (N,) that describe the true labels, next to those of :meth:`predicted_fields`."""
        count = len(batch["image"])
        lines: list[list[str]] = [[] for _ in range(count)]
        for part in self._whole_inputs():
            own, there = part.own(batch, np)
            names = part.task.answer_names(part.names)
            for line, target, known in zip(lines, own[LABEL], there, strict=True):
                if not known:
                    line.append(f"{part.name} ?")
                elif part.kind == "class":
                    line.append(f"{part.name} {names[int(target)] if target < len(names) else int(target)}")
                elif part.kind == "multi-label":
                    line += [f"{part.name} {name}" for name, has in zip(names, target, strict=False) if has]
                else:
                    line.append(_said(part.name, float(np.ravel(target)[0])))
        return np.array([_caption(line) for line in lines])

    def _whole_inputs(self) -> list[Part]:
        return [part for part in self.parts if not part.of_pixels]

    def _score(self, headlines: Mapping[str, float]) -> float:
        return headlines[self.chosen] if self.chosen is not None else mean_known(np.array(list(headlines.values())))

    def _counted(
        self, sums: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[Part, dict[str, np.ndarray], dict[str, np.ndarray], int]]:
        """Yield each task with its sums, its rows of the examples that have a target, and their number."""
        for part in self.parts:
            kept = _below(rows, part.name)
            there = np.asarray(kept.pop("there"), bool)
            own = _below(sums, part.name)
            yield part, own, {name: each[there] for name, each in kept.items()}, int(own["count"])


@dataclasses.dataclass(frozen=True)
class UncertainMultitask(Multitask):
    """Several tasks weighted by learned uncertainties: Kendall et al. 2018 (arXiv 1705.07115).

    With s the logarithm of a task's variance, a parameter of the head, its loss L becomes exp(-s) L + s / 2, or for
    squared errors exp(-s) L / 2 + s / 2 (their equations 10 and 7, for -log p up to a constant).
    """

    heads: ClassVar[tuple[str, ...]] = ("several_uncertain",)

    weighting: Weighting = "uncertainty"

    def task_losses(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return the weighted loss of every example for each task, (N,); 0 without a target."""
        found = {}
        for place, (part, loss, there) in enumerate(self._losses(outputs, batch)):
            s = outputs[LOG_VARIANCE][:, place].astype(loss.dtype)
            half = 0.5 if isinstance(part.task, Regression) and part.task.criterion == "mse" else 1.0
            weighed = half * jnp.exp(-s) * loss + 0.5 * s
            found[part.name] = part.weight * jnp.where(there, weighed, jnp.zeros((), loss.dtype))
        return found


def _those(there: jax.Array, values: jax.Array) -> jax.Array:
    """Return per-example values (N, ...) with 0 for the examples without a target."""
    counted = there.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.where(counted, values, jnp.zeros((), values.dtype))


def _below(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}/"): each for key, each in values.items() if key.startswith(f"{name}/")}


def _said(name: str, number: float) -> str:
    return f"{name} {number:.3g}"


def _caption(parts: list[str]) -> str:
    return "\n".join(", ".join(parts[start : start + 2]) for start in range(0, len(parts), 2))


@register_task("multitask", uses=("heads", "weights", "weighting", "headline", "label_smoothing", "standardize"))
def make_multitask(config: TaskConfig, facts: TaskFacts) -> Multitask:
    """Return the configured tasks, each made as if it were alone."""
    heads = parse_heads(config.heads)
    if config.weights and len(config.weights) != len(heads):
        raise UsageError(f"task.weights has {len(config.weights)} numbers for {len(heads)} heads")
    fields = fields_of_heads(heads, facts.targets)
    weights = config.weights or (1.0,) * len(heads)
    known: dict[str, TargetFacts] = {**facts.targets, LABEL: facts}
    parts = tuple(
        _part(head, fields[head.name], known[fields[head.name]], weight, config)
        for head, weight in zip(heads, weights, strict=True)
    )
    outputs = sum(part.task.num_outputs for part in parts)
    if facts.outputs not in (None, outputs):
        raise UsageError(f"model.num_classes {facts.outputs} does not go with task.heads, of {outputs}: leave it out")
    if config.weighting == "uncertainty":
        return UncertainMultitask(outputs, parts, chosen=config.headline)
    return Multitask(outputs, parts, config.weighting, config.headline)


def _part(head: HeadSpec, field: str, target: TargetFacts, weight: float, config: TaskConfig) -> Part:
    kind = head.kind
    if head.classes is not None:
        if target.label_kind not in ("class", "segmentation"):
            raise UsageError(
                f"task.heads {head.text}: {head.classes} classes, and {field} has {SAID_OF_KIND[target.label_kind]}"
            )
        if target.label_kind == "class" and len(target.names) > head.classes:
            raise UsageError(
                f"task.heads {head.text}: {field} has {len(target.names)} classes, {', '.join(target.names[:12])}"
            )
    if target.label_kind == "segmentation" and not (head.classes or target.names):
        raise UsageError(f"task.heads {head.text}: say how many classes the pixels have, such as {head.name}:2")
    names = target.names
    if kind == "binary" and target.label_kind == "class" and len(names) < 2:
        names = ("0", "1")
    if head.classes is not None:
        names = (*names, *(str(k) for k in range(len(names), head.classes)))
    counts = (*target.counts, *(0,) * (len(names) - len(target.counts))) if target.counts else ()
    facts = TaskFacts(target.label_kind, names, target.examples, counts, target.mean, target.std)
    if kind is None:
        kind = "classification" if head.classes is not None and target.label_kind == "class" else default_kind(facts)
    if target.label_kind == "boxes":
        raise UsageError(f"task.heads {head.text}: boxes are learned alone, not among several tasks")
    list_tasks()
    passed = [name for name in ("label_smoothing", "standardize") if name in TASKS[kind].uses]
    options: Any = {name: getattr(config, name) for name in passed}
    try:
        task = make_task(TaskConfig(kind=kind, **options), facts)
    except UsageError as error:
        raise UsageError(f"task.heads {head.text}: {error}") from None
    return Part(head.name, field, task, weight, names, target.label_kind)
