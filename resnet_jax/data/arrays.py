"""What arrays of images and labels have to be; what is said of others names the NumPy expression that mends them.

In the expressions ``x`` stands for the images and ``y`` for the labels.
"""

from __future__ import annotations

import math

import numpy as np

from resnet_jax.errors import DataError

SHAPES = "need (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
SAMPLE = 4_000_000
"""Values looked at to tell a range."""


def checked_images(images: np.ndarray, name: str) -> np.ndarray:
    """Return ``images`` if they are uint8 (N, H, W, C) of 1 or 3 channels, and some.

    Args:
        images: what was given, (N, H, W) of uint8 brought to four axes already.
        name: what messages call them.

    Raises:
        DataError: it says what was found and what would be right.
    """
    found = f"{name}: images are {images.dtype} {images.shape}"
    if images.dtype != np.uint8:
        raise DataError(
            f"{found}; need uint8 pixels 0..255 (normalization is part of training, not of the data)"
            f"{_to_uint8(images)}{_shape_hint(images)}"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"{found}; {SHAPES}{_shape_hint(images)}")
    if 0 in images.shape:
        raise DataError(f"{found}; there is nothing in it")
    return images


def _to_uint8(images: np.ndarray) -> str:
    """Return the advice that turns these values into uint8, or says why nothing can."""
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
                f"; {broken:,} of these values are NaN or infinite, the first at {where}: mend or leave out those "
                "images"
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
    """Return what this shape may be and the expression that mends it."""
    shape = images.shape
    if images.ndim == 4 and shape[-1] not in (1, 3):
        if shape[1] in (1, 3):
            return "; this looks like (N, C, H, W): use x.transpose(0, 2, 3, 1)"
        if shape[-1] == 4:
            return "; use x[..., :3], which drops the fourth channel (alpha)"
        if shape[1] == 4:
            return "; this looks like (N, C, H, W) with alpha: use x[:, :3].transpose(0, 2, 3, 1)"
        if shape[-1] == 2:
            return "; use x[..., :1], which drops the second channel (alpha)"
        if shape[2] in (1, 3):
            return "; this looks like (H, W, C, N): use x.transpose(3, 0, 1, 2)"
        if shape[1] == shape[2] == shape[3]:
            return (
                "; this looks like grey volumes (N, D, H, W), and only flat images are trained on: choose slices "
                "of them"
            )
        return f"; {shape[-1]} channels are not read: choose 1 or 3 of them, for example x[..., [0, 1, 2]]"
    if images.ndim == 2:
        for channels, tail in (
            (1, ""),
            (3, " or, channels first, x.reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1)"),
        ):
            side = math.isqrt(shape[1] // channels)
            if side > 1 and side * side * channels == shape[1]:
                last = "" if channels == 1 else f", {channels}"
                return f"; rows of pixels: use x.reshape(-1, {side}, {side}{last}){tail.format(side=side)}"
        return "; rows of pixels: use x.reshape(-1, height, width, channels)"
    if images.ndim == 5:
        return "; volumes or videos are not read, only flat images: choose slices or frames of them"
    return ""


def checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    """Return labels as int32 (N,), or float labels (N, ...) as float32 for regression.

    Args:
        labels: what was given.
        count: the number of images.
        name: what messages call them.

    Raises:
        DataError: it says what was found and what would be right.
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
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(f"{found}; need integers of shape (N,){class_hint(labels)}")
    limits = np.iinfo(np.int32)
    if labels.min() < limits.min or labels.max() > limits.max:
        raise DataError(f"{found} with values {labels.min()}..{labels.max()}; class indices must fit int32")
    return labels.astype(np.int32)


def class_hint(labels: np.ndarray) -> str:
    """Return the expression that makes class indices of labels; empty if none is known."""
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
        if ones:
            return "; rows of several ones are several labels an image: only one label an image is trained on"
        return ""
    whole = labels.dtype.kind != "f" or bool((labels == np.round(labels)).all())
    if labels.size != count or not whole:
        return ""
    ravel = ".ravel()" if labels.ndim > 1 else ""
    return f"; use y{ravel}{'.astype(np.int64)' if labels.dtype.kind in 'fb' else ''}"
