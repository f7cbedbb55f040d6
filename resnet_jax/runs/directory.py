"""A run directory: what one training leaves behind. Only this module knows the file names.

========================  =============================================================================================
``config.yaml``           the configuration; ``resnet-jax train config.yaml`` reproduces the run
``data.json``             class names, image shape, normalization, the size of each split and a digest of the labels
``notes.txt``             messages about the data at the start, if any: what was left out, which folder is which split
``start.json``            with ``init_from``: the weights from which the run started; with distillation: those of its
                          teacher
``environment.json``      versions of Python and the packages, and the devices
``.written.json``         a second copy of what the run wrote into config.yaml, data.json, start.json and summary.json
``.lock``                 the process that is training here
``events.jsonl``          what happened to the run: starts, saves, restores, rejected updates, stops; `resnet-jax
                          events`
``.position``             the number of updates the session has done, in 16 bytes; a resumed run reports which are
                          repeated
``fault.json``            if the run diverged: the step, its examples, and where in the network values stopped being
                          finite
``metrics.jsonl``         one line per logged step and per epoch
``tensorboard/``          the same for TensorBoard
``depth.jsonl``           with ``train.depth_every``: the gradient norm at every block, one line per logged step
``task_gradients.jsonl``  with several tasks: the cosine between their gradients at every block; ``task_gradients.png``
                          shows it
``checkpoints/``          ``last`` (to resume) and ``best`` (on validation)
``depth/``                results of ``resnet-jax depth`` for this network, one folder for each of its verbs
``summary.json``          the result; it exists only once the run is finished
``summary-N.json``        the result after N updates, if the run was made longer afterwards
``curves.png``            a figure of metrics.jsonl
``confusion.png``         a figure of confusion.npz
``depth.png``             a figure of depth.jsonl
``confusion.npz``         pairs of true and predicted class that occurred in the test, and how often
``predictions.png``       for multi-label and regression tasks, instead of confusion.png: a figure of test.npz
``examples.png``          for tasks on pixels, boxes and the like: some test examples and their predictions, from
                          examples.npz
``test.npz``              labels and outputs (predictions, for regression) of all test images
========================  =============================================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.steady_file import set_aside
from resnet_jax.runs.config import RunConfig, config_to_yaml, differences, require_same
from resnet_jax.runs.kept import MISSING, Kept, different_fields, read_object, why_damaged
from resnet_jax.runs.links import check_links
from resnet_jax.runs.other_input import MOST_SIDE, OtherInput
from resnet_jax.runs.recipes import list_recipes, load_recipe, parse_config
from resnet_jax.runtime.distribution import versions
from resnet_jax.runtime.events import EventLog
from resnet_jax.runtime.files import write_whole
from resnet_jax.runtime.lock import Held, locked
from resnet_jax.runtime.paths import user_path
from resnet_jax.tasks.facts import TargetFacts

_log = logging.getLogger(__name__)

PACKAGES = ("resnet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a run knows about its data; enough to evaluate and predict without the training images.

    Attributes:
        class_names: class names in label order.
        image_shape: (height, width, channels) that the network sees.
        mean: mean per channel, of x / 255.
        std: standard deviation per channel, of x / 255.
        examples: number of images per split.
        labels: digest of the labels of all splits in order (``runs.data.labels_digest``); empty if it was not stored.
        image_dtype: dtype of the inputs; for dtypes other than uint8, ``mean`` and ``std`` are those of the values
            themselves.
        label_kind: class, multi-label or value (:data:`resnet_jax.data.records.LabelKind`); the names are then those of
            classes, labels or targets.
        label_counts: number of training examples of each class or label; empty for values, or if not stored.
        target_mean: mean of the values to predict over the training examples, one per target.
        target_std: their standard deviation.
        meanings: further fields of the examples -> what they are (:data:`resnet_jax.data.example.Meaning`).
        targets: what is known about the further fields that ``task.heads`` names.
        downscale: the network sees images of ``image_shape`` at 1 / downscale of their sides.
        members: digest of which examples are in which split, if names determined the split; otherwise empty.
        other: what is known about the second input of the examples, if any.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    examples: dict[str, int]
    labels: str = ""
    image_dtype: str = "uint8"
    label_kind: str = "class"
    label_counts: tuple[int, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    meanings: dict[str, str] = dataclasses.field(default_factory=dict)
    members: str = ""
    targets: dict[str, TargetFacts] = dataclasses.field(default_factory=dict)
    downscale: int = 1
    other: OtherInput | None = None

    def same_as(self, other: DatasetInfo) -> bool:
        """Return whether both describe the same data; labels unknown to one of them are not compared."""
        unknown: dict[str, Any] = {"labels": "", "label_counts": (), "target_mean": (), "target_std": ()}
        known = bool(self.labels and other.labels)
        return dataclasses.replace(self, **unknown) == dataclasses.replace(other, **unknown) and (
            not known or self.labels == other.labels
        )


def parse_card(text: str) -> DatasetInfo:
    """Parse the text of a data.json.

    Raises:
        ValueError: if it is invalid; the message names the field.
    """
    from pydantic import TypeAdapter, ValidationError

    raw = read_object(text)
    if strange := set(raw) - {field.name for field in dataclasses.fields(DatasetInfo)}:
        raise ValueError(f"unknown field {min(strange)!r}")
    try:
        card = TypeAdapter(DatasetInfo).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    if not card.image_shape or not all(0 < side <= MOST_SIDE for side in card.image_shape):
        raise ValueError(f"image_shape is {_said(card.image_shape)}")
    return card


def parse_summary(text: str) -> dict[str, Any]:
    """Parse the text of a summary.json.

    Raises:
        ValueError: if it is invalid; the message says why.
    """
    raw = read_object(text)
    for name, kinds in (("steps", (int, float)), ("finished", (str,)), ("params_digest", (str,))):
        if name in raw and not isinstance(raw[name], kinds):
            raise ValueError(f"{name} is {_said(raw[name])}")
    if "steps" not in raw:
        raise ValueError("it does not say how many steps were made")
    return raw


def _said(value: Any) -> str:
    return repr(value)[:40]


def _card_changes(before: DatasetInfo, after: DatasetInfo) -> list[str]:
    return different_fields(dataclasses.asdict(before), dataclasses.asdict(after))


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths and small files of the run at ``path``."""

    path: Path

    def __post_init__(self):
        """Expand ``~`` in the path to the home directory."""
        object.__setattr__(self, "path", user_path(self.path))

    config = property(lambda self: self.path / "config.yaml")
    data = property(lambda self: self.path / "data.json")
    start = property(lambda self: self.path / "start.json")
    notes = property(lambda self: self.path / "notes.txt")
    environment = property(lambda self: self.path / "environment.json")
    corrupt = property(lambda self: self.path / "corrupt.jsonl")
    events = property(lambda self: self.path / "events.jsonl")
    position = property(lambda self: self.path / ".position")
    fault = property(lambda self: self.path / "fault.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    depth = property(lambda self: self.path / "depth.jsonl")
    task_gradients = property(lambda self: self.path / "task_gradients.jsonl")
    task_gradients_picture = property(lambda self: self.path / "task_gradients.png")
    tensorboard = property(lambda self: self.path / "tensorboard")
    checkpoints = property(lambda self: self.path / "checkpoints")
    curves = property(lambda self: self.path / "curves.png")
    gradients = property(lambda self: self.path / "depth.png")
    confusion = property(lambda self: self.path / "confusion.png")
    confusion_counts = property(lambda self: self.path / "confusion.npz")
    predictions = property(lambda self: self.path / "predictions.png")
    test_rows = property(lambda self: self.path / "test.npz")
    examples = property(lambda self: self.path / "examples.npz")
    examples_picture = property(lambda self: self.path / "examples.png")
    looked = property(lambda self: self.path / "depth")
    summary = property(lambda self: self.path / "summary.json")

    @classmethod
    def open(cls, path: Path, config: RunConfig) -> RunDirectory:
        """Create the directory for ``config``, or resume in one that already has the same configuration.

        Raises:
            RunError: if it belongs to another configuration (with the difference), or cannot be written.
        """
        run = cls(path)
        path = run.path
        try:
            path.mkdir(parents=True, exist_ok=True)
            check_links(path)
            if run.config.is_file():
                require_same(run.read_config(), config, where=path)
                if not run.kept.texts(run.config):
                    run.kept.adopt(run.config, run.data, run.start, run.summary)
            else:
                run.kept.forget()
                run.write_config(config)
            write_whole(run.environment, json.dumps(describe_environment(), indent=2) + "\n")
        except OSError as error:
            raise RunError(f"cannot write the run directory {path}: {error.strerror or error}") from error
        return run

    @classmethod
    def existing(cls, path: Path) -> RunDirectory:
        """Return the run at ``path``.

        Raises:
            UsageError: if there is none.
        """
        run = cls(path)
        if not (run.config.is_file() or (run.kept.texts(run.config) and run.saved_step())):
            raise UsageError(f"{path} is not a run directory: it has no {run.config.name}")
        return run

    @property
    def kept(self) -> Kept:
        """What the run wrote to its small files."""
        return Kept(self.path)

    def read_config(self) -> RunConfig:
        """Read config.yaml.

        Raises:
            DamagedError: if it differs from what the run wrote.
            UsageError: if it is from an older version and cannot be read.
        """
        return self.kept.read(self.config, self._parse_config, differences)

    def _parse_config(self, text: str) -> RunConfig:
        return parse_config(text, where=str(self.config))

    def write_config(self, config: RunConfig) -> None:
        """Write config.yaml."""
        self.kept.write(self.config, config_to_yaml(config))

    def mend(self, say: Callable[[str], None]) -> None:
        """Restore config.yaml, data.json, start.json and summary.json, as the run wrote them, if they cannot be read.

        The damaged file is set aside. A missing summary is not restored: the test is run again.

        Args:
            say: called with a line for each.

        Raises:
            OSError: if a file cannot be written.
        """
        for path, parse in (
            (self.config, self._parse_config),
            (self.data, parse_card),
            (self.start, read_object),
            (self.summary, parse_summary),
        ):
            known = self.kept.texts(path)
            reason = why_damaged(path, known, parse) if known else None
            if reason is None or (path == self.summary and not path.is_file()):
                continue
            if reason == MISSING and not self.saved_step():
                continue
            aside = set_aside(path) if os.path.lexists(path) else None
            write_whole(path, known[-1])
            was = "" if aside is None else f"; as it was found it is {aside.name}"
            say(f"warning: {path} is damaged ({reason}): written again as this run wrote it{was}")
            EventLog(self.events).add("damaged", what=path.name, reason=reason, set_aside=aside and aside.name)

    def saved_step(self) -> int:
        """Return the number of updates of the newest checkpoint to resume from; 0 if there is none."""
        folder = self.checkpoints / "last"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of updates per epoch of the run's images; None if data.json does not contain it."""
        examples = self.read_data().examples.get("train") if self.data.is_file() else None
        return None if examples is None else examples // batch_size

    def read_data(self) -> DatasetInfo:
        """Read data.json.

        Raises:
            RunError: if it is missing because the run stopped before it had read its data.
            DamagedError: if it differs from what the run wrote.
        """
        if not self._has(self.data):
            raise RunError(f"{self.path} has no {self.data.name}: the run stopped before it began")
        return self.kept.read(self.data, parse_card, _card_changes)

    def _has(self, path: Path) -> bool:
        """Return whether a small file exists, or should."""
        return path.is_file() or (self.config.is_file() and bool(self.kept.texts(path)))

    def write_data(self, card: DatasetInfo) -> None:
        """Write data.json.

        Raises:
            RunError: if the directory has a different one because the data changed since the run began.
        """
        if self.data.is_file() and not self.read_data().same_as(card):
            raise RunError(
                f"the data is not what it was when {self.path} began (see {self.data.name}); use another run_dir"
            )
        self.kept.write(self.data, json.dumps(dataclasses.asdict(card), indent=2) + "\n")

    def write_notes(self, notes: Sequence[str]) -> None:
        """Write notes.txt, one note per line; nothing if there are none."""
        if notes:
            text = "".join(f"{note}\n" for note in notes)
            write_whole(self.notes, text.encode("utf-8", "backslashreplace").decode())  # of names that are not UTF-8

    def read_start(self) -> dict[str, Any] | None:
        """Return what the run started from, or None if it started from scratch or has not started."""
        return self.kept.read(self.start, read_object, different_fields) if self._has(self.start) else None

    def write_start(self, record: dict[str, Any]) -> None:
        """Write start.json."""
        self.kept.write(self.start, json.dumps(record, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """Return the result, or None if the run is not finished.

        Raises:
            DamagedError: if it differs from what the run wrote.
        """
        return self.kept.read(self.summary, parse_summary, different_fields) if self.summary.is_file() else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        self.kept.write(self.summary, json.dumps(summary, indent=2) + "\n", earlier=4)

    def locked(self, warn: Callable[[str], None] = _log.warning) -> AbstractContextManager[Held]:
        """Keep other processes from training here until the block or this process ends, however that happens.

        Args:
            warn: called if it is necessary to wait to see whether another process is alive.

        Raises:
            RunError: if another process is training here, with details; or the directory cannot be written.
        """
        return locked(self.path, "training", warn)


def default_path(config: RunConfig) -> Path:
    """Return ``runs/RECIPE``, followed by a short hash if the configuration differs from the recipe as shipped.

    The same command always gets the same directory, so running it again resumes; a different command gets another.
    """
    shipped = config.recipe in list_recipes()  # else a file of the user's own, which is not looked for
    changed = differences(load_recipe(config.recipe), config) if shipped else [config_to_yaml(config)]
    if not changed:
        return Path("runs") / config.recipe
    digest = hashlib.sha256("\n".join(changed).encode()).hexdigest()[:8]
    return Path("runs") / f"{Path(config.recipe).stem}-{digest}"


def describe_environment() -> dict[str, Any]:
    """Return versions and devices, for the record."""
    import jax

    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "packages": versions(PACKAGES),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "cpus": os.cpu_count(),
    }
