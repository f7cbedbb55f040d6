"""The metadata of an exported file: classes, input, network, task, license, digest.

The keys are the same in every format and begin with ``resnet_jax.``. The values are strings, in JSON if they have more
than one word. ONNX stores them in ``metadata_props``, safetensors in ``__metadata__``, and the zip file of a jax export
in a file ``metadata.json``.

================================  =====================================================================================
key                               value
================================  =====================================================================================
``resnet_jax.classes``            JSON list: names of the outputs in order; for a binary output, those of no and yes
``resnet_jax.preprocessing``      JSON object: the fields of :class:`Preprocessing`; ``height``, ``width`` of images
``resnet_jax.network``            JSON object: ``name``, and ``config``, the fields of :class:`ResNetConfig`
``resnet_jax.task``               JSON object: ``kind``, ``options`` (``task.*`` of the run), ``facts`` (of the labels)
``resnet_jax.licence``            the license as stated by the exporter; empty if not stated
``resnet_jax.digest``             SHA-256 of the run's parameters and statistics (:func:`.models.digest.params_digest`)
``resnet_jax.created_by``         this package and its version
================================  =====================================================================================
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from resnet_jax import __version__
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.runs.trained import TrainedRun, class_names_of
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.tasks.facts import TaskFacts
from resnet_jax.tasks.registry import make_task
from resnet_jax.tasks.task import Task

T = TypeVar("T")

PREFIX = "resnet_jax."
#: Options of a task that only its loss uses, or that need the training data.
_OF_TRAINING = ("class_weights", "positive_weights", "distill")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The input that a graph expects, and how to turn an image into it.

    Attributes:
        takes: ``normalized``: the caller passes (x / scale - mean) / std; ``pixels``: the caller passes x and the graph
            normalizes it.
        dtype: dtype of the input: float32, or for pixels the dtype of the stored images (uint8).
        layout: ``channels_first``: (N, C, *sides); ``channels_last``: (N, *sides, C).
        sides: sides of an input; for images height and width.
        any_sides: whether the graph also takes inputs of other sizes.
        channels: channels of an input.
        scale: divisor of x: 255 for uint8, otherwise 1.
        mean: per channel, of x / scale; empty if unknown.
        std: per channel, of x / scale.
        shorter_side: length to which the shorter side of an image of another size is resized before the center of
            ``sides`` is cropped; None: no such rule.
        resize: height and width to which an image of another size is stretched; None: no such rule.
    """

    takes: Literal["normalized", "pixels"]
    dtype: str
    layout: Literal["channels_first", "channels_last"]
    sides: tuple[int, ...]
    any_sides: bool
    channels: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter_side: int | None = None
    resize: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(*sides, channels) of one input in this package's layout, whatever the graph's layout."""
        return (*self.sides, self.channels)

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Return stored values (N, *sides, C) normalized for the network, float32.

        Raises:
            UsageError: the normalization is not known.
        """
        if not self.mean:
            raise UsageError("the artefact does not say how its inputs are normalized")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return ((pixels.astype(np.float32) / np.float32(self.scale) - mean) / std).astype(np.float32)

    def as_json(self) -> str:
        """Return the JSON text; for images it also contains ``height`` and ``width``."""
        named = dict(zip(("height", "width"), self.sides, strict=True)) if len(self.sides) == 2 else {}
        return json.dumps({**named, **dataclasses.asdict(self)})


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file.

    Attributes:
        classes: names of the outputs; empty for a network without a classifier, or if unknown.
        preprocessing: its input.
        network: ``name`` and ``config``.
        task: ``kind``, ``options`` and ``facts``, from which :meth:`make_task` creates the task.
        licence: license as stated; may be empty.
        digest: digest of the run's parameters.
        created_by: this package and its version.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    network: dict[str, Any]
    task: dict[str, Any]
    licence: str
    digest: str
    created_by: str

    @classmethod
    def of(cls, trained: TrainedRun, preprocessing: Preprocessing, licence: str = "") -> Metadata:
        """Return the metadata for an export of a run.

        Args:
            trained: the run.
            preprocessing: the input of its graph.
            licence: license of the weights, as stated by the exporter.
        """
        try:
            classes = class_names_of(trained)
        except UsageError:  # it has no classifier, or the meaning of its one output is not known
            classes = ()
        config = trained.model.config
        return cls(
            classes,
            preprocessing,
            _plain({"name": trained.config.model.name, "config": dataclasses.asdict(config)}),
            _plain(_task_note(trained, classes)),
            licence,
            params_digest(trained.variables["params"], trained.variables.get("batch_stats", {})),
            f"resnet_jax {__version__}",
        )

    def as_texts(self) -> dict[str, str]:
        """Return the metadata as strings by key."""
        return {
            f"{PREFIX}classes": json.dumps(self.classes),
            f"{PREFIX}preprocessing": self.preprocessing.as_json(),
            f"{PREFIX}network": json.dumps(self.network),
            f"{PREFIX}task": json.dumps(self.task),
            f"{PREFIX}licence": self.licence,
            f"{PREFIX}digest": self.digest,
            f"{PREFIX}created_by": self.created_by,
        }

    @classmethod
    def read(cls, texts: Mapping[str, str], source: object) -> Metadata:
        """Read the result of :meth:`as_texts`.

        Args:
            texts: strings by key; other keys are ignored.
            source: the file, for messages.

        Raises:
            DataError: a key is missing or its value is invalid.
        """
        wanted = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in wanted if PREFIX + name not in texts]
        if missing:
            raise DataError(
                f"{source}: no {PREFIX}{missing[0]} in its metadata: it was not written by `resnet-jax export`"
            )
        classes = _parsed(texts, "classes", tuple[str, ...], source)
        network = _parsed(texts, "network", dict[str, Any], source)
        task = _parsed(texts, "task", dict[str, Any], source)
        plain = {name: texts[PREFIX + name] for name in ("licence", "digest", "created_by")}
        return cls(classes, _parsed(texts, "preprocessing", Preprocessing, source), network, task, **plain)

    def make_task(self) -> Task:
        """Create the task that interprets the outputs: :meth:`Task.predict`, probabilities and so on.

        Raises:
            DataError: the metadata are damaged, or the task is not registered here.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            options = TypeAdapter(TaskConfig).validate_python({"kind": self.task["kind"], **self.task["options"]})
            facts = TypeAdapter(TaskFacts).validate_python({"names": self.classes, **self.task["facts"]})
            return make_task(options, facts)
        except (KeyError, TypeError, ValidationError, UsageError) as error:
            raise DataError(f"the metadata {PREFIX}task do not tell a task: {error}") from error


def preprocessing_of(
    trained: TrainedRun,
    *,
    takes: Literal["normalized", "pixels"],
    layout: Literal["channels_first", "channels_last"],
    any_sides: bool = False,
) -> Preprocessing:
    """Return the input of a graph of a run.

    Args:
        trained: the run.
        takes: see :class:`Preprocessing`.
        layout: likewise.
        any_sides: likewise.
    """
    card, geometry = trained.card, trained.geometry
    *sides, channels = card.image_shape
    return Preprocessing(
        takes=takes,
        dtype=card.image_dtype if takes == "pixels" else "float32",
        layout=layout,
        sides=tuple(sides),
        any_sides=any_sides,
        channels=channels,
        scale=255.0 if card.image_dtype == "uint8" else 1.0,
        mean=tuple(card.mean),
        std=tuple(card.std),
        shorter_side=None if geometry.image_size is None else geometry.shorter_side,
        resize=geometry.resize,
    )


def _task_note(trained: TrainedRun, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the kind of task, its options that are not the default, and what it knows about the labels."""
    card, config = trained.card, trained.config.task
    values, usual = dataclasses.asdict(config), dataclasses.asdict(TaskConfig())
    options = {
        name: value for name, value in values.items() if name not in ("kind", *_OF_TRAINING) and value != usual[name]
    }
    facts: dict[str, Any] = {
        "label_kind": card.label_kind,
        "mean": card.target_mean,
        "std": card.target_std,
        "outputs": trained.config.model.changes.get("num_classes"),
        "targets": {name: dataclasses.asdict(target) for name, target in card.targets.items()},
    }
    if card.class_names != classes:
        facts["names"] = card.class_names
    return {"kind": trained.task.kind, "options": options, "facts": {k: v for k, v in facts.items() if v or v == 0}}


def _plain(value: Any) -> Any:
    """Return the value after a round trip through JSON."""
    return json.loads(json.dumps(value))


def _parsed(texts: Mapping[str, str], name: str, kind: type[T], source: object) -> T:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(texts[PREFIX + name])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{source}: {PREFIX}{name} in its metadata is damaged: {where}: {first['msg']}") from error
