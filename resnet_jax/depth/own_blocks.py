"""What a user's own Linen blocks need to be looked at: how to name their parts, and hooks to place in them."""

from resnet_jax.models.instrument import BLOCK_AXES, Anatomy, Identity, instrumented

__all__ = ["BLOCK_AXES", "Anatomy", "Identity", "instrumented"]
