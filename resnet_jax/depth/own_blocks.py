"""Hooks for a user's own Linen blocks, and how their parts are named."""

from resnet_jax.instrument.hooks import BlockNames, Identity, instrumented
from resnet_jax.models.collections import BLOCK_AXES

__all__ = ["BLOCK_AXES", "BlockNames", "Identity", "instrumented"]
