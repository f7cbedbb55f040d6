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


SMALLEST = 224
"""Pixels of the longer side of a picture, at least: small images are enlarged by whole numbers."""


def png(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels (H, W, 1 or 3) as a PNG; small ones enlarged, every pixel a square."""
    import cv2

    factor = max(1, -(-SMALLEST // max(pixels.shape[:2])))
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    done, data = cv2.imencode(".png", large[..., ::-1] if large.shape[-1] == 3 else large)
    if not done:
        raise ValueError(f"an image {pixels.shape} that is no PNG")
    return data.tobytes()


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image with a map over it: where that is 0 the image in grey, where it is 1 in warm colours.

    Args:
        pixels: uint8 (H, W, 1 or 3).
        heat: (h, w), 0 to 1; stretched over the image.

    Returns:
        uint8 (H, W, 3) or larger.
    """
    import cv2
    import matplotlib as mpl

    factor = max(1, -(-SMALLEST // max(pixels.shape[:2])))
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    grey = large.astype(np.float32).mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    smooth = np.clip(cv2.resize(heat.astype(np.float32), large.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = np.asarray(mpl.colormaps["inferno"](smooth))[..., :3].astype(np.float32) * 255
    share = 0.15 + 0.6 * smooth[..., None]
    return np.clip(grey * (1 - share) + colours * share, 0, 255).astype(np.uint8)


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
        from resnet_jax.deploy.explain import grad_cam

        trained = self._trained
        card, model = trained.card, trained.model
        images = normalize(jnp.asarray(pixels[None]), card.mean, card.std, jnp.dtype(model.config.dtype))
        images = downscaled(images, card.downscale)
        (heat,) = np.asarray(grad_cam(model, trained.variables, images, jnp.array([index])), np.float32)
        return png(overlay(pixels, heat / max(float(heat.max()), 1e-12)))


def heatmap_of(engine: Engine) -> Heatmap | None:
    """Return what draws for an engine; None if nothing does: an exported file, or outputs that are no classes."""
    if not isinstance(engine, RunEngine) or engine.trained.task.kind != "classification":
        return None
    if engine.trained.card.image_dtype != "uint8" or engine.shape[-1] not in (1, 3):
        return None
    return GradCam(engine)
