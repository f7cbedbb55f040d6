"""Options of explanations, readable without JAX; `methods` applies them."""

from __future__ import annotations

import dataclasses

from resnet_jax.fields import AtLeast1, NotNegative, Positive

#: Names of the methods, in the order of a report (:data:`resnet_jax.deploy.explain.methods.METHODS` has each).
NAMES = ("grad_cam", "grad_cam_plus_plus", "integrated_gradients", "smooth_grad", "occlusion")
#: The map that is pooled, under its name in :meth:`resnet_jax.models.ResNet.features`.
FINAL = "final"
#: For integrated gradients: initial steps, maximum steps, and the tolerance between the sum and the change of the
#: score.
STEPS, MOST_STEPS = 64, 1024
TOLERANCE = 0.01
#: For SmoothGrad: noisy copies, and their noise as a fraction of the range of values.
SAMPLES, NOISE = 32, 0.15


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to compute the maps."""

    layer: str = FINAL
    """Layer for Grad-CAM and Grad-CAM++: stem, stage1, ..., or final (the map that is pooled)."""
    steps: AtLeast1 = STEPS
    """Initial number of steps from baseline to image, for integrated gradients; see tolerance."""
    tolerance: NotNegative = TOLERANCE
    """Tolerance for integrated gradients: the steps of an image are doubled until the sum of its map is within this
    fraction of the change of the score. 0: never double them."""
    most_steps: AtLeast1 = MOST_STEPS
    """Maximum number of steps, even if the tolerance is not reached."""
    samples: AtLeast1 = SAMPLES
    """Number of noisy copies of an image, for SmoothGrad."""
    noise: Positive = NOISE
    """Standard deviation of the noise for SmoothGrad, as a fraction of the range of the image's values."""
    window: int | None = None
    """Side of the occlusion window in pixels; it moves by half of its side. None: a quarter of the image's sides."""
    seed: int = 0
    """Seed of noise, random orders and randomized weights."""
