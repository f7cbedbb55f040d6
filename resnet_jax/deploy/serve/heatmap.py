"""Where in an image a class is seen, as a picture: the one place that knows who computes it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from resnet_jax.deploy.serve.engine import Engine, RunEngine


class Heatmap(Protocol):
    """Draws a map over an image.

    Attributes:
        method: its name.
    """

    method: str

    def __call__(self, pixels: np.ndarray, index: int) -> bytes:
        """Return a PNG of an image (H, W, C) as the network takes it, with the map of class ``index`` over it."""
        ...


def seen(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels (H, W, 1 or 3) as a PNG; small ones enlarged, every pixel a square."""
    from resnet_jax.report.heat import encode_png, enlarged

    return encode_png(enlarged(pixels))


class GradCam:
    """Grad-CAM of the last map (:mod:`resnet_jax.deploy.explain`).

    Args:
        engine: of a run.
    """

    method = "Grad-CAM"

    def __init__(self, engine: RunEngine):
        self._trained = engine.trained

    def __call__(self, pixels: np.ndarray, index: int) -> bytes:
        """Return a PNG; see :class:`Heatmap`."""
        import jax.numpy as jnp

        from resnet_jax.data.augment import downscaled, normalize
        from resnet_jax.deploy.explain import grad_cam, upsampled
        from resnet_jax.report.heat import encode_png, overlay

        card, model = self._trained.card, self._trained.model
        images = normalize(jnp.asarray(pixels[None]), card.mean, card.std, jnp.dtype(model.config.dtype))
        images = downscaled(images, card.downscale)
        heat = grad_cam(model, self._trained.variables, images, jnp.array([index]))
        return encode_png(overlay(pixels, np.asarray(upsampled(heat, pixels.shape[:2])[0], np.float32)))


def heatmap_of(engine: Engine) -> Heatmap | None:
    """Return what draws for an engine; None if nothing does: an exported file, or outputs that are no classes."""
    if not isinstance(engine, RunEngine) or engine.trained.task.kind != "classification":
        return None
    if engine.trained.card.image_dtype != "uint8" or engine.shape[-1] not in (1, 3):
        return None
    return GradCam(engine)
