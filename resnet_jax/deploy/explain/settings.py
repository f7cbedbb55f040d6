"""Options of explanations, read without JAX; `methods` acts on them."""

from __future__ import annotations

import dataclasses

from resnet_jax.fields import AtLeast1, NotNegative, Positive

#: Names of the methods, in the order of a report (:data:`resnet_jax.deploy.explain.methods.METHODS` has each).
NAMES = ("grad_cam", "grad_cam_plus_plus", "integrated_gradients", "smooth_grad", "occlusion")
#: The map that is pooled: what :meth:`resnet_jax.models.ResNet.features` calls so.
FINAL = "final"
#: Of integrated gradients: parts of the way, the most of them, and how close the sum has to come to the change.
STEPS, MOST_STEPS = 64, 1024
TOLERANCE = 0.01
#: Noisy copies of SmoothGrad, and their noise as a share of the range of values.
SAMPLES, NOISE = 32, 0.15


@dataclasses.dataclass(frozen=True)
class Settings:
    """How maps are computed."""

    layer: str = FINAL
    """Whose map Grad-CAM and Grad-CAM++ look at: stem, stage1, ..., or final, what is pooled."""
    steps: AtLeast1 = STEPS
    """Parts of the way from baseline to image of integrated gradients: at first, see tolerance."""
    tolerance: NotNegative = TOLERANCE
    """Integrated gradients: the steps of an image are doubled until the sum of its map is so close to the change of the
    score, as a share of it (0: they are not doubled)."""
    most_steps: AtLeast1 = MOST_STEPS
    """The most steps, within the tolerance or not."""
    samples: AtLeast1 = SAMPLES
    """Noisy copies of an image of SmoothGrad."""
    noise: Positive = NOISE
    """Their standard deviation, as a share of the range of the image's values."""
    window: int | None = None
    """Side of the window of occlusion in pixels (default: a quarter of the sides); it moves by half of it."""
    seed: int = 0
    """Of noise, random orders and randomized weights."""
