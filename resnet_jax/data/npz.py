"""``npz:PATH``: arrays in one NumPy file.

Either ``x`` and ``y`` (one split, ``all``), or ``x_train``, ``y_train`` with ``x_test``, ``y_test`` or ``x_val``,
``y_val`` or both. Images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3); labels are integers 0..K-1. A text array
``class_names`` may name the classes; otherwise they are "0" .. "K-1" with K from the largest label of all splits.
Other arrays are left out, and the data set's notes say so.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnet_jax.data.arrays import class_hint
from resnet_jax.data.decode import to_channels
from resnet_jax.data.formats import HEAD_BYTES, Format, identify
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.errors import DataError

EXPECTED = "x and y, or x_train, y_train, x_test, y_test (and x_val, y_val); class_names may be added"
_SPLITS = {"train": "_train", "val": "_val", "test": "_test"}


def load_npz(path: str, channels: int | None = None, least_classes: int = 2) -> Dataset:
    """Read the arrays of the file into memory; see the module for what it may hold.

    Raises:
        DataError: not there, not an .npz file, holding Python objects, or other arrays than expected.
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    suffixes = _suffixes(arrays, file)
    splits, greyed = {}, []
    for split, suffix in suffixes.items():
        for key in (f"x{suffix}", f"y{suffix}"):
            if key not in arrays:
                raise DataError(
                    f"{file}: no array {key!r}; found {', '.join(arrays) or 'none'}; need {EXPECTED}{_renaming(arrays)}"
                )
        images = arrays[f"x{suffix}"]
        records = ArrayRecords(images, arrays[f"y{suffix}"], name=f"x{suffix} and y{suffix} of {file}")
        if channels is not None:
            greyed += [f"x{suffix}"] if channels < records.images.shape[-1] else []
            records = ArrayRecords(to_channels(records.images, channels), records.labels, name=records.name)
        splits[split] = records
    if "class_names" in arrays:
        class_names = _class_names(arrays["class_names"], splits, file)
    else:
        for split, records in splits.items():
            _require_integers(records, f"y{suffixes[split]} of {file}")
        class_names = tuple(str(c) for c in range(max(int(r.labels.max()) for r in splits.values()) + 1))
    notes = _notes(arrays, suffixes, splits)
    if greyed:
        notes = (*notes, f"{', '.join(greyed)} is RGB, turned to grey: the network takes 1 channel")
    origins = {} if "all" in suffixes else {split: f"x{suffix}" for split, suffix in suffixes.items()}
    return Dataset(f"npz:{path}", splits, class_names, notes, origins, least_classes)


def _suffixes(arrays: Mapping[str, np.ndarray], file: Path) -> dict[str, str]:
    """Return which splits there are, and how their arrays end."""
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
    return {"train": "_train", "test": "_test", **({"val": "_val"} if "val" in present else {})}


def _require_integers(records: ArrayRecords, where: str) -> None:
    if not np.issubdtype(records.labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels are {records.labels.dtype} {records.labels.shape}, but classes are integers from 0 on"
            f"{class_hint(records.labels)}; for regression use the Python API: ArrayRecords(images, labels) and "
            "batches of it"
        )


def _class_names(names: np.ndarray, splits: Mapping[str, ArrayRecords], file: Path) -> tuple[str, ...]:
    if names.ndim != 1:
        raise DataError(f"{file}: class_names is {names.dtype} {names.shape}; need one name a class, of shape (K,)")
    if names.dtype.kind not in "USiu":
        raise DataError(f"{file}: class_names is {names.dtype}; need texts: np.array(['cat', 'dog'])")
    found = tuple(
        name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names.tolist()
    )
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
    arrays: Mapping[str, np.ndarray], suffixes: Mapping[str, str], splits: Mapping[str, ArrayRecords]
) -> tuple[str, ...]:
    used = {"class_names", *(f"{key}{suffix}" for key in "xy" for suffix in suffixes.values())}
    left_out = [f"{key} {value.dtype} {value.shape}" for key, value in arrays.items() if key not in used]
    notes = [f"arrays left out: {', '.join(left_out)}"] if left_out else []
    dim = [f"x{suffixes[split]}" for split, records in splits.items() if records.images.max() <= 1]
    if dim:
        notes.append(
            f"{', '.join(dim)} holds no value above 1 of 255: fractions 0..1 have to be multiplied by 255 first"
        )
    return tuple(notes)


def _renaming(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the line that gives the arrays the names that are expected; empty if it is not clear which is which."""
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
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; need an .npz with {EXPECTED}")
    found = None
    try:
        with file.open("rb") as handle:
            found = identify(handle.read(HEAD_BYTES))
            handle.seek(0)
            archive = np.load(handle, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError(
                    f"it is one array without a name, .npy, {archive.dtype} {archive.shape}: put images and labels "
                    "into one file with np.savez('data.npz', x=..., y=...)"
                )
            return {key: _array(archive, key) for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: cannot read it as .npz ({_reason(found, error)}); need {EXPECTED}") from error


def _reason(found: Format | None, error: Exception) -> str:
    if found is None or "zip" in found.name or "NumPy" in found.name:
        return str(error)
    return f"it is {found}"


def _array(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        kind = "np.array(y.tolist())" if key.startswith("y") else "np.stack(list(x)), if all have one size"
        if key == "class_names":
            kind = "np.array(class_names, dtype=str)"
        raise ValueError(
            f"{key} holds Python objects, which are pickled, and a pickle may run code: save numbers instead, {kind}; "
            f"{error}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{key!r} is no array, so this is an ordinary zip archive: unpack it, then folder:PATH")
    return array
