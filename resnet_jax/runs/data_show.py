"""What a network is shown of a data set: examples as they are stored, and as the training step sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.example import MEANING_OF_RANK, Example, Meaning, fields_of
from resnet_jax.data.look import source_of
from resnet_jax.data.order import Order
from resnet_jax.data.records import Source, Subset
from resnet_jax.data.rng import SHUFFLE, permutation
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import Splits, whole
from resnet_jax.data.transforms import divide, write_transform
from resnet_jax.data.view import View
from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.contact_sheet import Seen, Sheet, Shown
from resnet_jax.report.example_axes import Style
from resnet_jax.report.numbers import short_number
from resnet_jax.runs.chosen import difference
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import Pixels, describe_images, geometry_of, load_splits
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.preparation import train_preparation
from resnet_jax.runs.recipes import list_recipes, load_recipe
from resnet_jax.tasks.facts import LabelKind

SPLITS = ("train", "val", "test")
#: The share from which a class in a mixed label is named.
LEAST_SHARE = 0.005


@dataclasses.dataclass(frozen=True)
class Which:
    """Which examples are shown.

    Attributes:
        split: train, val, test, or all for an undivided source; None for train, or all.
        count: number of examples.
        epoch: the training epoch, counted from 0.
        step: the step of the epoch, counted from 0, whose batch is shown.
    """

    split: str | None = None
    count: int = 12
    epoch: int = 0
    step: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """What a word refers to: a run directory, a recipe, or a data set.

    Attributes:
        what: description for the title.
        config: configuration of the run or recipe; for a data set, one that only names it.
        card: what a run knows about its data.
        bare: whether it is only a data set.
    """

    what: str
    config: RunConfig
    card: DatasetInfo | None = None
    bare: bool = False


def named(word: str) -> Named:
    """Return what a word refers to.

    Raises:
        UsageError: for a recipe that cannot be read, or a malformed source.
        DataError: for a path that is not a data set.
        RunError: for a run that has not read its data.
    """
    path = Path(word).expanduser()
    if (path / "config.yaml").is_file():
        run = RunDirectory.existing(path)
        return Named(f"run {path.resolve().name}", run.read_config(), run.read_data())
    if (word in list_recipes() and word != "digits") or word.endswith((".yaml", ".yml")):
        config = load_recipe(word)
        return Named(f"recipe {config.recipe}", config)
    if word == "digits":
        return Named("recipe digits", load_recipe(word))
    source = source_of(word)
    config = RunConfig()
    return Named(source, dataclasses.replace(config, data=dataclasses.replace(config.data, source=source)), bare=True)


def sheet_of_source(config: RunConfig, which: Which) -> Sheet:
    """Return a sheet of examples of a data set as stored, in an order determined by the seed.

    Args:
        config: names the source and says how it is read.
        which: the examples, from a split of the source.

    Raises:
        UsageError: if it has no such split.
        DataError: if it cannot be read.
    """
    data = config.data
    dataset = load_dataset(data.place, data.reading(least_classes=1))
    split = which.split or ("all" if "all" in dataset.splits else "train")
    if split not in dataset.splits:
        raise UsageError(f"{data.place} has no split {split!r} of its own: it has {', '.join(dataset.splits)}")
    records = dataset.splits[split]
    chosen = _some(records, which.count, config.seed)
    stored, names = [records[index] for index in chosen.tolist()], _told(dataset.class_names)
    shown = [
        Shown(records.describe(index), _state(example, records.labels[index], dataset.kind, names))
        for index, example in zip(chosen.tolist(), stored, strict=True)
    ]
    said = f"{len(shown)} of {len(records):,} examples, as stored: {_fields(records)}"
    title = f"Examples of {_short(data.place)}, split {split}"
    return Sheet(title, (said, *_notes(dataset.notes)), shown, _style(records, stored, names, config.data.shown_bands))


def sheet_of_config(named: Named, config: RunConfig, which: Which) -> Sheet:
    """Return a sheet of examples of a run's data: each as stored and, beside it, as the network sees it.

    For train, this is the batch of a step of a run with this configuration: the same examples with the same random
    draws. For val and test, it is some examples in an order determined by the seed, prepared as in evaluation.

    Args:
        named: the run or recipe.
        config: its configuration, with changes.
        which: the examples.

    Raises:
        UsageError: if there is no such split.
        DataError: if the data cannot be read or split.
        RunError: if the data of the run has changed.
    """
    split = which.split or "train"
    splits, class_names = _undivided(config) if split == "all" else load_splits(config)
    if named.card is not None and split != "all" and (changed := difference(named.card, splits, class_names)):
        raise RunError(f"{config.data.place} is not what it was when {named.what} was trained: {changed}")
    found = splits.train if split == "all" else getattr(splits, split, None) if split in SPLITS else None
    if found is None:
        there = ", ".join(name for name in SPLITS if getattr(splits, name) is not None)
        raise UsageError(f"there is no split {split!r}: there are {there}")
    records: Source = found
    geometry, training = geometry_of(config.data), split in ("train", "all")
    view = View(records, geometry, training=training, seed=config.seed)
    card = named.card or _card(config, splits, class_names, view)
    if training:
        batch, said = _training_rows(config, records, which)
    else:
        index = _some(records, which.count, config.seed)
        batch = {"index": index, "epoch": np.zeros(len(index), np.int64)}
        said = f"{len(index)} of {len(records):,} examples, as evaluation prepares them"
    index, epoch = batch["index"], batch["epoch"]
    arrays = {**view.examples(index, epoch), "label": records.labels[index]}
    rows = {name: jnp.asarray(values) for name, values in arrays.items()}
    rows |= {"index": jnp.asarray(index, jnp.int32), "epoch": jnp.asarray(epoch, jnp.int32)}
    if training:
        prepare = train_preparation(config, card, len(class_names))
        made = jax.jit(prepare)(jax.random.split(jax.random.key(config.seed))[1], rows)
        seen = {name: np.asarray(values) for name, values in made.items()}
        seen["image"] = unnormalized(seen["image"], card)
    else:
        seen = {name: np.asarray(values) for name, values in rows.items()}
    names, kind = _told(class_names), splits.kind
    shown, stored = [], []
    for row, number in enumerate(index[: which.count].tolist()):
        stored.append(records[number])
        after = {name: values[row] for name, values in seen.items() if name not in ("index", "epoch", "label")}
        shown.append(
            Shown(
                records.describe(number),
                _state(stored[-1], records.labels[number], kind, names),
                _state(after, seen["label"][row], kind, names),
            )
        )
    place = _short(config.data.place)
    title = f"{place}, {split}" if named.bare else f"{named.what}: {place}, {split}"
    title = f"Examples as stored and as the network sees them: {title}"
    lines = (said, _steps(config, training, view, card), *_notes(splits.notes))
    return Sheet(title, lines, shown, _style(records, stored, names, config.data.shown_bands))


def _undivided(config: RunConfig) -> tuple[Splits, tuple[str, ...]]:
    """Return all examples of an undivided source as training examples, and the class names."""
    data = config.data
    dataset = load_dataset(data.place, data.reading(config.model.changes.get("in_channels"), least_classes=1))
    return Splits(whole(dataset), None, None, dataset.notes, dataset.kind), dataset.class_names


def _training_rows(config: RunConfig, records: Source, which: Which) -> tuple[dict[str, np.ndarray], str]:
    """Return positions and epochs of the first rows of a batch, an even number if examples are mixed in pairs."""
    size, repeats = min(config.train.batch_size, len(records)), config.data.repeats
    size = max(size // repeats, 1) * repeats
    order = Order(records.labels, size, seed=config.seed, sampling=config.data.sampling)
    if which.step >= order.steps_per_epoch:
        raise UsageError(
            f"step {which.step} is not one of the {order.steps_per_epoch:,} of an epoch, 0 to "
            f"{order.steps_per_epoch - 1:,}"
        )
    index, epoch = order.at(which.epoch * order.steps_per_epoch + which.step)
    count = min(which.count + which.count % 2, size)
    if count < which.count:
        raise UsageError(f"count {which.count} is more than the {size} examples of a batch")
    smaller = "" if size == config.train.batch_size else f"; train.batch_size is {config.train.batch_size}"
    said = (
        f"the first {which.count} of the {size} examples in the batch of step {which.step} (of "
        f"{order.steps_per_epoch:,} in epoch {which.epoch}; seed {config.seed}); {len(records):,} examples in "
        f"all{smaller}"
    )
    said += "; classes drawn equally often" if config.data.balance == "classes" else ""
    said += f"; each image {repeats} times in the batch" if repeats > 1 else ""
    return {"index": index[:count], "epoch": epoch[:count]}, said


def _card(config: RunConfig, splits: Splits, class_names: tuple[str, ...], view: View) -> DatasetInfo:
    """Return what a run would know about its data; mean and deviation are computed if the configuration has none."""
    dtype, geometry = view.fields["image"][1].name, geometry_of(config.data)
    pixels = Pixels(splits, class_names, view.shape, geometry, splits.train[0]["image"].shape, dtype)
    return describe_images(pixels, config.data).card


def unnormalized(images: np.ndarray, card: DatasetInfo) -> np.ndarray:
    """Return inputs as stored, from normalized ones: times the standard deviation, plus the mean.

    >>> card = DatasetInfo(("a", "b"), (1, 1, 1), (0.5,), (0.25,), {})
    >>> unnormalized(np.array([[[[-2.0]]], [[[1.0]]]]), card).ravel().tolist()
    [0, 191]
    """
    mean, std = (np.asarray(values, np.float64) for values in (card.mean, card.std))
    values = images.astype(np.float64) * std + mean
    return np.rint(np.clip(values * 255, 0, 255)).astype(np.uint8) if card.image_dtype == "uint8" else values


def _some(records: Source, count: int, seed: int) -> np.ndarray:
    return permutation(len(records), seed, SHUFFLE)[:count]


def _state(example: Example, label: np.ndarray, kind: LabelKind, names: Sequence[str]) -> Seen:
    fields = {name: np.asarray(values) for name, values in example.items() if name != "label"}
    return Seen(fields, _say_label(np.asarray(label), kind, names))


def _told(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names, marked to distinguish them from other numbers on a sheet."""
    return tuple(f"class {name}" if name.isdecimal() else name for name in names)


def _say_label(label: np.ndarray, kind: LabelKind, names: Sequence[str]) -> str:
    """Describe a label; if images were mixed, with the shares of its classes, largest first."""
    if kind in ("segmentation", "boxes"):
        return ""
    if kind == "value":
        values = zip(names, np.atleast_1d(label).tolist(), strict=False)
        return ", ".join(f"{name} {short_number(value)}" for name, value in values)
    if label.ndim == 0:
        return names[int(label)]
    order = np.argsort(-label, kind="stable")
    shares = [(str(names[int(k)]), float(label[k])) for k in order.tolist() if label[k] >= LEAST_SHARE]
    if all(share == 1 for _, share in shares):
        return " + ".join([name for name, _ in shares]) or "no label"
    return "\n".join(f"{share * 100:.0f} % {name}" for name, share in shares)


def _style(records: Source, stored: Sequence[Example], names: Sequence[str], bands: tuple[int, ...]) -> Style:
    """Return how to draw examples: bytes from 0 to 255, other numbers between the 0.5th and 99.5th percentile."""
    spec = fields_of(records.spec)
    meanings: dict[str, Meaning] = {name: field.meaning for name, field in spec.items()}
    first = stored[0]["image"]
    meanings["image"] = cast(Meaning, MEANING_OF_RANK.get(first.ndim, "array"))
    low, high = 0.0, 255.0
    if first.dtype != np.uint8 or meanings["image"] == "signal":
        values = np.concatenate([np.asarray(one["image"], np.float64).ravel() for one in stored])
        values = values[np.isfinite(values)]
        ends = (0.0, 100.0) if meanings["image"] == "signal" else (0.5, 99.5)
        low, high = (float(end) for end in np.percentile(values, ends)) if len(values) else (0.0, 1.0)
    return Style(names, meanings, low, high if high > low else low + 1, _rate(records), bands)


def _rate(records: Source) -> int | None:
    """Return the sampling rate of sounds, which their source knows."""
    while isinstance(records, Subset):
        records = records.records
    return getattr(records, "rate", None)


def _steps(config: RunConfig, training: bool, view: View, card: DatasetInfo) -> str:
    """List what is done to an example, in order."""
    found, size = divide(config.data.augment), config.data.image_size
    resize = config.data.resize
    normalized = "normalized by mean " + " ".join(f"{value:.3g}" for value in card.mean)
    normalized += ", deviation " + " ".join(f"{value:.3g}" for value in card.std) + " (undone in the picture)"
    if not training:
        sized = [] if size is None else [f"brought to {size}x{size}"]
        sized += [] if resize is None else [f"brought to {resize[0]}x{resize[1]}"]
        return "seen after, in order: " + ", ".join([*sized, normalized])
    host = [write_transform(one) for one in found.before]
    if size is not None:
        host.append(f"random_resized_crop to {size}x{size}" if found.random_resized else f"brought to {size}x{size}")
    host += [] if resize is None else [f"brought to {resize[0]}x{resize[1]}"]
    host += [write_transform(one) for one in found.after]
    device, done = [], False
    for one in found.device:
        if getattr(one, "needs", "any") == "normalized" and not done:
            device.append(normalized)
            done = True
        device.append(write_transform(one))
    device += [] if done else [normalized]
    where = [f"on the host {', '.join(host)}"] if host else []
    where.append(f"on the device {', '.join(device)}")
    sides = "x".join(str(side) for side in view.shape)
    return f"seen as {sides} after, in order: {'; '.join(where)}"


def _fields(records: Source) -> str:
    """Describe the fields of an example."""
    spec = fields_of(records.spec)
    sides = {name: "x".join("?" if side is None else str(side) for side in field.shape) for name, field in spec.items()}
    return ", ".join(f"{name} {field.dtype} {sides[name]} ({field.meaning})" for name, field in spec.items())


def _notes(notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"note: {note}" for note in notes)


def _short(source: str) -> str:
    """Return a source without the directories of its path, since a picture may be shared."""
    kind, colon, path = source.partition(":")
    return f"{kind}{colon}{Path(path).name}"
