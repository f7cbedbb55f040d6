"""The picture that explains an answer: where a class is seen, the class of every pixel, or the detected boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from resnet_jax.deploy.serve.engine import ArrayTree, Engine, RunEngine


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture.

    Attributes:
        png: bytes of the file.
        caption: what it shows, for people.
        explained: the class that it explains; None: it shows all.
        colours: class -> its color ``#rrggbb``, for tasks whose pictures have one for each class.
    """

    png: bytes
    caption: str
    explained: str | None = None
    colours: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Heatmap(Protocol):
    """Draws a network's predictions for an image.

    Attributes:
        method: name of the method.
    """

    method: str

    def __call__(self, pixels: np.ndarray, row: ArrayTree, wanted: str | None, answers: Sequence[str]) -> Drawn:
        """Draw the picture.

        Args:
            pixels: the image (H, W, C) as the network takes it.
            row: the network's outputs for it.
            wanted: the requested class; None: no class was requested.
            answers: the predicted classes, most likely first.
        """
        ...


def seen(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels (H, W, 1 or 3) as a PNG; small images are enlarged, with every pixel a square."""
    from resnet_jax.report.heat import encode_png, enlarged

    return encode_png(enlarged(pixels))


class GradCam:
    """Grad-CAM of the last map (:mod:`resnet_jax.deploy.explain`).

    Args:
        engine: engine of a run.
    """

    method = "Grad-CAM"

    def __init__(self, engine: RunEngine):
        self._trained, self._classes = engine.trained, engine.classes

    def __call__(self, pixels: np.ndarray, row: ArrayTree, wanted: str | None, answers: Sequence[str]) -> Drawn:
        """Draw the map of a class over the image; see :class:`Heatmap`."""
        import jax.numpy as jnp

        from resnet_jax.data.augment import downscaled, normalize
        from resnet_jax.deploy.explain import grad_cam, upsampled
        from resnet_jax.report.heat import encode_png, overlay

        name = wanted if wanted is not None else answers[0] if answers else self._classes[0]
        card, model = self._trained.card, self._trained.model
        images = normalize(jnp.asarray(pixels[None]), card.mean, card.std, jnp.dtype(model.config.dtype))
        images = downscaled(images, card.downscale)
        index = jnp.array([self._classes.index(name)])
        heat = grad_cam(model, self._trained.variables, images, index)
        drawn = overlay(pixels, np.asarray(upsampled(heat, pixels.shape[:2])[0], np.float32))
        return Drawn(encode_png(drawn), f"where “{name}” is seen: the brighter, the more it counts (Grad-CAM)", name)


class PixelClasses:
    """The class of every pixel in its color, or the probability of one class at each pixel.

    Args:
        engine: engine for segmentation, of a run or an exported file.
    """

    method = "segmentation"

    def __init__(self, engine: Engine):
        self._engine, self._hex = engine, colours_of(engine.classes)
        self._table = np.array([_rgb(self._hex[name]) for name in engine.classes], np.float32)

    def __call__(self, pixels: np.ndarray, row: ArrayTree, wanted: str | None, answers: Sequence[str]) -> Drawn:
        """Draw them over the image; see :class:`Heatmap`."""
        from resnet_jax.report.heat import encode_png, enlarged, enlargement, overlay

        if wanted is not None:
            scores = np.asarray(self._engine.outputs_in(row), np.float64)
            shares = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
            heat = overlay(pixels, shares[..., self._engine.classes.index(wanted)])
            return Drawn(encode_png(heat), f"where “{wanted}” is likely: the brighter, the likelier", wanted, self._hex)
        found = self._engine.prediction(row, pixels.shape[:2], 1).fields["segmentation"]
        times = enlargement(pixels.shape[:2])
        tint = self._table[at_sides(found, pixels.shape[:2])].repeat(times, 0).repeat(times, 1)
        mixed = 0.45 * enlarged(pixels).astype(np.float32) + 0.55 * tint
        return Drawn(encode_png(np.rint(mixed).astype(np.uint8)), "what every pixel is taken for", None, self._hex)


class Boxes:
    """The detected boxes, in the colors of their classes.

    Args:
        engine: engine for detection, of a run.
    """

    method = "boxes"

    def __init__(self, engine: RunEngine):
        self._engine, self._hex = engine, colours_of(engine.classes)

    def __call__(self, pixels: np.ndarray, row: ArrayTree, wanted: str | None, answers: Sequence[str]) -> Drawn:
        """Draw the boxes, only those of one class if one is requested; see :class:`Heatmap`."""
        import cv2

        from resnet_jax.report.heat import encode_png, enlarged, enlargement

        shown = np.ascontiguousarray(enlarged(pixels))
        times, count = enlargement(pixels.shape[:2]), 0
        for label, box in self._engine.boxes_in(row):
            name = self._engine.classes[label]
            if wanted in (None, name):
                top, left, bottom, right = (round(times * side) for side in box)
                count += 1
                width = max(2, min(shown.shape[:2]) // 160)
                cv2.rectangle(shown, (left, top), (right, bottom), _rgb(self._hex[name]), width)
        what = "no box" if not count else f"{count} box{'' if count == 1 else 'es'}"
        what += "" if wanted is None else f" of “{wanted}”"
        return Drawn(encode_png(shown), what, wanted, self._hex)


def colours_of(classes: Sequence[str]) -> dict[str, str]:
    """Return the color of every class, the same as elsewhere (:func:`.colour_of`), as ``#rrggbb``."""
    from matplotlib.colors import to_hex

    from resnet_jax.report.example_axes import colour_of

    return {name: to_hex(colour_of(number)) for number, name in enumerate(classes)}


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def at_sides(classes: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Return classes of pixels (h, w) at other sides: those of the nearest pixel."""
    rows, columns = (
        np.minimum((2 * np.arange(side) + 1) * have // (2 * side), have - 1)
        for have, side in zip(classes.shape, sides, strict=True)
    )
    return classes[rows][:, columns]


def heatmap_of(engine: Engine) -> Heatmap | None:
    """Return what draws for an engine; None if nothing does: values, several tasks, a classifier in a file."""
    if engine.dtype != "uint8" or engine.shape[-1] not in (1, 3):
        return None
    match engine.task:
        case "segmentation":
            return PixelClasses(engine)
        case "classification" if isinstance(engine, RunEngine):
            return GradCam(engine)
        case "detection" if isinstance(engine, RunEngine):
            return Boxes(engine)
        case _:
            return None
