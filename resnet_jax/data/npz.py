"""``npz:PATH``: arrays in one NumPy file, and the same arrays from Python (`load_arrays`).

Either ``x`` and ``y`` (one split, ``all``), or ``x_train``, ``y_train`` with ``x_test``, ``y_test`` or ``x_val``,
``y_val`` or both; MedMNIST's ``train_images``, ``train_labels`` and so on are read as these. A file with only
``x_test`` and ``y_test`` can be evaluated.

**Inputs** ``x`` are images (N, H, W) or (N, H, W, C), signals (N, L, C) or volumes (N, D, H, W, C), of any numeric
dtype; a string ``meaning`` (image, signal or volume) resolves ambiguous shapes (see `arrays.checked_images`).
**Labels** ``y`` are integers 0..K-1, which a string array ``class_names`` may name (otherwise "0" .. "K-1" with K from
the largest label of all splits); rows of zeros and ones (N, K) for multi-label, named by ``label_names``; or values to
predict, (N,) or (N, M), named by ``target_names``. **Other arrays** with one row per example, such as
``segmentation_mask`` (in a file with splits ``segmentation_mask_train`` and so on), are further fields of the examples.
What is left out is reported in the notes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from resnet_jax.data.arrays import VALUES_HINT, class_hint, on_devices
from resnet_jax.data.decode import to_channels
from resnet_jax.data.example import MEANING_OF_RANK, RESERVED, Meaning
from resnet_jax.data.formats import HEAD_BYTES, Format, identify
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError
from resnet_jax.runtime.limits import CLASSES
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.runtime.plain_numpy import PickledError, read_either
from resnet_jax.tasks.facts import LabelKind

OTHER_NAMES: dict[str, LabelKind] = {"label_names": "multi-label", "target_names": "value"}
EXPECTED = "x and y, or x_train, y_train, x_test, y_test (and x_val, y_val); class_names may be added"
_MEDMNIST = {"images": "x", "labels": "y"}
_SPLITS = {"train": "_train", "val": "_val", "test": "_test"}


def load_npz(
    path: str,
    channels: int | None = None,
    least_classes: int = 2,
    *,
    meaning: Meaning | None = None,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
) -> Dataset:
    """Read the arrays of the file into memory; see the module for its contents.

    Args:
        path: path of the file.
        channels: as in :func:`load_arrays`.
        least_classes: as in :func:`load_arrays`.
        meaning: meaning of the inputs, if the file does not contain it.
        class_names: class names, if the file has none.
        name: name of the data set; default ``npz:PATH``.

    Raises:
        DataError: if it does not exist, is not an .npz file, or contains Python objects or unexpected arrays.
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    if meaning is not None:
        arrays.setdefault("meaning", np.array(meaning))
    if class_names is not None:
        arrays.setdefault("class_names", np.array(class_names))
    return _dataset(arrays, str(file), name or f"npz:{path}", channels, least_classes)


@register_source("npz", form="npz:PATH")
def _load(location: str, reading: Reading, /) -> Dataset:
    return load_npz(location, reading.channels, reading.least_classes)


def load_arrays(
    data: tuple[ArrayLike, ArrayLike] | Mapping[str, Any],
    *,
    name: str = "arrays",
    channels: int | None = None,
    least_classes: int = 2,
) -> Dataset:
    """Make a data set from arrays in memory.

    Args:
        data: inputs and labels, ``(x, y)``, or a dict with the contents of an .npz file; see the module.
        name: name of the data set.
        channels: 1 or 3, to convert inputs with three channels or one; None to keep them.
        least_classes: two for training, which must distinguish classes; one for examples to evaluate a network on.

    Raises:
        DataError: for arrays that cannot be examples; the message says what is expected.

    >>> data = load_arrays((np.zeros((4, 100, 2), np.float32), [0, 1, 0, 1]))
    >>> data.kind, data.splits["all"].spec["image"]
    ('class', Field(shape=(100, 2), dtype='float32', meaning='signal'))
    """
    if not isinstance(data, Mapping):
        if not isinstance(data, tuple) or len(data) != 2:
            raise DataError(f"{name}: need (x, y), or a dict of arrays with {EXPECTED}; got {type(data).__name__}")
        data = {"x": data[0], "y": data[1]}
    arrays = {key: np.asarray(value) for key, value in data.items()}
    return _dataset(arrays, name, name, channels, least_classes)


def _dataset(arrays: dict[str, np.ndarray], file: str, name: str, channels: int | None, least_classes: int) -> Dataset:
    arrays = _medmnist(arrays)
    suffixes = _suffixes(arrays, file, evaluated=least_classes == 1)
    for suffix in suffixes.values():
        for key in (f"x{suffix}", f"y{suffix}"):
            if key not in arrays:
                raise DataError(
                    f"{file}: no array {key!r}; found {', '.join(arrays) or 'none'}; need {EXPECTED}{_renaming(arrays)}"
                )
    meaning = _meaning_of_inputs(arrays, file)
    further, left_out = _further(arrays, suffixes)
    splits: dict[str, ArrayRecords] = {}
    greyed = []
    for split, suffix in suffixes.items():
        labels = _rows_or_values(arrays[f"y{suffix}"], arrays, f"y{suffix} of {file}")
        fields = {key: on_devices(arrays[f"{key}{suffix}"]) for key in further}
        where = f"x{suffix} and y{suffix} of {file}"
        records = ArrayRecords(arrays[f"x{suffix}"], labels, name=where, fields=fields, meaning=meaning)
        if channels is not None and records.images.shape[-1] != channels:
            if not {channels, records.images.shape[-1]} <= {1, 3}:
                raise DataError(
                    f"{where}: images have {records.images.shape[-1]} channels and {channels} are wanted; only 1 and 3 "
                    "are turned into each other"
                )
            greyed += [f"x{suffix}"] if channels < records.images.shape[-1] else []
            records = dataclasses.replace(records, images=to_channels(records.images, channels))
        splits[split] = records
    kind = _kind(arrays, splits)
    names = _names(kind, arrays, suffixes, splits, file)
    notes = _notes(further, left_out, suffixes, splits)
    if greyed:
        notes = (*notes, f"{', '.join(greyed)} is RGB, converted to gray: the network takes 1 channel")
    origins = {} if "all" in suffixes else {split: f"x{suffix}" for split, suffix in suffixes.items()}
    return Dataset(name, splits, names, notes, origins, least_classes, kind)


def _medmnist(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return MedMNIST's arrays under our names; other arrays unchanged.

    J. Yang et al., MedMNIST v2, Scientific Data 2023: ``train_images`` (N, ...), ``train_labels`` (N, 1) for classes or
    (N, K) for multi-label, and so on for val and test. Its 3-D sets are gray volumes (N, D, H, W).
    """
    if not any({f"{split}_images", f"{split}_labels"} <= arrays.keys() for split in _SPLITS):
        return arrays
    renamed = {f"{split}_{old}": f"{new}{end}" for split, end in _SPLITS.items() for old, new in _MEDMNIST.items()}
    found = {renamed.get(key, key): value for key, value in arrays.items()}
    for end in _SPLITS.values():
        labels = found.get(f"y{end}")
        if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
            found[f"y{end}"] = labels[:, 0]
        inputs = found.get(f"x{end}")
        if inputs is not None and inputs.ndim == 4 and len(set(inputs.shape[1:])) == 1 and inputs.shape[-1] > 4:
            found.setdefault("meaning", np.array("volume"))
    return found


def _meaning_of_inputs(arrays: Mapping[str, np.ndarray], file: str) -> Meaning | None:
    if "meaning" not in arrays:
        return None
    found = str(arrays["meaning"][()])
    for meaning in MEANING_OF_RANK.values():
        if found == meaning:
            return meaning
    raise DataError(f"{file}: meaning is {found!r}; need one of {', '.join(MEANING_OF_RANK.values())}")


def _rows_or_values(labels: np.ndarray, arrays: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """Return labels as float32 if their names mark them as values or multi-label."""
    named = [key for key in ("class_names", *OTHER_NAMES) if key in arrays]
    if len(named) > 1:
        raise DataError(f"{where}: found {' and '.join(named)}; labels are of one kind: keep one of them")
    if named and named[0] in OTHER_NAMES:
        if labels.dtype.kind not in "biuf":
            raise DataError(f"{where}: labels are {labels.dtype} {labels.shape}; with {named[0]} they are numbers")
        return labels.astype(np.float32)
    return labels


def _kind(arrays: Mapping[str, np.ndarray], splits: Mapping[str, ArrayRecords]) -> LabelKind:
    """Return what the labels are, according to their names, or because nothing else is possible."""
    for key, kind in OTHER_NAMES.items():
        if key in arrays:
            return kind
    parts = [records.labels for records in splits.values()]
    if "class_names" in arrays or any(labels.dtype.kind != "f" for labels in parts):
        return "class"
    if all(labels.ndim == 2 and np.isin(labels, (0, 1)).all() for labels in parts):
        one_hot = all((labels.sum(axis=1) == 1).all() for labels in parts)
        return "class" if one_hot else "multi-label"
    return "value" if any((labels != np.round(labels)).any() for labels in parts) else "class"


def _names(
    kind: LabelKind,
    arrays: Mapping[str, np.ndarray],
    suffixes: Mapping[str, str],
    splits: Mapping[str, ArrayRecords],
    file: str,
) -> tuple[str, ...]:
    if kind != "class":
        for key in OTHER_NAMES:
            if key in arrays:
                return _texts(key, arrays[key], file)
        labels = next(iter(splits.values())).labels
        if labels.ndim == 1:
            return ("value",)
        return tuple(str(column) for column in range(int(np.prod(labels.shape[1:]))))
    if "class_names" in arrays:
        return _class_names(arrays["class_names"], splits, file)
    for split, records in splits.items():
        _require_integers(records, f"y{suffixes[split]} of {file}")
    classes = max(int(r.labels.max()) for r in splits.values()) + 1
    if classes > CLASSES.value:
        raise DataError(
            f"{file}: the largest label is {classes - 1:,}, so there would be {classes:,} classes, {CLASSES.how}; "
            f"labels count from 0 on without gaps, as np.unique(y, return_inverse=True)[1] does; {VALUES_HINT}"
        )
    return tuple(str(c) for c in range(classes))


def _further(arrays: Mapping[str, np.ndarray], suffixes: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the names of further fields of the examples, and those of ignored arrays."""
    used = {"class_names", "meaning", *OTHER_NAMES, *(f"{key}{end}" for key in "xy" for end in suffixes.values())}
    others = [key for key in arrays if key not in used]
    ends = tuple(suffixes.values())
    stems = dict.fromkeys(key.removesuffix(end) for key in others for end in ends if key.endswith(end))
    fields = []
    for stem in stems:
        parts = [(arrays.get(f"{stem}{end}"), len(arrays[f"x{end}"])) for end in ends]
        fits = all(part is not None and part.ndim and len(part) == count for part, count in parts)
        numbers = all(part is not None and part.dtype.kind in "biuf" for part, _ in parts)
        if stem and stem not in (*RESERVED, "image", "label") and fits and numbers:
            fields.append(stem)
    taken = {f"{stem}{end}" for stem in fields for end in ends}
    return fields, [f"{key} {arrays[key].dtype} {arrays[key].shape}" for key in others if key not in taken]


def _suffixes(arrays: Mapping[str, np.ndarray], file: str, *, evaluated: bool) -> dict[str, str]:
    """Return which splits there are, and the suffixes of their arrays; one without training data can be evaluated."""
    present = {split: end for split, end in _SPLITS.items() if f"x{end}" in arrays or f"y{end}" in arrays}
    if "x" in arrays or "y" in arrays:
        if present:
            found = ", ".join(key for key in arrays if key.partition("_")[0] in ("x", "y"))
            raise DataError(
                f"{file}: found {found}; either x and y, which are divided here, or splits of their own: not both"
            )
        return {"all": ""}
    if set(present) == {"train"} and {"x_train", "y_train"} <= set(arrays):
        raise DataError(
            f"{file}: x_train and y_train without x_test or x_val; call them x and y to have validation and test "
            f"images taken from them; need {EXPECTED}"
        )
    if "train" in present and len(present) > 1:
        return present
    if evaluated and len(present) == 1:
        return {"all": next(iter(present.values()))}
    return {"train": "_train", "test": "_test", **({"val": "_val"} if "val" in present else {})}


def _require_integers(records: ArrayRecords, where: str) -> None:
    if not np.issubdtype(records.labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels are {records.labels.dtype} {records.labels.shape}, but classes are integers from 0 on"
            f"{class_hint(records.labels)}; {VALUES_HINT}"
        )


def _texts(key: str, names: np.ndarray, file: str) -> tuple[str, ...]:
    what = {"class_names": "class", "label_names": "label", "target_names": "target"}[key]
    if names.ndim != 1:
        raise DataError(f"{file}: {key} is {names.dtype} {names.shape}; need one name a {what}, of shape (K,)")
    if names.dtype.kind not in "USiu":
        raise DataError(f"{file}: {key} is {names.dtype}; need texts: np.array(['cat', 'dog'])")
    return tuple(
        name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names.tolist()
    )


def _class_names(names: np.ndarray, splits: Mapping[str, ArrayRecords], file: str) -> tuple[str, ...]:
    found = _texts("class_names", names, file)
    labels = [r.labels for r in splits.values() if np.issubdtype(r.labels.dtype, np.integer)]
    classes = max((int(y.max()) for y in labels), default=-1) + 1
    if classes > len(found):
        first = min(int(y.min()) for y in labels)
        hint = "; classes are counted from 0: use y - 1" if (first, classes) == (1, len(found) + 1) else ""
        raise DataError(
            f"{file}: class_names has {len(found)} names, but the largest label is {classes - 1}, outside "
            f"0..{len(found) - 1}; need one name for each of 0..{classes - 1}{hint}"
        )
    return found


def _notes(
    further: list[str], left_out: list[str], suffixes: Mapping[str, str], splits: Mapping[str, ArrayRecords]
) -> tuple[str, ...]:
    first = next(iter(splits.values()))
    found = [f"{name} {values.dtype} {values.shape[1:]}" for name, values in first.fields.items()]
    notes = [f"further arrays of every example: {', '.join(found)}"] if further else []
    notes += [f"arrays left out: {', '.join(left_out)}"] if left_out else []
    dim = [f"x{suffixes[split]}" for split, records in splits.items() if _is_dim(records.images)]
    if dim:
        notes.append(
            f"{', '.join(dim)} holds no value above 1 of 255: fractions 0..1 have to be multiplied by 255 first"
        )
    return tuple(notes)


def _is_dim(images: np.ndarray) -> bool:
    return images.dtype == np.uint8 and int(images.max()) <= 1


def _renaming(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the line that renames the arrays as expected; empty if it is not clear which is which."""
    pairs: dict[str, str] = {}
    for key, array in arrays.items():
        kind, split = _meaning(key)
        if kind is None:
            continue
        new = f"{kind}{'' if split is None else '_' + split}"
        if new in pairs:
            return ""
        ravel = ".ravel()" if kind == "y" and array.ndim == 2 and array.shape[1] == 1 else ""
        pairs[new] = f"f[{key!r}]{ravel}"
    if not {"x", "y"} <= set(pairs) and not {"x_train", "y_train"} <= set(pairs):
        return ""
    if set(pairs) == {"x_train", "y_train"}:
        pairs = {"x": pairs["x_train"], "y": pairs["y_train"]}
    listed = ", ".join(f"{new}={old}" for new, old in pairs.items())
    return f". Save it once under these names: f = np.load(FILE); np.savez('data.npz', {listed})"


def _meaning(key: str) -> tuple[str | None, str | None]:
    """Return ``x`` or ``y`` and the split that a name means: ``train_images``, ``X_test``, ``labels``, ``arr_0``."""
    if key in ("arr_0", "arr_1"):
        return "xy"[int(key[-1])], None
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", key).lower())
    kinds = {"x": "x", "y": "y"}
    kinds |= dict.fromkeys(("images", "image", "imgs", "img", "data", "pixels", "features", "inputs"), "x")
    kinds |= dict.fromkeys(("labels", "label", "target", "targets", "classes", "class"), "y")
    splits = {"train": "train", "training": "train", "test": "test", "testing": "test"}
    splits |= dict.fromkeys(("val", "valid", "validation"), "val")
    kind = [kinds[word] for word in words if word in kinds]
    split = [splits[word] for word in words if word in splits]
    if len(kind) + len(split) != len(words) or len(kind) != 1 or len(split) > 1:
        return None, None
    return kind[0], split[0] if split else None


def _read(file: Path) -> dict[str, np.ndarray]:
    if file.is_dir():
        raise DataError(f"{file}: this is a folder and no .npz file; for images in class folders write folder:{file}")
    if not file.exists():
        raise DataError(f"{file}: there is no such file; need an .npz with {EXPECTED}")
    found = None
    try:
        with open_file(file) as handle:
            found = identify(handle.read(HEAD_BYTES))
            handle.seek(0)
            arrays = read_either(handle)
            if isinstance(arrays, np.ndarray):
                raise ValueError(
                    f"it is one array without a name, .npy, {arrays.dtype} {arrays.shape}: put images and labels "
                    "into one file with np.savez('data.npz', x=..., y=...)"
                )
            return arrays
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: cannot read it as .npz ({_reason(found, error)}); need {EXPECTED}") from error


def _reason(found: Format | None, error: Exception) -> str:
    if isinstance(error, PickledError):
        kind = "np.array(y.tolist())" if error.array.startswith("y") else "np.stack(list(x)), if all have one size"
        if error.array == "class_names":
            kind = "np.array(class_names, dtype=str)"
        return (
            f"{error.array} holds Python objects, which are pickled, and a pickle may run code: save numbers instead, "
            f"{kind}; {error}"
        )
    if found is None or "zip" in found.name or "NumPy" in found.name:
        return str(error)
    return f"it is {found}"
