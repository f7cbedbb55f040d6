"""Requirements on arrays of images and labels; error messages contain the NumPy expression that fixes other arrays.

In the expressions ``x`` stands for the images and ``y`` for the labels.
"""

from __future__ import annotations

import math

import numpy as np

from resnet_jax.data.example import Meaning
from resnet_jax.errors import DataError

SHAPES = "need (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
ROWS = "; rows of pixels: use x.reshape(-1, height, width, channels)"
MOST_CHANNELS = 16
"""Size up to which a last axis counts as channels if only the shape decides."""
VALUES_HINT = (
    "values to predict are a Dataset of kind 'value' (in an .npz, an array target_names says so), and several labels "
    "an example rows of zeros and ones (label_names)"
)
SAMPLE = 4_000_000
"""Number of values that are examined to determine a range."""


def checked_images(images: np.ndarray, name: str, meaning: Meaning | None = None) -> np.ndarray:
    """Return inputs with a channel axis: images (N, H, W, C), signals (N, L, C) or volumes (N, D, H, W, C).

    uint8 is kept, as are other integers of up to 32 bits, float16 and float32. float64 becomes float32, and wider
    integers become int32, which must be able to hold them.

    Args:
        images: the given array.
        name: its name in messages.
        meaning: what the inputs are if the shape alone does not determine it. None: rank and channels decide, and
            ambiguous shapes are rejected.

    Raises:
        DataError: if they are invalid; the message says what was found and what is expected.
    """
    found = f"{name}: images are {images.dtype} {images.shape}"
    if images.dtype != np.uint8:
        images = _numbers(images, found)
    if meaning is not None:
        images = _declared(images, meaning, found)
    elif images.dtype == np.uint8 and images.ndim <= 4:
        if images.ndim == 3:
            images = images[..., None]
        many = images.ndim == 4 and _is_bands(images.shape)
        if not many and (images.ndim != 4 or images.shape[-1] not in (1, 3)):
            raise DataError(f"{found}; {SHAPES}{_shape_hint(images)}")
    else:
        images = _undeclared(images, found)
    if 0 in images.shape:
        raise DataError(f"{found}; there is nothing in it")
    return images


def _numbers(images: np.ndarray, found: str) -> np.ndarray:
    """Return finite numbers in a dtype that devices support."""
    if images.dtype.kind not in "iuf" or (images.dtype == np.int8 and images.size and images.min() < 0):
        raise DataError(f"{found}; need numbers, such as uint8 pixels 0..255{_to_uint8(images)}{_shape_hint(images)}")
    if images.dtype.kind == "f":
        if not np.isfinite(images).all():
            raise DataError(f"{found}; need finite numbers{_to_uint8(images)}")
        return images.astype(np.float32) if images.dtype.itemsize > 4 else images
    limits = np.iinfo(np.int32)
    if images.dtype.itemsize < 4 or images.dtype == np.int32 or not images.size:
        return images
    if images.min() < limits.min or images.max() > limits.max:
        raise DataError(f"{found} with values {images.min()}..{images.max()}, which int32 does not hold: scale them")
    return images.astype(np.int32)


_AXES: dict[str, tuple[int, str]] = {
    "signal": (3, "(N, L) or (N, L, C)"),
    "image": (4, "(N, H, W) or (N, H, W, C)"),
    "volume": (5, "(N, D, H, W) or (N, D, H, W, C)"),
}


def _declared(images: np.ndarray, meaning: str, found: str) -> np.ndarray:
    if meaning not in _AXES:
        raise DataError(f"{found}: they cannot be {meaning!r}; meaning is one of {', '.join(_AXES)}")
    axes, shapes = _AXES[meaning]
    if images.ndim not in (axes - 1, axes):
        raise DataError(f"{found}; {meaning}s are {shapes}")
    return images[..., None] if images.ndim == axes - 1 else images


def _is_bands(shape: tuple[int, ...]) -> bool:
    """Return whether (N, H, W, C) with more than four channels can only be a multi-band image, channels last."""
    _, height, width, channels = shape
    return 4 < channels < min(height, width)


def _undeclared(images: np.ndarray, found: str) -> np.ndarray:
    """Return inputs of any dtype with a channel axis, or reject an ambiguous shape."""
    shape = images.shape
    said = f"{found}; their shape could be read in two ways"
    if images.ndim == 2:
        if _shape_hint(images) == ROWS and shape[1]:
            return images[..., None]
        raise DataError(f"{said}{_shape_hint(images)}; signals of one channel are x[..., None]")
    if images.ndim == 3:
        _, first, last = shape
        if first <= MOST_CHANNELS and last >= 4 * first:
            raise DataError(f"{said}; signals have their channels last: x.transpose(0, 2, 1); images: x[..., None]")
        return images if last <= MOST_CHANNELS and first >= 4 * last else images[..., None]
    if images.ndim == 4:
        channels_first = shape[1] in (1, 3) or shape[2] in (1, 3)
        if shape[-1] in (1, 3) or _is_bands(shape) or (shape[-1] in (2, 4) and not channels_first):
            return images
        raise DataError(f"{said}{_shape_hint(images)}")
    if images.ndim == 5:
        if shape[-1] <= MOST_CHANNELS and not (shape[1] <= 4 and shape[-1] > 4):
            return images
        hint = "; this looks like (N, C, D, H, W): use x.transpose(0, 2, 3, 4, 1)" if shape[1] <= 4 else ""
        raise DataError(f"{found}; volumes are (N, D, H, W, C) of up to {MOST_CHANNELS} channels{hint}")
    raise DataError(f"{found}; need signals (N, L, C), images (N, H, W, C) or volumes (N, D, H, W, C)")


def _to_uint8(images: np.ndarray) -> str:
    """Return advice on how to convert these values to uint8, or why that is impossible."""
    if images.dtype == object:
        shapes = {np.shape(image) for image in images[:1000]}
        if len(shapes) > 1:
            return "; these are Python objects of different shapes: bring all images to one size, or save them as files"
        return "; these are Python objects: np.stack(list(x)) makes one array of them"
    if images.dtype.kind in "SU":
        return "; these are texts: read the files they name, or use folder:PATH"
    if images.dtype == bool:
        return "; use x.astype(np.uint8) * 255"
    if images.dtype.kind not in "iuf" or images.size == 0:
        return ""
    flat = images.reshape(-1)
    values = flat[:: max(1, flat.size // SAMPLE)]
    if images.dtype.kind == "f":
        broken = int(np.size(images) - np.isfinite(images).sum())
        if broken:
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(images))[0])
            return (
                f"; {broken:,} of these values are NaN or infinite, the first at {where}: fix or leave out those images"
            )
    if images.dtype == np.int8 and values.min() < 0:
        return "; int8 ends at 127: if pixels 0..255 were turned into it, x.view(np.uint8) gets them back"
    low, high = float(values.min()), float(values.max())
    spans = f"; the values are {low:g} to {high:g}: "
    if low < 0:
        if low >= -1 and high <= 1 and images.dtype.kind == "f":
            return spans + "if -1..1 is black to white, use ((x + 1) * 127.5).round().astype(np.uint8)"
        return spans + "they look normalized; save the pixels from before the normalization"
    if images.dtype.kind == "f" and high <= 1:
        return spans + "use (x * 255).round().astype(np.uint8)"
    if high <= 255:
        return spans + ("use x.round().astype(np.uint8)" if images.dtype.kind == "f" else "use x.astype(np.uint8)")
    if images.dtype == np.uint16:
        if high < 32768:
            bits = math.ceil(math.log2(high + 1))
            return spans + f"use (x >> {bits - 8}).astype(np.uint8), if these are {bits}-bit values"
        return spans + "use (x >> 8).astype(np.uint8)"
    return spans + f"use (x * (255 / {high:g})).round().astype(np.uint8), if {high:g} is white"


def _shape_hint(images: np.ndarray) -> str:
    """Return what this shape may be and the expression that fixes it."""
    shape = images.shape
    if images.ndim == 4 and shape[-1] not in (1, 3):
        if shape[1] in (1, 3):
            return "; this looks like (N, C, H, W): use x.transpose(0, 2, 3, 1)"
        if shape[-1] == 4:
            return "; use x[..., :3], which drops the fourth channel (alpha); four bands: meaning='image'"
        if shape[1] == 4:
            return "; this looks like (N, C, H, W) with alpha: use x[:, :3].transpose(0, 2, 3, 1)"
        if shape[-1] == 2:
            return "; use x[..., :1], which drops the second channel (alpha)"
        if shape[2] in (1, 3):
            return "; this looks like (H, W, C, N): use x.transpose(3, 0, 1, 2)"
        if shape[1] == shape[2] == shape[3]:
            return (
                "; this may be grey volumes (N, D, H, W) or images of many bands: say meaning='volume' or 'image' "
                "beside them, or give volumes their channel, x[..., None]"
            )
        return (
            f"; if these are images of {shape[-1]} bands, say meaning='image' beside them; or choose 1 or 3 of them, "
            "for example x[..., [0, 1, 2]]"
        )
    if images.ndim == 2:
        for channels, tail in (
            (1, ""),
            (3, " or, channels first, x.reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1)"),
        ):
            side = math.isqrt(shape[1] // channels)
            if side > 1 and side * side * channels == shape[1]:
                last = "" if channels == 1 else f", {channels}"
                return f"; rows of pixels: use x.reshape(-1, {side}, {side}{last}){tail.format(side=side)}"
        return ROWS
    return ""


def on_devices(values: np.ndarray) -> np.ndarray:
    """Return numbers in a dtype that devices have by default: 64 bits become 32 if the values fit.

    Raises:
        DataError: for integers that do not fit int32.
    """
    if values.dtype == np.float64:
        return values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.dtype != np.int32:
        limits = np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise DataError(f"values {values.min()}..{values.max()} of {values.dtype} do not fit int32")
        return values.astype(np.int32)
    return values


def checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    """Return labels as int32 (N,), or float labels (N, ...) as float32 for regression.

    Args:
        labels: the given labels.
        count: the number of images.
        name: their name in messages.

    Raises:
        DataError: if they are invalid; the message says what was found and what is expected.
    """
    found = f"{name}: labels are {labels.dtype} {labels.shape}"
    if labels.ndim == 0 or len(labels) != count:
        raise DataError(f"{found} for {count} images; need one label an image, in the same order")
    if np.issubdtype(labels.dtype, np.floating):
        broken = np.flatnonzero(~np.isfinite(labels.reshape(count, -1)).all(axis=1))
        if len(broken):
            raise DataError(
                f"{found}; {len(broken):,} of them are NaN or infinite, the first at index {broken[0]}: leave out "
                "those images"
            )
        return labels.astype(np.float32)
    rows = labels.dtype.kind in "iub" and labels.ndim == 2 and labels.shape[1] > 1
    if rows and np.isin(labels, (0, 1)).all() and not (labels.sum(axis=1) == 1).all():  # several labels an example
        return labels.astype(np.float32)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(f"{found}; need integers of shape (N,){class_hint(labels)}")
    limits = np.iinfo(np.int32)
    if labels.min() < limits.min or labels.max() > limits.max:
        raise DataError(f"{found} with values {labels.min()}..{labels.max()}; class indices must fit int32")
    return labels.astype(np.int32)


def class_hint(labels: np.ndarray) -> str:
    """Return the expression that turns labels into class indices; empty if none is known."""
    count = len(labels)
    if labels.dtype.kind in "SUO":
        text = "y.astype(str)" if labels.dtype.kind != "U" else "y"
        return (
            f"; text is turned into numbers by class_names, y = np.unique({text}, return_inverse=True), and both are "
            "saved: np.savez('data.npz', x=x, y=y, class_names=class_names)"
        )
    if labels.dtype == bool and labels.ndim == 1:
        return "; use y.astype(np.int64)"
    if labels.dtype.kind not in "iufb":
        return ""
    if labels.ndim == 2 and labels.shape[1] > 1:
        ones = bool(np.isin(labels, (0, 1)).all())
        if ones and bool((labels.sum(axis=1) == 1).all()):
            return "; these are one-hot rows: use y.argmax(axis=1)"
        return ""
    whole = labels.dtype.kind != "f" or bool((labels == np.round(labels)).all())
    if labels.size != count or not whole:
        return ""
    ravel = ".ravel()" if labels.ndim > 1 else ""
    return f"; use y{ravel}{'.astype(np.int64)' if labels.dtype.kind in 'fb' else ''}"
