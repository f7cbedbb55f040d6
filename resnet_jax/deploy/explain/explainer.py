"""Explain the predictions of a trained network: what each comes from, and how far the explanation can be trusted."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.deploy.explain.forward import behind_frontend, frontend_of, layers_of, network_inputs, probability
from resnet_jax.deploy.explain.methods import METHODS, Settings, explain, integrated
from resnet_jax.deploy.explain.perturbation import Curves, deletion_insertion, random_order
from resnet_jax.deploy.explain.randomized import parts_of, randomization_check
from resnet_jax.deploy.explain.stagewise import stage_activations
from resnet_jax.deploy.explain.targets import Target, choose_target
from resnet_jax.errors import UsageError, unknown
from resnet_jax.runs.trained import TrainedRun, class_names_of, require_normalization, require_one_input
from resnet_jax.tasks.detection import Detection
from resnet_jax.tasks.multitask import Multitask
from resnet_jax.tasks.task import Task

#: Number of images computed at a time.
BATCH = 8
#: If a map is at least this similar to that of the fully randomized network, it shows little of what was learned.
ALIKE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
    """The map of one method for one image.

    Attributes:
        values: at the size of the network's input.
        deletion: probability as the most important cells are removed, (steps + 1,); like the following, empty without
            checks.
        insertion: probability as they are added.
        similarity: to the maps of the network with more and more of its weights randomized.
        completeness: for integrated gradients, the relative difference of their sum from the change of the score.
        steps: for integrated gradients, the number of steps.
    """

    values: np.ndarray
    deletion: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    insertion: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    similarity: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    completeness: float | None = None
    steps: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """The prediction of a network for one image, and where it comes from.

    Attributes:
        name: name of the image.
        image: the network's input before normalization, (*sides, C); for a network of spectrograms, the spectrogram
            with time to the right and low bands at the bottom, as in all maps then.
        answers: predictions, as names and numbers, best first.
        target: name of what is explained.
        probability: probability of the target; for a value, the value.
        maps: maps by method.
        stages: class activation by stage, (*sides) each.
        random: deletion and insertion for random orders (steps + 1,); empty without checks.
        label: true label in words, or empty.
        box: for a box that is explained: top, left, bottom, right in pixels of ``image``.
        region: for pixels that are explained: which ones, bool, at the size of the outputs.
        measure: what ``probability`` and the curves are: ``probability``, or ``output`` for a value as the network
            outputs it, before it has its unit.
    """

    name: str
    image: np.ndarray
    answers: tuple[tuple[str, float], ...]
    target: str
    probability: float
    maps: Mapping[str, Map]
    stages: Mapping[str, np.ndarray]
    random: tuple[np.ndarray, np.ndarray]
    label: str = ""
    box: tuple[float, ...] | None = None
    region: np.ndarray | None = None
    measure: str = "probability"


class Explainer:
    """A network that is ready to explain its predictions; every method is compiled once.

    Args:
        trained: a run as :func:`resnet_jax.runs.trained.load_run` returns it, which may be imported.
        methods: keys of :data:`.METHODS`.
        settings: their settings.
        wanted: name of the class, label or value to explain; None: the network's first prediction.
        head: for a network with several tasks, the head to explain; None: the first.
        checks: whether to run the randomization check, deletion and insertion.

    Raises:
        UsageError: a network of two towers or of text, or no such method, class or head.
    """

    def __init__(
        self,
        trained: TrainedRun,
        methods: Sequence[str] = tuple(METHODS),
        settings: Settings | None = None,
        *,
        wanted: str | None = None,
        head: str | None = None,
        checks: bool = True,
    ):
        require_one_input(trained)
        require_normalization(trained)
        if trained.model.config.frontend == "one_hot":
            raise UsageError(
                f"{trained.path} reads character codes, which have no gradient and no mean, so it cannot be explained"
            )
        for name in methods:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        self.trained, self.methods, self.checks, self.head = trained, tuple(methods), checks, head
        self.settings = Settings() if settings is None else settings
        if self.settings.layer not in layers_of(trained.model):
            raise unknown("layer", self.settings.layer, layers_of(trained.model))
        self.model = behind_frontend(trained.model)
        self.task: Task = trained.task
        self.parts = parts_of(trained.model, trained.variables)
        self.names = self._target_names()
        self.wanted = None if wanted is None else _position(wanted, self.names)

    def _target_names(self) -> tuple[str, ...]:
        if not isinstance(self.task, Multitask):
            if self.head is not None:
                raise UsageError(f"head {self.head!r}: {self.trained.path} has one head; leave it out")
            return class_names_of(self.trained)
        parts = {part.name: part for part in self.task.parts}
        self.head = next(iter(parts)) if self.head is None else self.head
        if self.head not in parts:
            raise unknown("head", self.head, parts)
        return parts[self.head].task.answer_names(parts[self.head].names)

    def _target_name(self, index: int) -> str:
        """Return the name of what is explained; with several heads, the head's name comes first, as in the answers."""
        name = self.names[index] if index < len(self.names) else str(index)
        return name if self.head is None or name == self.head else f"{self.head} {name}"

    def each(self, images: Sequence[tuple[str, np.ndarray, str]]) -> Iterator[Explained]:
        """Yield the explanations of images, given as name, pixels before normalization, and true label in words."""
        size = min(BATCH, len(images))
        for start in range(0, len(images), max(size, 1)):
            part = list(images[start : start + size])
            full = part + [part[-1]] * (size - len(part))  # so that one program serves every batch
            yield from self._batch(part, np.stack([pixels for _, pixels, _ in full]))

    def _batch(self, part: Sequence[tuple[str, np.ndarray, str]], raw: np.ndarray) -> list[Explained]:
        trained, settings = self.trained, self.settings
        model, variables, card = self.model, trained.variables, trained.card
        inputs = network_inputs(jnp.asarray(raw), card.mean, card.std, card.downscale, model.config.dtype)
        inputs = frontend_of(trained.model, inputs)
        spectrogram = trained.model.config.frontend == "log_mel"
        seen = np.asarray(inputs) if spectrogram else raw

        def turned(values: Any) -> np.ndarray:
            """Return an image or a map as displayed: spectrograms with time to the right and low bands at the
            bottom.
            """
            return np.swapaxes(np.asarray(values), 0, 1)[::-1] if spectrogram else np.asarray(values)

        outputs = _outputs(model, variables, inputs)
        target = choose_target(self.task, outputs, self.wanted, self.head)
        likely = np.asarray(probability(model, variables, inputs, target))
        stages = stage_activations(model, variables, inputs, target)
        random = None
        if self.checks:
            random = random_order(model, variables, inputs, target, jax.random.key(settings.seed + 1))
        found = {name: self._maps(name, inputs, target, len(part)) for name in self.methods}
        order = [layer for layer in layers_of(model) if layer in stages]  # a compiled function sorts dicts by key
        index = np.asarray(target.index)
        boxes = _boxes(self.task, outputs, target)
        pairs = self.task.predict(jax.tree.map(np.asarray, outputs), 5)
        said = self.task.answer_names(trained.card.class_names) if isinstance(self.task, Multitask) else self.names
        return [
            Explained(
                name,
                turned(seen[row]),
                tuple((said[at] if at < len(said) else str(at), float(number)) for at, number in pairs[row][:5]),
                self._target_name(int(index[row])),
                float(likely[row]),
                {
                    method: dataclasses.replace(maps[row], values=turned(maps[row].values))
                    for method, maps in found.items()
                },
                {stage: turned(stages[stage][row]) for stage in order},
                _row(random, row),
                label,
                None if boxes is None else tuple(boxes[row].tolist()),
                None if target.region is None else np.asarray(target.region[row]),
                "output" if target.kind == "value" else "probability",
            )
            for row, (name, _, label) in enumerate(part)
        ]

    def _maps(self, name: str, inputs: jax.Array, target: Target, count: int) -> list[Map]:
        model, variables = self.model, self.trained.variables

        def compute(variables: Any) -> jax.Array:
            if name == "integrated_gradients":
                return integrated(model, variables, inputs, target, self.settings, refine=False).values.sum(axis=-1)
            return explain(name, model, variables, inputs, target, self.settings)

        complete: list[tuple[float, int] | tuple[None, None]] = [(None, None)] * count
        if name == "integrated_gradients":
            found = integrated(model, variables, inputs, target, self.settings)
            values = found.values.sum(axis=-1)
            errors, steps = np.asarray(found.relative_error), np.asarray(found.steps)
            complete = [(float(errors[row]), int(steps[row])) for row in range(count)]
        else:
            values = compute(variables)
        if not self.checks:
            empty = np.zeros(0)
            return [Map(np.asarray(values[row]), empty, empty, empty, *complete[row]) for row in range(count)]
        curves = deletion_insertion(model, variables, inputs, target, values)
        alike = randomization_check(compute, variables, self.parts, jax.random.key(self.settings.seed))
        return [
            Map(np.asarray(values[row]), *_row(curves, row), alike.values[:, row], *complete[row])
            for row in range(count)
        ]


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model: Any, variables: Any, inputs: jax.Array) -> Any:
    outputs = model.apply(variables, inputs, train=False)
    return jax.tree.map(
        lambda each: each.astype(jnp.float32) if jnp.issubdtype(each.dtype, jnp.floating) else each, outputs
    )


def _boxes(task: Task, outputs: Any, target: Target) -> np.ndarray | None:
    """Return the boxes that are explained, (N, 4), clipped to the input; None for other targets."""
    if not isinstance(task, Detection) or target.place is None:
        return None
    from resnet_jax.ops.boxes import clipped
    from resnet_jax.tasks.detection import decoded

    rows = jnp.arange(target.place.shape[0])
    boxes = decoded(outputs)[rows, target.place]
    return np.asarray(clipped(boxes, outputs["size"]))


def _row(curves: Curves | None, row: int) -> tuple[np.ndarray, np.ndarray]:
    if curves is None:
        return np.zeros(0), np.zeros(0)
    return np.asarray(curves.deletion[row]), np.asarray(curves.insertion[row])


def _position(wanted: str, names: Sequence[str]) -> int:
    if wanted in names:
        return list(names).index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise unknown("class", wanted, names)


def mean_area(curves: Sequence[np.ndarray]) -> float:
    """Return the mean area under curves; NaN if there are none."""
    from resnet_jax.deploy.explain.perturbation import area

    known = [curve for curve in curves if len(curve)]
    return float(area(np.stack(known)).mean()) if known else math.nan
