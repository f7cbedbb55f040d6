"""What a user's own Linen blocks need to be looked at: how to name their parts, and hooks to place in them."""

from resnet_jax.instrument.hooks import Anatomy, Identity, instrumented
from resnet_jax.models.collections import BLOCK_AXES

__all__ = ["BLOCK_AXES", "Anatomy", "Identity", "instrumented"]
