"""Pure array functions with no Linen in them: the ground floor."""

from resnet_jax.ops.conv import conv
from resnet_jax.ops.dtypes import at_least_float32
from resnet_jax.ops.pool import global_mean_pool, max_pool
from resnet_jax.ops.shortcut import subsample_and_pad

__all__ = ["at_least_float32", "conv", "global_mean_pool", "max_pool", "subsample_and_pad"]
