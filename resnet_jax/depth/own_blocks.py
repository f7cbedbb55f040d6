"""Hooks for your own Linen blocks, and the names of their parts."""

from resnet_jax.instrument.hooks import BlockNames, Identity, instrumented
from resnet_jax.models.collections import BLOCK_AXES

__all__ = ["BLOCK_AXES", "BlockNames", "Identity", "instrumented"]
