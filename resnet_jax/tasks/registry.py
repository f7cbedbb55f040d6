"""Tasks by name: the built-in ones and your own, all registered in the same way."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TypeVar, assert_never

from resnet_jax.errors import UsageError, either, unknown
from resnet_jax.runtime.registry import Registry
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import SAID_OF_KIND, TaskFacts
from resnet_jax.tasks.task import Task

Factory = Callable[[TaskConfig, TaskFacts], Task]
F = TypeVar("F", bound=Factory)


@dataclasses.dataclass(frozen=True)
class TaskRule:
    """A kind of task.

    Attributes:
        make: a function from the configuration and the facts about the data to the task.
        uses: fields of :class:`~resnet_jax.tasks.config.TaskConfig` that it reads.
    """

    make: Factory
    uses: frozenset[str]


TASKS: Registry[TaskRule] = Registry("task.kind")
#: Modules that register the built-in tasks, imported on first use.
_OURS = (
    "classification",
    "multilabel",
    "regression",
    "binary",
    "segmentation",
    "detection",
    "multitask",
    "contrastive",
)


def register_task(name: str, *, uses: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Return a decorator that registers the function that makes a task, for ``task.kind``.

    Args:
        name: name of the kind.
        uses: fields of :class:`~resnet_jax.tasks.config.TaskConfig` that it reads; setting any other is an error.

    Raises:
        UsageError: the name is taken, or there is no such field.
    """
    fields = {field.name for field in dataclasses.fields(TaskConfig)} - {"kind"}
    for field in uses:
        if field not in fields:
            raise unknown("field of task", field, sorted(fields))

    def register(factory: F) -> F:
        TASKS[name] = TaskRule(factory, frozenset(uses))
        return factory

    return register


def list_tasks() -> list[str]:
    """Return the kinds of tasks.

    >>> list_tasks()[:4]
    ['classification', 'multilabel', 'regression', 'binary']
    """
    for module in _OURS:
        importlib.import_module(f"resnet_jax.tasks.{module}")
    return [*_OURS, *sorted(set(TASKS) - set(_OURS))]


def make_task(config: TaskConfig, facts: TaskFacts) -> Task:
    """Return the task of a configuration, for the given data.

    Raises:
        UsageError: there is no such kind, it does not fit the labels, or an option is set that it does not use.

    >>> make_task(TaskConfig(), TaskFacts(names=("cat", "dog", "owl"))).num_outputs
    3
    """
    kinds, kind = list_tasks(), config.kind or ("multitask" if config.heads else default_kind(facts))
    rule, default = TASKS[kind], TaskConfig()
    for field in dataclasses.fields(TaskConfig):
        value = getattr(config, field.name)
        if field.name not in ("kind", *rule.uses) and value != getattr(default, field.name):
            users = [name for name in kinds if field.name in TASKS[name].uses]
            said = _changed(field.name, value, getattr(default, field.name))
            raise UsageError(
                f"task.{said} is not used by task.kind {kind}" + (f", but by {either(users)}" if users else "")
            )
    return rule.make(config, facts)


def _changed(name: str, value: object, default: object) -> str:
    """Return what is set in a field, such as ``threshold (0.3,)`` or, in a section, ``detection.nms_iou 0.5``."""
    if not dataclasses.is_dataclass(value):
        return f"{name} {value}"
    changed = (part.name for part in dataclasses.fields(value))
    part = next(part for part in changed if getattr(value, part) != getattr(default, part))
    return f"{name}.{part} {getattr(value, part)}"


def default_kind(facts: TaskFacts) -> str:
    """Return the default kind of task for the labels; one output for two classes means binary."""
    match facts.label_kind:
        case "class":
            return "binary" if facts.num_outputs == 1 and len(facts.names) <= 2 else "classification"
        case "multi-label":
            return "multilabel"
        case "value":
            return "regression"
        case "segmentation":
            return "segmentation"
        case "boxes":
            return "detection"
        case _:
            assert_never(facts.label_kind)


def require_kind(kind: str, facts: TaskFacts, *kinds: str) -> None:
    """Reject labels that do not fit a task.

    Raises:
        UsageError: the labels are of another kind; the message has the task that fits them.
    """
    if facts.label_kind not in kinds:
        found = {**SAID_OF_KIND, "class": "one class each", "multi-label": "rows of 0 and 1", "value": "numbers"}
        raise UsageError(
            f"task.kind {kind} needs labels that are {either([found[name] for name in kinds])}, and those of the data "
            f"are {found[facts.label_kind]}: task.kind {default_kind(facts)} goes with them"
        )


def require_outputs(facts: TaskFacts, what: str, *, more: bool = False) -> None:
    """Reject a given number of outputs that does not fit the data.

    Args:
        facts: facts about the data.
        what: what the names stand for, such as ``classes``.
        more: whether more outputs than names are allowed.

    Raises:
        UsageError: there are fewer outputs than names or, unless allowed, more.
    """
    wanted, there = len(facts.names), facts.num_outputs
    if there < wanted or (there > wanted and not more):
        size = "few" if there < wanted else "many"
        raise UsageError(
            f"model.num_classes {there} is too {size}: the data has {wanted} {what}; leave it out to use their number"
        )


def criterion_of(config: TaskConfig, kind: str, known: tuple[str, ...]) -> str:
    """Return the configured loss, or the first known one if none is set.

    Raises:
        UsageError: the kind of task does not have this loss.
    """
    if config.loss is not None and config.loss not in known:
        raise unknown(f"task.loss of task.kind {kind}", config.loss, known)
    return config.loss or known[0]


def positive_weights_of(config: TaskConfig, positives: tuple[int, ...], facts: TaskFacts) -> tuple[float, ...]:
    """Return the factor on the loss of a positive label, for each label; () for 1.

    Args:
        config: configuration of the task.
        positives: number of training examples with each label.
        facts: facts about the data.

    Raises:
        UsageError: the weights are balanced and a label occurs in none or all of the training examples.
    """
    if config.positive_weights == "none":
        return ()
    if config.positive_weights != "balanced":
        return tuple(float(weight) for weight in config.positive_weights)
    _require_counts("positive_weights", positives)
    for index, count in enumerate(positives):
        if not 0 < count < facts.examples:
            name = facts.names[index] if index < len(facts.names) else index
            raise UsageError(
                f"task.positive_weights balanced: {count} of {facts.examples} training examples have {name}; "
                "give the weights as numbers"
            )
    return tuple((facts.examples - count) / count for count in positives)


def class_weights_of(config: TaskConfig, facts: TaskFacts) -> tuple[float, ...]:
    """Return the factor on the loss of every class; () for 1. Balanced weights are scikit-learn's: n / (K n_k).

    Raises:
        UsageError: the weights are balanced and a class has no training example.
    """
    if config.class_weights == "none":
        return ()
    if config.class_weights != "balanced":
        return tuple(float(weight) for weight in config.class_weights)
    _require_counts("class_weights", facts.counts)
    for name, count in zip(facts.names, facts.counts, strict=True):
        if not count:
            raise UsageError(f"task.class_weights balanced: class {name} has no training example; give the weights")
    present = len(facts.counts)
    weights = tuple(facts.examples / (present * count) for count in facts.counts)
    return weights + (0.0,) * (facts.num_outputs - present)  # outputs without a class


def _require_counts(field: str, counts: tuple[int, ...]) -> None:
    if not counts:
        raise UsageError(f"task.{field} balanced needs the counts of the training labels, and data.json has none")
